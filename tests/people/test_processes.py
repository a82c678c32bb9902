import os
import subprocess
import sys

from helpers import ROOT

PARENT = """
import multiprocessing, sys, time
from consisid_core.people.processes import follow_parent

def work():
    follow_parent()
    print("drawing", flush=True)
    time.sleep(600)

if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=work)
    child.start()
    child.join()
"""


def test_a_killed_parent_leaves_nobody_behind(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout.readline() == "drawing\n"
        parent.kill()
        assert parent.stdout.read() == ""  # The pipe closes when nobody holds it any more.
