import torch
from consisid_pack.consisid_core.training.small.nets import Identity, Sizes, TextAndVideo


def test_shapes_of_the_shipped_sizes():
    sizes = Sizes()
    assert (sizes.latent, sizes.latent_frames) == (16, 5)
    assert sizes.transformer.injection == "between" and sizes.transformer.max_text_length == 64


def test_identity_gives_tokens_that_differ_between_faces(sizes):
    torch.manual_seed(0)
    tokens = Identity(sizes)(torch.randn(2, 512), torch.rand(2, 112, 112) * 255)
    assert tokens.shape == (2, 32, 32)
    assert (tokens[0] - tokens[1]).abs().max() > 0.01


def test_blocks_begin_as_the_identity_and_learn_from_the_first_step(sizes):
    torch.manual_seed(0)
    net = TextAndVideo(sizes, vocabulary=5)
    noisy, image = torch.randn(2, 16, 5, 4, 4), torch.randn(2, 16, 4, 4)
    text, tokens = torch.randint(0, 5, (2, 8)), torch.randn(2, 32, 32)
    velocity = net(noisy, torch.tensor([999, 3]), text, image, tokens)
    assert velocity.shape == noisy.shape
    torch.testing.assert_close(net(noisy, torch.tensor([0, 500]), text, image, tokens), velocity)  # No time yet.
    velocity.square().mean().backward()
    gates = net.transformer.transformer_blocks[0].norm1.linear.weight.grad
    assert gates.abs().max() > 0
