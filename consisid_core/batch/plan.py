"""What a run makes: an item for each row, known by its content, and the tasks that workers are given for it."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConsisIDError
from ..evaluation.content import digests
from ..face.photo import portable_photo
from .faces import photos_of, split_faces
from .graph import Graph, sources
from .table import PROMPT, SEED, Row, several
from .tasks import File, Task

log = logging.getLogger("consisid")

_LOADERS = re.compile(r"Loader", re.I)


@dataclass(frozen=True)
class Item:
    """One video."""

    row: Row
    key: str
    """Changes with graph, values, contents of the photos and weights, and with nothing else."""
    label: str
    """Name of the video, without suffix."""
    models: str
    """The same for items that load the same models."""


class Plan:
    """The items of a table, in an order in which models and faces are used again."""

    def __init__(self, run_dir: Path, graph: Graph, rows: list[Row], weights: str) -> None:
        """
        Args:
            run_dir: where photos start.
            graph: that is run.
            rows: of the table.
            weights: `Backend.weights`.

        Raises:
            ConsisIDError: with a sentence for each row that the graph has no place for.
        """
        self.run_dir, self.graph, self.weights = run_dir, graph, weights
        self._digests = digests(run_dir / photo for row in rows for photo in row.photos)
        self._content = functools.lru_cache(maxsize=8)(portable_photo)  # Items of one photo follow each other.
        items, problems = {}, []
        for row in rows:
            try:
                item = self._item(row)
            except ConsisIDError as error:
                problems.append(str(error))
                continue
            if item.key in items:
                log.warning("%s asks for the same video as %s; it is made once.", row.place, items[item.key].row.place)
            items.setdefault(item.key, item)
        if problems:
            raise ConsisIDError(several(rows[0].place.partition(", ")[0], problems))
        first = {}  # Models, and photos with them, in the order of their first rows.
        for position, item in enumerate(items.values()):
            first.setdefault(item.models, position)
            first.setdefault((item.models, item.row.photos), position)
        self.items = sorted(items.values(), key=lambda item: (first[item.models], first[item.models, item.row.photos]))

    def filled(self, item: Item) -> tuple[dict, frozenset[str]]:
        """`Graph.filled` of an item."""
        return self.graph.filled(item.row, [self._photo_name(photo) for photo in item.row.photos])

    def task(self, item: Item, identity: Callable[[str], Path] | None) -> Task:
        """The task that makes an item's video.

        Args:
            item: of the plan.
            identity: where the face of a name lies; None where servers take no identities.

        Raises:
            ConsisIDError: a photo that cannot be read as a picture.
        """
        nodes, own = self.filled(item)
        parts = {}
        if identity:
            nodes, parts = split_faces(nodes, self.weights)
        files = [File(name, identity(name), is_identity=True) for name in parts]
        return Task(item.key, item.label, nodes, own & nodes.keys(), (*files, *self._photos(item, nodes)))

    def face_names(self, item: Item) -> list[str]:
        """Names of the identities that `task` reads, one for each analysis of faces in the graph."""
        return list(split_faces(self.filled(item)[0], self.weights)[1])

    def face_task(self, item: Item, name: str) -> Task:
        """The task that makes one of `face_names`.

        Raises:
            ConsisIDError: a photo that cannot be read as a picture.
        """
        nodes, own = self.filled(item)
        part = split_faces(nodes, self.weights)[1][name]
        own = frozenset(node_id for node_id in part if sources(part, node_id) & own)
        return Task(name, ", ".join(item.row.photos), part, own, tuple(self._photos(item, part)), is_face=True)

    def described(self, item: Item, video: Path) -> dict:
        """What a manifest says of a video that was made."""
        nodes, _ = self.filled(item)
        return {
            "video": video,
            "reference": [self.run_dir / photo for photo in item.row.photos],
            "prompt": self.graph.told(nodes, PROMPT),
            "system": item.row.system,
            "seed": self.graph.told(nodes, SEED),
        }

    def _item(self, row):
        nodes, _ = self.graph.filled(row, [self._photo_name(photo) for photo in row.photos])
        key = hashlib.sha256(json.dumps([nodes, self.weights], sort_keys=True).encode()).hexdigest()
        loaders = [node["inputs"] for node in nodes.values() if _LOADERS.search(node["class_type"])]
        person = Path(row.photos[0]).stem if row.photos else "video"
        name = re.sub(r"[^\w-]+", "-", person)[:40]
        seed = self.graph.told(nodes, SEED)
        label = f"{name}_{f's{seed}_' if seed else ''}{key[:12]}"
        return Item(row, key[:24], label, hashlib.sha256(json.dumps(loaders).encode()).hexdigest()[:8])

    def _photo_name(self, photo):
        path = self.run_dir / photo
        return f"photo_{(self._digests[path] or photo)[:16]}{path.suffix.lower()}"

    def _photos(self, item, nodes):
        wanted = photos_of(nodes, {self._photo_name(photo) for photo in item.row.photos}.__contains__)
        for photo in item.row.photos:
            if (name := self._photo_name(photo)) in wanted:
                wanted.discard(name)
                yield File(name, self._content(self.run_dir / photo))
