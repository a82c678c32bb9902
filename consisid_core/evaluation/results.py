"""The results of a run, in files that several processes, on one machine or many, may write at once."""

import itertools
import json
import logging
import os
import re
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import ConsisIDError

log = logging.getLogger("consisid")

_LOCKED_BYTE = 2**31 - 2  # On Windows nobody else reads what is locked: a byte that no file of results reaches.


def output_folder(run_dir: Path | str) -> Path:
    """Where everything about a run is written."""
    return Path(run_dir) / "evaluation"


class Results:
    """The results of one protocol: one JSON line each, in files of which every process appends to one of its own.

    They are called `results_<protocol>.<machine>.jsonl`, with a number for further processes at work at once; whoever
    comes later goes on with a file that nobody writes any more. All files are read, and none is ever removed.
    """

    def __init__(self, folder: Path, protocol: str) -> None:
        """
        Args:
            folder: of `output_folder`; it may be missing.
            protocol: "strict" or "paper".
        """
        self.folder, self.protocol = folder, protocol
        self.by_key: dict[str, dict] = {}
        """Key -> the newest result; one that failed does not replace one that did not."""
        self._read: dict[Path, tuple[int, int]] = {}  # File -> bytes and lines that were taken in.
        self.read_on()

    def read_on(self) -> bool:
        """Take in what other processes have written since the last time.

        Returns:
            Whether there was anything.
        """
        is_news = False
        for file in sorted(self.folder.glob(f"results_{self.protocol}*.jsonl")):
            start, count = self._read.get(file, (0, 0))
            with open(file, "rb") as stream:
                stream.seek(start)
                *lines, rest = stream.read().split(b"\n")
                end = stream.tell() - len(rest)  # The rest is still being written, or its writer was killed.
            for number, line in enumerate(lines, start=count + 1):
                self._take_in(line, file, number)
            self._read[file] = end, count + len(lines)
            is_news |= bool(lines)
        return is_news

    def is_done(self, key: str) -> bool:
        """Whether a result is there, did not fail, and has its file of features if it had one."""
        result = self.by_key.get(key)
        if result is None or "error" in result:
            return False
        return "features" not in result or (self.folder / result["features"]).is_file()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Have a file for `write` as long as the context lasts.

        Raises:
            OSError: it cannot be written.
        """
        self.folder.mkdir(exist_ok=True)
        with _own_file(self.folder, self.protocol) as self._own:
            yield

    def write(self, result: dict) -> None:
        """Append a result, which has its `key`, to the own file.

        Raises:
            OSError: it cannot be written.
        """
        self._own.write(json.dumps(result).encode() + b"\n")
        self._own.flush()
        self.by_key[result["key"]] = result
        file = Path(self._own.name)
        self._read[file] = self._own.tell(), self._read.get(file, (0, 0))[1] + 1

    def _take_in(self, line, file, number):
        try:
            result = json.loads(line)
            known = self.by_key.get(result["key"])
        except (ValueError, TypeError, KeyError):
            log.warning("%s: line %d is damaged; its video is computed anew.", file, number)
            return
        if known is None or "error" in known or "error" not in result:
            self.by_key[result["key"]] = result


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of another once it is complete, whoever else writes that at the time.

    Args:
        path: of the file that is meant.

    Yields:
        The path for now, beside it.
    """
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _own_file(folder, protocol) -> BinaryIO:
    """A results file that no other process writes, open at its end."""
    machine = re.sub(r"[^\w-]", "-", socket.gethostname())
    for number in itertools.count(1):
        name = machine if number == 1 else f"{machine}.{number}"
        stream = open(folder / f"results_{protocol}.{name}.jsonl", "a+b")
        try:
            lock(stream)
        except (BlockingIOError, PermissionError):
            stream.close()
        except OSError:  # A file system without locks: a name that nobody else has.
            stream.close()
            return open(folder / f"results_{protocol}.{uuid.uuid4().hex}.jsonl", "a+b")
        else:
            _cut_half_line(stream)
            return stream


def lock(stream: BinaryIO) -> None:
    """Hold a file until it is closed or the process ends, however it ends.

    Raises:
        BlockingIOError, PermissionError: another process holds it.
        OSError: the file system knows no locks.
    """
    if os.name == "nt":
        import msvcrt

        stream.seek(_LOCKED_BYTE)
        msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def held_alone(file: Path, doing: str) -> Iterator[None]:
    """Have the folder of a file for this program alone, as long as the context or the process lasts.

    Args:
        file: says who has the folder; made if it is missing.
        doing: what is done there, for messages: "trained".

    Raises:
        ConsisIDError: another program has it, which is named.
        OSError: it cannot be written.
    """
    with open(file, "a+b") as stream:
        try:
            lock(stream)
        except (BlockingIOError, PermissionError):
            stream.seek(0)
            holder = stream.read().decode(errors="replace").strip() or "another program"
            raise ConsisIDError(
                f"{file.parent} is being {doing} by {holder}. Wait for it, stop it with Ctrl-C, or name another folder."
            ) from None
        except OSError:
            log.warning(
                "%s lies where files cannot be locked: take care that one program at a time is at work there.",
                file.parent,
            )
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        stream.flush()
        yield


def _cut_half_line(stream):
    """What a process leaves that is killed in the middle of a line. Nobody else writes the file."""
    stream.seek(0)
    stream.truncate(stream.read().rfind(b"\n") + 1)
    stream.seek(0, os.SEEK_END)
