"""The figures of training in docs/memory.md are those that the command prints."""

import pytest
import torch
from consisid_pack.consisid_core.dev.memory_training import GIB, RUNS, example, gathered_bytes, kept_bytes, read_run
from consisid_pack.consisid_core.dev.memory_training import step_peak as peak_of
from consisid_pack.consisid_core.training.conditions import Example
from helpers import ROOT

LINES = (ROOT / "docs" / "memory.md").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("name", RUNS)
def test_what_stays_is_as_documented_and_adds_up(name):
    (line,) = [line for line in LINES if line.startswith(f"| {name} |")]
    cells = [cell.strip() for cell in line.strip("|").split("|")][1:]
    config = read_run(RUNS[name])
    kept = kept_bytes(config)
    assert cells[:4] == [f"{size / GIB:.1f}" for size in kept.values()]
    step, total = float(cells[4]), sum(kept.values()) / GIB
    sums = [total + step] * 3
    if config.memory.sharding == "fsdp":
        sums[1:] = [total / count + gathered_bytes() / GIB + step for count in (2, 8)]
    assert [float(cell) for cell in cells[5:]] == pytest.approx(sums, abs=0.11)


def test_a_lora_of_rank_32_fits_24_gb():
    (line,) = [line for line in LINES if line.startswith("| LoRA, rank 32,")]
    assert float(line.strip("|").split("|")[6]) * GIB < 0.8 * 24e9


def test_what_a_step_takes_grows_by_one_clip_of_tokens_a_block():
    """Checkpointed blocks keep their input, and those with identity tokens what these attend from, too."""
    config = read_run(RUNS["LoRA, rank 32, `lora`"])
    two, four = peak_of(config, 2), peak_of(config, 4)
    tokens = 226 + 13 * 30 * 45
    assert two < four <= two + 2 * 2.1 * tokens * 3072 * 2
    assert isinstance(example("meta", torch.bfloat16), Example)
