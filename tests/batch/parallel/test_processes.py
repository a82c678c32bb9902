"""How a process ends for the sake of others; what it says to them is tested with sequence and rows."""

import os
import signal
import threading
import time

import pytest
import torch.distributed as dist
from consisid_pack.consisid_core.batch.parallel import processes
from consisid_pack.consisid_core.batch.parallel.processes import is_lost_connection, sure_to_end


def test_a_process_that_is_told_to_end_says_so(capsys):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, sure_to_end(1, 4):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    assert ended.value.code == 1 and signal.getsignal(signal.SIGTERM) is before
    assert "process 1 of 4 stops, because another process of this run has ended" in capsys.readouterr().err


def test_a_process_with_an_error_of_its_own_says_no_more(capsys):
    with sure_to_end(1, 4) as ending:
        ending()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
    assert not capsys.readouterr().err


def test_a_process_that_waits_in_a_library_is_ended(monkeypatch, capsys):
    """The main thread goes on only after the process would have been ended."""
    codes, waits = [], threading.Event()
    monkeypatch.setattr(processes, "GRACE", 0.2)
    monkeypatch.setattr(processes.os, "_exit", lambda code: (codes.append(code), waits.set()))
    with pytest.raises(SystemExit), sure_to_end(0, 2):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        finally:
            assert waits.wait(10)
    assert codes == [1] and "process 0 of 2 stops" in capsys.readouterr().err


def test_lost_connections_are_told_from_other_errors():
    assert is_lost_connection(RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [::1]:2"))
    assert is_lost_connection(dist.DistNetworkError("no answer"))
    assert not is_lost_connection(RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"))
