import pytest
import torch
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.training.small import stage
from consisid_pack.consisid_core.training.small.stage import Budget, Task, read_state, train, write_state
from torch import nn


class LineTask(Task):
    """Learns y = 3 x."""

    name = "line"

    def __init__(self, stop_at=None):
        torch.manual_seed(0)
        super().__init__(nn.Linear(1, 1), "cpu", rate=0.2, betas=(0.9, 0.99), decay=0.5)
        self.stop_at, self.parts = stop_at, []

    def step(self, part):
        if self.updates == self.stop_at:
            raise KeyboardInterrupt
        self.parts.append(part)
        x = torch.linspace(-1, 1, 16).unsqueeze(1) * (1 + self.updates % 3)
        self.update((self.net(x) - 3 * x).square().mean(), 1 - part)

    def report(self):
        return f"slope {self.averaged.weight.item():.2f}"


def weight(folder):
    return read_state(folder, "line")["averaged"]["weight"]


def test_a_stage_learns_and_a_stopped_one_ends_the_same(tmp_path):
    train(LineTask(), tmp_path / "whole", Budget(steps=60))
    assert abs(weight(tmp_path / "whole").item() - 3) < 1
    with pytest.raises(KeyboardInterrupt):
        train(LineTask(stop_at=25), tmp_path / "stopped", Budget(steps=60))
    assert read_state(tmp_path / "stopped", "line")["steps"] == 25
    task = LineTask()
    train(task, tmp_path / "stopped", Budget(steps=60))
    assert task.parts[0] == pytest.approx(25 / 60) and len(task.parts) == 35
    assert torch.equal(weight(tmp_path / "stopped"), weight(tmp_path / "whole"))


def test_a_longer_budget_goes_on_and_a_used_one_does_nothing(tmp_path):
    train(LineTask(), tmp_path, Budget(steps=5))
    task = LineTask()
    train(task, tmp_path, Budget(steps=5))
    assert not task.parts
    train(task, tmp_path, Budget(steps=8))
    assert task.updates == 8


def test_a_finished_stage_stays(tmp_path):
    write_state(tmp_path, "line", {"averaged": LineTask().state()["averaged"], "is_finished": True})
    task = LineTask()
    train(task, tmp_path, Budget(steps=5))
    assert not task.parts and "steps" not in read_state(tmp_path, "line")


def test_weights_alone_are_where_it_begins(tmp_path):
    known = {"weight": torch.tensor([[3.0]]), "bias": torch.tensor([0.0])}
    write_state(tmp_path, "line", {"averaged": known})
    task = LineTask()
    task.load(read_state(tmp_path, "line"))
    assert task.net.weight.item() == 3 and task.updates == 0


def test_seconds_or_steps_end_a_budget():
    budget = Budget(seconds=10, steps=4)
    assert (budget.part(5, 1), budget.part(1, 3), budget.part(11, 0)) == (0.5, 0.75, 1.0)


def test_no_number_changes_nothing_and_many_end_the_stage():
    task = LineTask()
    before = task.net.weight.clone()
    for _ in range(stage._SKIPS - 1):
        task.update(task.net.weight.sum() * float("nan"), 1.0)
    assert torch.equal(task.net.weight, before) and task.updates == 0
    with pytest.raises(ConsisIDError, match="stage line met 20 gradients"):
        task.update(task.net.weight.sum() * float("nan"), 1.0)


def test_a_damaged_checkpoint_and_one_of_another_net_are_named(tmp_path):
    (tmp_path / "line.pt").write_bytes(b"no")
    with pytest.raises(ConsisIDError, match=r"line\.pt cannot be read.*Delete it"):
        train(LineTask(), tmp_path, Budget(steps=1))
    write_state(tmp_path, "line", {"averaged": {"weight": torch.ones(2, 2)}})
    with pytest.raises(ConsisIDError, match=r"line\.pt is of another net"):
        train(LineTask(), tmp_path, Budget(steps=1))
