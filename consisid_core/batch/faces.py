"""Faces are analysed once per photo: the part of a graph that does so runs alone, and the rest reads its identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

from .graph import sources, wires

ANALYZER, SAVE, LOAD = "ConsisIDFaceAnalyzer", "ConsisIDSaveIdentity", "ConsisIDLoadIdentity"

FACE_NODES = frozenset((SAVE, LOAD))
"""What a server has to know besides the graph's own nodes, if it keeps identities."""

_KEPT_OUTPUTS = (0, 1)  # FACE and the crop; an identity has no picture of all faces that were found.


def split_faces(graph: dict, weights: str) -> tuple[dict, dict[str, dict]]:
    """Cut the analysis of faces out of a graph.

    Args:
        graph: filled, in API format; it is not changed.
        weights: `weight_digest` of its files.

    Returns:
        The graph with Load ConsisID Identity in place of each analyzer, without the nodes that only served it; and
        identity name -> the graph that makes and saves it. An analyzer whose picture of all faces is used stays.
    """
    rest, parts = dict(graph), {}
    for node_id, node in graph.items():
        used = {output for other in graph.values() for output in _outputs_from(other, node_id)}
        if node["class_type"] != ANALYZER or not used <= set(_KEPT_OUTPUTS):
            continue
        part = {source: graph[source] for source in sources(graph, node_id)}
        name = hashlib.sha256(json.dumps([part, weights], sort_keys=True).encode()).hexdigest()[:32]
        parts[name] = part | {"save": {"class_type": SAVE, "inputs": {"face": [node_id, 0], "name": name}}}
        rest[node_id] = {"class_type": LOAD, "inputs": {"identity": name}, "_meta": node.get("_meta", {})}
    return _without(rest, graph), parts


def photos_of(graph: dict, is_ours: Callable[[str], bool]) -> set[str]:
    """Names of the photos that a graph loads and that the table has put there."""
    names = {node["inputs"].get("image") for node in graph.values() if node["class_type"] == "LoadImage"}
    return {name for name in names if isinstance(name, str) and is_ours(name)}


def _outputs_from(node, node_id):
    return [node["inputs"][name][1] for name, source in wires(node).items() if source == node_id]


def _without(rest, graph):
    """Of the nodes that led to others before, those that still do."""
    led = {source for node in graph.values() for source in wires(node).values()}
    while True:
        leading = {source for node in rest.values() for source in wires(node).values()}
        idle = [node_id for node_id in rest if node_id in led and node_id not in leading]
        if not idle:
            return rest
        rest = {node_id: node for node_id, node in rest.items() if node_id not in idle}
