import pytest
import torch
from consisid_pack.consisid_core.training.small.denoiser import DenoiserTask, held_out_losses, mirrored_landmarks
from consisid_pack.consisid_core.training.small.identity import IdentityTask
from consisid_pack.consisid_core.training.small.nets import Identity
from consisid_pack.consisid_core.training.small.pool import pixels
from consisid_pack.consisid_core.training.small.sface import Recogniser
from helpers.face_packs import RECOGNISER_FILE


@pytest.fixture(scope="module")
def recogniser(pack):
    return Recogniser(pack / RECOGNISER_FILE)


@pytest.fixture
def make(sizes, pool, code, recogniser):
    def make(identity=None):
        identity = identity or Identity(sizes).eval().requires_grad_(False)
        empty = torch.tensor([1, 0, 0, 0, 0, 0, 0, 0])
        return DenoiserTask(sizes, pool, code, identity, 5, empty, recogniser, "cpu", batch=4)

    return make


def test_it_learns_with_every_loss(make):
    task = make()
    for part in (0.0, 0.2, 0.5, 0.9):
        task.step(part)
        task.step(part)
    assert task.updates == 8
    assert all(x.isfinite().all() for x in task.net.parameters())
    report = task.report()
    assert report.count("another's tokens") == 3 and "t 999 loss" in report


def test_the_recognisers_loss_reaches_the_net(make):
    task = make()
    batch = task._draw("fine")
    timestep = torch.tensor([100, 300, 600, 900])
    predicted = torch.randn_like(batch.latents, requires_grad=True)
    loss = task._identity_loss(batch.latents, predicted, timestep, batch)
    (gradient,) = torch.autograd.grad(loss, predicted)
    assert 0 < loss < 2
    assert (gradient[:3].flatten(1).abs().amax(1) > 0).all()
    assert not gradient[3].any()  # Too much noise.


def test_coarse_has_no_tokens_and_fine_often_no_image(make):
    torch.manual_seed(0)
    task = make()
    assert not task._draw("coarse").tokens.any() and task._draw("fine").tokens.any()
    task.batch = 64
    dropped = (task._draw("fine").image == 0).flatten(1).all(1).float().mean()
    assert 0.1 < dropped < 0.5


def test_the_identity_is_taught_beside_and_then_stays(make, sizes, pool, code):
    teacher = IdentityTask(sizes, pool, code, "cpu", batch=4)
    task = make(teacher)
    task.step(0.2)
    assert teacher.updates == 1
    task.updates = 6
    task.step(0.7)
    assert teacher.updates == 1
    state = task.state()
    weight = "extractor.proj_out"
    assert torch.equal(state["identity"][weight], teacher.averaged.identity.extractor.proj_out)


def test_weights_to_go_on_from_skip_the_coarse_part(make):
    task, other = make(), make()
    state = task.state()
    other.load({"averaged": state["averaged"], "identity": state["identity"]})
    assert other.begins_at > 0.3
    again = make()
    again.load(other.state())
    assert again.begins_at == other.begins_at
    assert torch.equal(again.identity.extractor.proj_out, task.identity.extractor.proj_out)


def test_landmarks_are_mirrored_as_pictures_are():
    points = torch.tensor([[[20.0, 24], [40, 24], [30, 34], [22, 44], [38, 44]]]).expand(2, -1, -1)
    moved = mirrored_landmarks(points, torch.tensor([True, False]), 64)
    assert torch.equal(moved[1], points[1])
    picture = torch.zeros(64, 64)
    for x, y in points[0].long():
        picture[y, x] = 1
    seen = {(x, y) for y, x in picture.flip(-1).nonzero().tolist()}
    assert {(int(x), int(y)) for x, y in moved[0]} == seen
    assert (moved[0][[0, 3], 0] < moved[0][[1, 4], 0]).all()  # Left stays on the left.


def test_stills_are_first_frames_of_clips(make):
    task = make()
    clips, stills = task._draw("fine"), task._draw("fine", stills=True)
    assert stills.latents.shape[2] == 1 < clips.latents.shape[2]
    assert len(stills.latents) == 3 * len(clips.latents)
    assert stills.face.shape == stills.latents[:, 0].shape
    frames = pixels(task.pool.clip[stills.clips, :1]).transpose(1, 2)
    straight = ~stills.mirrored
    expected = task.code.encode(frames[straight])
    torch.testing.assert_close(stills.latents[straight], expected)


def test_most_timesteps_have_much_noise(make):
    task = make()
    timesteps = task._timesteps(200)
    assert 0.65 < (timesteps >= 650).float().mean() < 0.75
    assert timesteps.min() < 12 and timesteps.max() == 999


def test_held_out_losses_compare_with_other_people(make, pool, code):
    task = make()
    said = held_out_losses(task.averaged, pool, code, task._tokens)
    assert len(said) == 3 and all("SE" in text for text in said)
