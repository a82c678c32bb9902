"""Runs code in a process that may take so much more memory than its imports took, and no more."""

import subprocess
import sys

from helpers import ROOT

_LIMIT = """
import re, resource, sys
from pathlib import Path
from consisid_core.errors import ConsisIDError
taken = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (taken + {size},) * 2)
try:
    {call}
except ConsisIDError as error:
    print(error)
"""


def sentence_for(imports, call, size):
    """What a call's ConsisIDError says when it finds `size` bytes. Linux only."""
    code = f"{imports}\n{_LIMIT.format(call=call, size=size)}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
