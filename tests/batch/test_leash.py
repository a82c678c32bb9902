import subprocess
import sys
import time

import psutil
import pytest
from helpers import ROOT

LEASH = ROOT / "consisid_core" / "batch" / "leash.py"
LIVE = "import time; print('up', flush=True); time.sleep(600)"


def leashed(program):
    command = [sys.executable, LEASH, sys.executable, "-c", program]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_the_code_of_the_command_comes_back():
    with leashed("raise SystemExit(7)") as process:
        assert process.wait(60) == 7


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such signal")
def test_the_command_ends_with_the_leash():
    with leashed(LIVE) as process:
        assert process.stdout.readline() == b"up\n"
        (child,) = psutil.Process(process.pid).children()
        process.kill()
        ended(child)


def ended(*processes):
    """Wait until all have ended."""
    end = time.monotonic() + 60
    while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes):
        assert time.monotonic() < end, "the command lives on"
        time.sleep(0.1)


@pytest.mark.parametrize("how", ["closed", "killed"])
def test_the_command_ends_with_its_parent(how):
    parent = [sys.executable, "-c", f"import subprocess, sys, time; subprocess.Popen([sys.executable, {str(LEASH)!r}, "
              f"sys.executable, '-c', {LIVE!r}], stdin=subprocess.PIPE); time.sleep(600)"]  # fmt: skip
    process = subprocess.Popen(parent, stdout=subprocess.PIPE) if how == "killed" else leashed(LIVE)
    with process:
        assert process.stdout.readline() == b"up\n"
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.kill() if how == "killed" else process.stdin.close()
        ended(*children)
