import pytest
import torch
from consisid_pack.consisid_core.training.small.code import LinearCode


@pytest.fixture(scope="module")
def videos():
    """Of 16 patterns and a mean, which the code can hold without loss, and of still first frames."""
    torch.manual_seed(0)
    patterns = torch.randn(16, 4, 3, 8, 8) * torch.arange(1, 17).view(16, 1, 1, 1, 1).flip(0)
    amounts = torch.randn(6, 2, 2, 2, 16)
    blocks = torch.einsum("nthwk,kfcpq->ntfchpwq", amounts, patterns).flatten(6, 7).flatten(4, 5).flatten(1, 2)
    return torch.cat((blocks[:, :1], blocks), dim=1).transpose(1, 2)


def test_latents_have_the_shape_of_the_vae_and_unit_size(videos):
    code = LinearCode.fit(videos)
    latents = code.encode(videos)
    assert latents.shape == (6, 16, 3, 2, 2)
    moving = (latents[:, :, 1:] - latents[:, :, 1:].mean((0, 2, 3, 4), keepdim=True)).square().mean()
    assert 0.3 < moving < 3


def test_the_basis_is_orthonormal_and_decoding_undoes_encoding(videos):
    code = LinearCode.fit(videos)
    torch.testing.assert_close(code.basis.T @ code.basis, torch.eye(16), atol=1e-5, rtol=0)
    latents = torch.randn(2, 16, 3, 2, 2)
    latents[:, :, :1] = code.encode(code.decode(latents))[:, :, :1]  # A first frame stands for four equal ones.
    again = code.encode(code.decode(latents))
    torch.testing.assert_close(again[:, :, 1:], latents[:, :, 1:], atol=1e-3, rtol=1e-3)


def test_components_catch_what_moves(videos):
    code = LinearCode.fit(videos)
    shown = code.decode(code.encode(videos))
    rest = videos[:, :, 1:]
    assert (shown[:, :, 1:] - rest).square().mean() < 0.2 * rest.square().mean()


def test_a_picture_is_a_video_of_one_frame(videos):
    code = LinearCode.fit(videos)
    picture = videos[:, :, 3]
    latents = code.encode_pictures(picture)
    torch.testing.assert_close(latents, code.encode(picture.unsqueeze(2))[:, :, 0])
    torch.testing.assert_close(code.decode_pictures(latents), code.decode(latents.unsqueeze(2))[:, :, 0])


def test_groups_are_the_frames_of_a_latent_frame(videos):
    code = LinearCode.fit(videos)
    latents = code.encode(videos)
    torch.testing.assert_close(
        code.decode_groups(latents[:, :, 1:2])[:, 0].transpose(1, 2), code.decode(latents)[:, :, 1:5]
    )
