"""What a run has on disk.

RUN_DIR/manifest.csv                    what is to be made; the user's
RUN_DIR/videos/                         what was made, each file complete or not there
RUN_DIR/videos/manifest.json            the same for `consisid_core.evaluation`
RUN_DIR/batch/results_videos.*.jsonl    one line per item that was made or refused, a file per process
RUN_DIR/batch/identities/               analysed faces
RUN_DIR/batch/photos/                   photos for workers on other machines that share the folder
RUN_DIR/batch/servers/                  what servers of this machine write
RUN_DIR/batch/run.lock                  who is at work
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ..errors import ConsisIDError
from ..evaluation.results import Results, held_alone, whole_file
from .tasks import File, Kind, Outcome, Task


class RunFolder:
    """The files of a run. Driver and workers, on machines that share it, may each have one."""

    def __init__(self, run_dir: Path) -> None:
        """
        Args:
            run_dir: the folder.

        Raises:
            ConsisIDError: it has a folder videos that is of something else.
        """
        self.run_dir = run_dir
        self.videos, self.state = run_dir / "videos", run_dir / "batch"
        if not self.state.is_dir() and self.videos.is_dir() and any(self.videos.iterdir()):
            raise ConsisIDError(
                f"{self.videos} holds files that no run has made. Move them away, or put the manifest elsewhere."
            )
        self.results = Results(self.state, "videos")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Have the folder for this program alone, and write results.

        Raises:
            ConsisIDError: another program has it, or it cannot be written.
        """
        try:
            for folder in (self.videos, self.state / "identities"):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConsisIDError(f"{self.run_dir} cannot be written ({error.strerror or error}).") from None
        with held_alone(self.state / "run.lock", "worked on"), self.results.writing():
            yield

    def made(self, key: str) -> Path | None:
        """The video of an item, if it is there in full."""
        result = self.results.by_key.get(key, {})
        if "error" in result or "file" not in result:
            return None
        path = self.videos / result["file"]
        return path if path.is_file() and path.stat().st_size == result["bytes"] else None

    def failure(self, key: str) -> dict | None:
        """The line of an item that failed the last time: error, kind."""
        result = self.results.by_key.get(key)
        return result if result and "error" in result else None

    def is_refused(self, key: str) -> bool:
        """Whether an item failed in a way that will be the same the next time."""
        return (self.failure(key) or {}).get("kind") == Kind.REFUSED.value

    def any_video(self) -> bool:
        """Whether there is a video to look at."""
        return any(map(self.made, self.results.by_key))

    def identity(self, name: str) -> Path:
        """Where an analysed face lies, or will lie."""
        return self.state / "identities" / f"{name}.safetensors"

    def seconds(self) -> list[float]:
        """What each video took."""
        return [result["seconds"] for result in self.results.by_key.values() if "file" in result]

    def keep(self, key: str, label: str, outcome: Outcome, attempts: int = 1) -> None:
        """Write down how an item ended, with the video that was made.

        Args:
            key: of the item.
            label: its name, which is that of the video.
            outcome: what became of it.
            attempts: so many workers had it.

        Raises:
            OSError: it cannot be written; a full disk, for example.
        """
        line = {"key": key, "what": label, "seconds": outcome.seconds, "attempts": attempts}
        if outcome.kind is Kind.MADE:
            name = f"{label}{outcome.suffix}"
            _write(self.videos / name, outcome.content)
            line |= {"file": name, "bytes": len(outcome.content)}
        else:
            line |= {"error": outcome.sentence, "kind": outcome.kind.value}
        self.results.write(line)

    def take(self, task: Task, outcome: Outcome, attempts: int = 1) -> None:
        """Put what a task has made where it belongs, with its line if it is a video.

        Raises:
            OSError: it cannot be written.
        """
        if task.is_face:
            _write(self.identity(task.key), outcome.content)
        else:
            self.keep(task.key, task.label, outcome, attempts)

    def share(self, file: File) -> File:
        """A file of a task as one in the run's folder, for workers that see this folder."""
        if isinstance(file.content, Path):
            return file
        path = self.state / "photos" / file.name  # Named by its content.
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            _write(path, file.content)
        return replace(file, content=path)

    def write_manifest(self, rows: Iterable[dict]) -> Path:
        """Write the list of what was made, for `consisid_core.evaluation`; paths start from the folder videos.

        Args:
            rows: video and reference as paths, prompt, system, seed.
        """
        file = self.videos / "manifest.json"
        with whole_file(file) as unfinished, open(unfinished, "w", encoding="utf-8") as stream:
            for row in rows:
                photos = [Path(os.path.relpath(photo, self.videos)).as_posix() for photo in row["reference"]]
                line = {**row, "video": row["video"].name, "reference": photos}
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        return file


def _write(path, content):
    with whole_file(path) as unfinished, open(unfinished, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())  # Before its line, so that a machine that loses power has no line without video.
