import torch
from consisid_pack.consisid_core.face.parsing import BiSeNet
from consisid_pack.consisid_core.training.small.parser import ParserTask, as_photographed


def test_it_trains_on_people_who_are_not_held_out(sizes, shelf):
    task = ParserTask(sizes, shelf, "cpu", batch=2)
    assert {number for _, number in task._places(200)} == {3, 4, 5}
    before = task.averaged.conv_out.conv_out.weight.clone()
    task.step(0.0)
    assert not torch.equal(task.averaged.conv_out.conv_out.weight, before)
    assert "IoU" in task.report()
    BiSeNet.from_state_dict(task.state()["averaged"])


def test_labels_move_with_the_picture_and_only_the_background_is_replaced():
    torch.manual_seed(0)
    labels = torch.zeros(16, 256, 256, dtype=torch.long)
    labels[:, 64:192, 64:192] = 1
    pictures = torch.where(labels.bool(), 1.0, 0.0).unsqueeze(1).expand(-1, 3, -1, -1)
    changed, moved = as_photographed(pictures, labels)
    assert changed.shape == pictures.shape and 0 <= changed.min() and changed.max() <= 1
    assert not torch.equal(moved, labels)
    bright = changed.mean(1)
    face, rest = ((bright * mask).sum((1, 2)) / mask.sum((1, 2)) for mask in (moved == 1, moved == 0))
    assert (face > rest).float().mean() > 0.9
