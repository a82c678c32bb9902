import pytest
import torch
from consisid_pack.consisid_core.training.small.denoiser import DenoiserTask, Windows, held_out_losses
from consisid_pack.consisid_core.training.small.identity import IdentityTask
from consisid_pack.consisid_core.training.small.nets import Identity
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


def test_windows_move_points_as_they_move_pictures():
    torch.manual_seed(0)
    windows = Windows.random(8, "cpu")
    points = torch.tensor([[20.0, 24], [40, 24], [30, 34], [22, 44], [38, 44]]).expand(8, -1, -1)
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    moved = windows.landmarks(points, 64)
    for k in range(5):
        x, y = points[0, k]
        spot = torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8).expand(8, 1, -1, -1)
        seen = windows.look(spot)[:, 0]
        total = seen.sum((1, 2))
        place = torch.stack(((seen * columns).sum((1, 2)) / total, (seen * rows).sum((1, 2)) / total), dim=-1)
        # Left and right change places in mirrored ones.
        target = [(k, (1, 0, 2, 4, 3)[k])[int(is_mirrored)] for is_mirrored in windows.mirrored]
        torch.testing.assert_close(place, moved[range(8), target], atol=0.1, rtol=0)


def test_held_out_losses_compare_with_other_people(make, pool, code):
    task = make()
    said = held_out_losses(task.averaged, pool, code, task._tokens)
    assert len(said) == 3 and all("SE" in text for text in said)
