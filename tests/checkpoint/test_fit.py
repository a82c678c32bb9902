"""Weights that are not those of a net are named, with their file and a remedy, and are not taken for other trouble."""

import pytest
import torch
from consisid_pack.consisid_core.checkpoint.fit import about, check_names, describe_weights, load_exactly
from consisid_pack.consisid_core.errors import ConsisIDError, WeightsError


def net():
    with torch.device("meta"):
        return torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))


def weights():
    return {"0.weight": torch.ones(2, 3), "0.bias": torch.ones(2), **torch.nn.BatchNorm1d(2).state_dict(prefix="1.")}


def test_weights_become_parameters_without_a_copy():
    loaded, state_dict = net(), weights()
    load_exactly(loaded, state_dict)
    assert loaded[0].weight.data_ptr() == state_dict["0.weight"].data_ptr()


def test_counters_that_only_training_reads_may_be_missing():
    state_dict = weights()
    del state_dict["1.num_batches_tracked"]
    loaded = net()
    load_exactly(loaded, state_dict)
    assert loaded[1].num_batches_tracked == 0


def test_missing_unknown_and_misshapen_parameters_are_counted_and_named():
    state_dict = weights()
    state_dict["0.biases"] = state_dict.pop("0.bias")
    state_dict["1.running_var"] = torch.ones(5)
    with pytest.raises(WeightsError) as caught:
        load_exactly(net(), state_dict)
    assert caught.value.problem == (
        "does not fit: parameters 1 missing: 0.bias; 1 unknown: 0.biases; "
        "1 of the wrong shape: 1.running_var (5,) instead of (2,)"
    )


def test_many_names_are_cut_and_counted():
    with pytest.raises(WeightsError, match=r"12 missing: a0, .*, a9, …\.$"):
        check_names({}, {f"a{i}": (1,) for i in range(12)}, limit=10)


def test_the_parts_of_an_error_are_joined():
    error = WeightsError("is not a BiSeNet face parser")
    assert str(error) == "The state dict is not a BiSeNet face parser."
    with pytest.raises(WeightsError) as caught, about("a.pth", "Choose parsing_bisenet.pth"):
        raise error
    assert str(caught.value) == "a.pth is not a BiSeNet face parser. Choose parsing_bisenet.pth."
    assert caught.value.problem == error.problem


def test_a_whole_sentence_passes_as_it_is():
    with pytest.raises(ConsisIDError) as caught, about("a.pth", "Choose another"):
        raise ConsisIDError("b.json is not a JSON object. Download it again.")
    assert str(caught.value) == "b.json is not a JSON object. Download it again."


def test_what_foreign_shapes_lead_to_is_said_of_the_file():
    with pytest.raises(WeightsError, match=r"^a\.pth does not fit: .*\(ZeroDivisionError: .*\)\. Choose another\.$"):
        with about("a.pth", "Choose another"):
            1 / 0  # noqa: B018
    with pytest.raises(WeightsError, match=r"^a\.pth is incomplete: parameter x\.weight is missing\. Choose"):
        with about("a.pth", "Choose another"):
            {}["x.weight"]  # noqa: B018


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("can't allocate memory")]
)
def test_a_lack_of_memory_is_not_taken_for_a_wrong_file(error):
    with pytest.raises(type(error), match="memory"), about("a.safetensors", "Choose another."):
        raise error


@pytest.mark.parametrize(
    ("names", "description"),
    [
        (["model.diffusion_model.x"], "a Stable Diffusion checkpoint"),
        (["unet.down.lora_A.weight"], "a LoRA"),
        (["b", "a"], "weights of another kind (first names: a, b)"),
        ([], "an empty file"),
    ],
)
def test_descriptions(names, description):
    assert describe_weights(names) == description
