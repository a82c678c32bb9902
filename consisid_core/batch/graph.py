"""A graph in ComfyUI's API format, and the places in it that a table's columns set."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ..errors import ConsisIDError
from .table import NEGATIVE, PROMPT, SEED, Row

DEFAULT = Path(__file__).parents[2] / "docs" / "api" / "consisid_text_to_video.json"
"""The template consisid_text_to_video."""

_SPLIT = "MultiGPU_WorkUnits"  # MultiGPU CFG Split
_SEEDS = ("seed", "noise_seed")
_TEXTS = ("text", "value")  # Of CLIP Text Encode and of the node String that may stand before it.
_EXPORT = "Open the workflow in ComfyUI and choose Workflow > Export (API)."


def wires(node: dict) -> dict[str, str]:
    """Input -> node that it is wired to, of a node in API format."""
    return {name: value[0] for name, value in node["inputs"].items() if isinstance(value, list) and len(value) == 2}


def sources(graph: dict, node_id: str) -> set[str]:
    """The nodes that a node's result comes from, itself among them."""
    found, waiting = set(), [node_id]
    while waiting:
        if (node_id := waiting.pop()) not in found and node_id in graph:
            found.add(node_id)
            waiting += wires(graph[node_id]).values()
    return found


def title(graph: dict, node_id: str) -> str:
    """What a message calls a node."""
    node = graph.get(node_id, {})
    return node.get("_meta", {}).get("title") or node.get("class_type", "unknown")


@dataclass(frozen=True)
class Graph:
    """A graph that rows are put into."""

    nodes: dict
    """Node id -> class_type, inputs, _meta."""
    file: str
    """For messages."""
    _places: dict = field(default_factory=dict)  # Column -> (node id, input), found once.

    @property
    def node_types(self) -> frozenset[str]:
        """The classes that a server has to know."""
        return frozenset(node["class_type"] for node in self.nodes.values())

    def place(self, column: str) -> tuple[str, str]:
        """The node and the input that a column sets.

        Raises:
            ConsisIDError: there is none, or several.
        """
        if column not in self._places:
            if column == SEED:
                place = self._seed()
            elif column in (PROMPT, NEGATIVE):
                place = self._text(column)
            else:
                place = self._named(column)
            self._places[column] = place
        return self._places[column]

    def filled(self, row: Row, photos: list[str]) -> tuple[dict, frozenset[str]]:
        """The graph with a row's values.

        Args:
            row: of the table.
            photos: names that its photos have on the server.

        Returns:
            The nodes, and the ids of those whose result depends on the row.

        Raises:
            ConsisIDError: a column that the graph has no place for, or a value of another kind than the graph's.
        """
        nodes = {node_id: {**node, "inputs": {**node["inputs"]}} for node_id, node in self.nodes.items()}
        set_here = set()
        loads = self._photo_nodes()
        if photos and len(photos) != len(loads):
            raise ConsisIDError(
                f"{row.place} names {len(photos)} photo{'s' * (len(photos) != 1)}, and {self.file} loads {len(loads)}. "
                "Name as many, or take another graph."
            )
        for node_id, name in zip(loads, photos, strict=False):
            nodes[node_id]["inputs"]["image"] = name
            set_here.add(node_id)
        for column, value in row.values.items():
            try:
                node_id, name = self.place(column)
                nodes[node_id]["inputs"][name] = _like(self.nodes[node_id]["inputs"][name], value)
            except ConsisIDError as error:
                raise ConsisIDError(f"{row.place}: {column}: {error}") from None
            set_here.add(node_id)
        return nodes, frozenset(node_id for node_id in nodes if self._sources[node_id] & set_here)

    def told(self, nodes: dict, column: str) -> str:
        """What a filled graph has at the place of a column, or "" where it has no such place."""
        try:
            node_id, name = self.place(column)
        except ConsisIDError:
            return ""
        return str(nodes[node_id]["inputs"][name])

    def check_split(self, gpus: int) -> None:
        """Refuse a graph that would leave GPUs of its server idle.

        Args:
            gpus: so many a server sees.

        Raises:
            ConsisIDError: no node of the graph splits a video over as many.
        """
        splits = [node["inputs"].get("max_gpus") for node in self.nodes.values() if node["class_type"] == _SPLIT]
        if not any(isinstance(most, int) and most >= gpus for most in splits):
            raise ConsisIDError(
                f"{self.file} does not split a video over {gpus} GPUs, so all but one would be idle. Give it ComfyUI's "
                f"node MultiGPU CFG Split with max_gpus {gpus}, as the template consisid_two_gpus has it, and export "
                "it again, or leave --gpus-per-video out."
            )

    @cached_property
    def _sources(self):
        """Node -> the nodes that its result comes from, which no row changes."""
        return {node_id: sources(self.nodes, node_id) for node_id in self.nodes}

    def _photo_nodes(self):
        return [node_id for node_id, node in self.nodes.items() if node["class_type"] == "LoadImage"]

    def _seed(self):
        found = [
            (node_id, name)
            for node_id, node in self.nodes.items()
            for name in _SEEDS
            if isinstance(node["inputs"].get(name), int)
        ]
        if len(found) != 1:
            raise ConsisIDError(
                f"{self.file} has {len(found) or 'no'} inputs named seed. Name one with its node, such as "
                f"{'.'.join(found[0]) if found else '14.seed'!r}."
            )
        return found[0]

    def _text(self, column):
        """The text that the wire `positive` or `negative` of samplers comes from."""
        side = "positive" if column == PROMPT else "negative"
        found = set()
        for node_id in self.nodes:
            seen = []
            while (following := wires(self.nodes[seen[-1] if seen else node_id]).get(side)) in self.nodes:
                if following in seen:
                    break
                seen.append(following)
            nodes = [node for last in seen[-1:] for node in self._sources[last]]
            found |= {(node, name) for node in nodes for name in _TEXTS if self._is_text(node, name)}
        if len(found) != 1:
            raise ConsisIDError(
                f"{self.file} has {len(found) or 'no'} texts that lead to {side!r}. Name one with its node, such as "
                "'11.text'."
            )
        return found.pop()

    def _is_text(self, node_id, name):
        return isinstance(self.nodes[node_id]["inputs"].get(name), str)

    def _named(self, column):
        """The first dot that has a node's id or title before it and one of its inputs after it."""
        named = []
        for position in (position for position, sign in enumerate(column) if sign == "."):
            node, input_name = column[:position].strip().lower(), column[position + 1 :].strip().lower()
            same = [node_id for node_id in self.nodes if node_id.lower() == node]
            same = same or [node_id for node_id in self.nodes if title(self.nodes, node_id).lower() == node]
            places = [(node_id, name) for node_id in same for name in self.nodes[node_id]["inputs"]]
            places = [place for place in places if place[1].lower() == input_name]
            if len(places) > 1:
                raise ConsisIDError(f"{self.file} has {len(places)} nodes titled {node!r}. Name one by its number.")
            if places:
                return places[0]
            named += same
        if not named:
            raise ConsisIDError(f"{self.file} has no node of this number or title.")
        inputs = ", ".join(self.nodes[named[0]]["inputs"])
        raise ConsisIDError(f"node {named[0]} of {self.file} has no such input; it has {inputs}.")


def read_graph(file: Path) -> Graph:
    """Read a graph.

    Raises:
        ConsisIDError: it cannot be read, or is a saved workflow, which is another format.
    """
    try:
        nodes = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConsisIDError(f"{file} is not valid JSON ({error}). {_EXPORT}") from None
    except OSError as error:
        raise ConsisIDError(f"{file} cannot be read ({error.strerror or error}).") from None
    if isinstance(nodes, dict) and isinstance(nodes.get("nodes"), list):
        raise ConsisIDError(f"{file} is a saved workflow, not a graph in API format. {_EXPORT}")
    is_graph = isinstance(nodes, dict) and nodes
    if not is_graph or not all(
        isinstance(node, dict) and isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), dict)
        for node in nodes.values()
    ):
        raise ConsisIDError(f"{file} is no graph in API format. {_EXPORT}")
    return Graph(nodes, file.name)


def _like(present, value):
    """A cell's value, of the kind that the graph has at its place."""
    if isinstance(present, list):
        raise ConsisIDError("this input is a wire. Set an input of the node where it comes from.")
    if isinstance(present, str):
        return value if isinstance(value, str) else json.dumps(value)
    text = str(value).strip().lower()
    try:
        if isinstance(present, bool):
            return {"true": True, "1": True, "false": False, "0": False}[text]
        if isinstance(present, int):
            return int(text)
        if isinstance(present, float):
            return float(text)
    except (KeyError, ValueError):
        kind = {bool: "true or false", int: "a whole number", float: "a number"}[type(present)]
        raise ConsisIDError(f"{str(value)[:40]!r} is not {kind}.") from None
    return value
