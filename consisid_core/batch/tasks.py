"""What travels between the driver and its workers: plain data that any backend can carry."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path


class Kind(str, enum.Enum):
    """How a task ended. The words stand in the lines of a run folder and in its summary."""

    MADE = "made"
    REFUSED = "refused"
    """This item can never be made as it is: no face in the photo, a value that a node does not take."""
    MEMORY = "out of memory"
    LOST = "lost worker"
    """The server, its machine or the connection to it ended."""
    STALLED = "stalled"
    """No progress for too long."""
    BROKEN = "broken graph"
    """No item can be made: a part of the graph fails that is the same for all of them."""


@dataclass(frozen=True)
class File:
    """A file that a task's server needs: a photo in its input folder, or an identity among its models."""

    name: str
    content: bytes | Path
    """A path where whoever reads it sees the driver's files."""
    is_identity: bool = False

    def read(self) -> bytes:
        """The content."""
        return self.content.read_bytes() if isinstance(self.content, Path) else self.content


@dataclass(frozen=True)
class Task:
    """One graph to run, and the one file that comes out of it."""

    key: str
    label: str
    """What messages call it."""
    graph: dict
    """In API format."""
    own_nodes: frozenset[str]
    """Nodes whose result depends on this item; a failure of any other is one of the graph."""
    files: tuple[File, ...] = ()
    is_face: bool = False
    """Whether an identity comes out of it, not a video."""
    attempts: int = 1
    """So many workers have been given it, with this one."""


@dataclass(frozen=True)
class Outcome:
    """How a task ended."""

    key: str
    kind: Kind
    sentence: str = ""
    """What went wrong, and the cure if the server told one."""
    content: bytes = b""
    """The file that was made; empty where the worker has put it into the run's folder itself."""
    suffix: str = ""
    """Of that file, with its dot."""
    seconds: float = 0.0
