"""Weights of an ONNX graph in float, for nets that are run often or followed layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def unpack_weights(graph: onnx.GraphProto) -> None:
    """Put float weights in place of int8 ones in a graph, which onnxruntime would unpack anew at every run."""
    from onnx import numpy_helper
    from onnx.reference import ReferenceEvaluator

    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in list(graph.node):
        if node.op_type in ("DequantizeLinear", "Reshape") and all(name in values for name in node.input):
            (value,) = ReferenceEvaluator(node).run(None, {name: values[name] for name in node.input})
            values[node.output[0]] = value
            graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
            graph.node.remove(node)
