"""torch.compile on the transformer: one graph of real numbers, which serves the next video, too."""

import pytest
import torch
from helpers.oracle import TRANSFORMERS, build_ours, build_reference, relative_error

COMPILED = 1e-5
"""Relative error allowed: fused kernels round between fewer steps."""


class Recorder:
    """A backend that runs graphs as they are and keeps them."""

    def __init__(self):
        self.graphs = []

    def __call__(self, graph, example_inputs):
        self.graphs.append(graph)
        return graph.forward


@pytest.fixture
def net():
    torch.compiler.reset()
    yield build_ours(build_reference(**TRANSFORMERS["learned table, interval 2"]))
    torch.compiler.reset()


def inputs_of(net, seed=0, frames=3, rows=8):
    generator = torch.Generator().manual_seed(seed)
    config = net.config

    def randn(*shape):
        return torch.randn(shape, generator=generator)

    tokens = randn(2, 32, config.facial_extractor.output_dim)
    text = randn(2, config.max_text_length, config.text_embed_dim)
    return randn(2, config.in_channels, frames, rows, 12), torch.tensor([500, 20 + seed]), text, tokens


@torch.inference_mode()
def test_whole_net_is_one_graph_of_real_numbers_for_all_videos_of_a_size(net):
    recorder = Recorder()
    compiled = torch.compile(net, backend=recorder, fullgraph=True)
    assert relative_error(compiled(*inputs_of(net)), net(*inputs_of(net))) <= COMPILED
    values = [node.meta.get("example_value") for node in recorder.graphs[0].graph.nodes]
    assert not [value for value in values if isinstance(value, torch.Tensor) and value.is_complex()]

    assert relative_error(compiled(*inputs_of(net, seed=1)), net(*inputs_of(net, seed=1))) <= COMPILED
    assert len(recorder.graphs) == 1
    other = {"seed": 2, "frames": 2, "rows": 6}
    assert relative_error(compiled(*inputs_of(net, **other)), net(*inputs_of(net, **other))) <= COMPILED
    assert len(recorder.graphs) == 2


@torch.inference_mode()
def test_blocks_are_one_graph_for_all_of_them(net):
    recorder = Recorder()
    expected = net(*inputs_of(net))
    for block in net.transformer_blocks:
        block.compile(backend=recorder, fullgraph=True)
    assert relative_error(net(*inputs_of(net)), expected) <= COMPILED
    compiled = len(recorder.graphs)
    net(*inputs_of(net, seed=1))
    assert len(recorder.graphs) == compiled


@torch.inference_mode()
def test_generated_code_equals_the_net(net):
    """Of the joint attention, where the rotation is."""
    expected = net(*inputs_of(net))
    net.transformer_blocks[1].attn1.compile(backend="inductor", fullgraph=True)
    assert relative_error(net(*inputs_of(net)), expected) <= COMPILED
