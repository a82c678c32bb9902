"""Claims hold among processes, and end with them."""

import signal
import subprocess
import sys
import threading
import time

from consisid_pack.consisid_core.training.claims import claimed
from helpers import ROOT

HOLD = """
import sys
from pathlib import Path
from consisid_core.training.claims import claimed
with claimed(Path(sys.argv[1])) as granted:
    print(granted, flush=True)
    sys.stdin.read()
"""


def test_a_claim_is_granted_once_and_ends(tmp_path):
    file = tmp_path / "locks/a"
    with claimed(file) as first, claimed(file) as second, claimed(tmp_path / "locks/b") as other:
        assert (first, second, other) == (True, False, True)
    assert not file.exists()
    with claimed(file) as again:
        assert again


def test_a_killed_process_loses_its_claim(tmp_path):
    file = tmp_path / "a"
    command = [sys.executable, "-c", HOLD, str(file)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline().strip() == "True"
        with claimed(file) as granted:
            assert not granted
        holder.send_signal(signal.SIGKILL)
        with claimed(file, wait=True) as granted:
            assert granted


def test_only_one_holds_at_a_time(tmp_path):
    """Files that are removed and made again at once do not let two in."""
    inside, most = [], []

    def work():
        for _ in range(30):
            with claimed(tmp_path / "a", wait=True):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 120 and max(most) == 1
