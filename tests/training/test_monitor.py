"""What TensorBoard shows."""

import pytest
import torch
from consisid_pack.consisid_core.training.conditions import DRAWS
from consisid_pack.consisid_core.training.distributed import Ranks
from consisid_pack.consisid_core.training.loop import StepReport
from consisid_pack.consisid_core.training.monitor import Monitor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

CPU = Ranks(0, 1, torch.device("cpu"))


def report(step, losses, timesteps, norm=1.0):
    losses = torch.tensor(losses)
    is_finite = bool(losses.isfinite().all())
    drawn = torch.zeros(len(losses), len(DRAWS))
    drawn[0, DRAWS.index("masked")] = 1
    return StepReport(
        step, "fine", losses.mean().item(), norm, is_finite, losses, torch.tensor(timesteps), drawn, stop_asked=False
    )


def shown(folder):
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {name: {event.step: event.value for event in events.Scalars(name)} for name in events.Tags()["scalars"]}


def test_values_are_means_over_the_steps_between(tmp_path):
    monitor = Monitor(tmp_path, 0, 10, every=2, ranks=CPU)
    monitor.step(report(1, [1.0, 3.0], [5, 950], norm=1.0), {"factor 1": 0.1}, 0)
    monitor.step(report(2, [2.0, 6.0], [99, 500], norm=3.0), {"factor 1": 0.2}, 0)
    monitor.step(report(3, [float("nan"), 7.0], [99, 500], norm=float("nan")), {"factor 1": 0.2}, 1)
    monitor.step(report(4, [8.0, 9.0], [0, 999], norm=5.0), {"factor 1": 0.3}, 1)
    monitor.close()
    values = shown(tmp_path)
    assert values["loss/all"] == {2: 3.0, 4: 8.0}
    assert values["loss/timesteps 000-099"] == {2: 1.5, 4: 8.0}
    assert values["loss/timesteps 500-599"] == {2: 6.0, 4: 7.0}
    assert values["loss/timesteps 900-999"] == {2: 3.0, 4: 9.0}
    assert not any(name.startswith("loss/timesteps 1") for name in values)
    assert values["gradient/norm"] == {2: 2.0, 4: 5.0} and values["gradient/skipped steps"] == {2: 0, 4: 1}
    assert values["learning rate/factor 1"] == {2: pytest.approx(0.2), 4: pytest.approx(0.3)}
    assert values["conditions/masked"] == {2: 0.5, 4: 0.5} and values["conditions/no text"] == {2: 0, 4: 0}
    assert all(value > 0 for value in values["speed/clips a second"].values())


def test_a_run_that_goes_on_hides_what_came_after_its_checkpoint(tmp_path):
    monitor = Monitor(tmp_path, 0, 10, every=1, ranks=CPU)
    for step in (1, 2, 3):
        monitor.step(report(step, [1.0], [5]), {}, 0)
    monitor.close()
    monitor = Monitor(tmp_path, 1, 10, every=1, ranks=CPU)
    monitor.step(report(2, [5.0], [5]), {}, 0)
    monitor.close()
    assert shown(tmp_path)["loss/all"] == {1: 1.0, 2: 5.0}


def test_the_bar_tells_stage_loss_and_time_left(tmp_path, capsys):
    monitor = Monitor(tmp_path, 3, 10, every=1, ranks=CPU)
    monitor.step(report(4, [1.25], [5]), {}, 2)
    monitor.say("A line.")
    monitor.back_to(2)
    monitor.close()
    output = "".join(capsys.readouterr())
    assert "4/10" in output and "fine, loss 1.2500, skipped 2" in output and "A line." in output and "2/10" in output


def test_only_the_first_process_speaks(tmp_path, capsys):
    monitor = Monitor(tmp_path, 0, 10, every=1, ranks=Ranks(1, 1, torch.device("cpu")))
    monitor.step(report(1, [1.0], [5]), {}, 0)
    monitor.say("A line.")
    monitor.close()
    assert "".join(capsys.readouterr()) == "" and not (tmp_path / "tensorboard").exists()
