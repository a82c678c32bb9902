"""What the demo needs to run on the released weights: where they are, what is missing, how long it takes on a CPU."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from environment import ROOT, UserError, say

sys.path.append(str(ROOT))
from consisid_core.checkpoint.model_folders import ModelFolders  # noqa: E402
from consisid_core.errors import ConsisIDError  # noqa: E402
from consisid_core.model.config import TransformerConfig  # noqa: E402
from consisid_core.weights.parts import PARTS, human  # noqa: E402
from consisid_core.weights.status import status_of  # noqa: E402

# The nodes that load what another file may serve for, and their inputs.
LOADERS = {
    "transformer": ("ConsisIDModelLoader", "model_name"),
    "vae": ("ConsisIDVAELoader", "vae_name"),
    "text_encoder": ("ConsisIDTextEncoderLoader", "text_encoder_name"),
}
MULTIPLICATIONS = 3
MATRIX = 2048


def prepare(graph: dict, place: str | Path, low_memory: bool, folder: Path) -> list[str]:
    """Put the weight files that are found into the graph.

    Args:
        graph: A workflow as ComfyUI's /prompt takes it; changed.
        place: The ComfyUI or models folder to look in.
        low_memory: Whether ComfyUI shall save memory.
        folder: Where the file goes that tells ComfyUI where the weights are.

    Returns:
        Arguments for ComfyUI.

    Raises:
        UserError: Saying what is missing.
    """
    try:
        folders = ModelFolders(place)
        statuses = [(part, status_of(part, folders)) for part in PARTS]
    except ConsisIDError as error:
        raise UserError(str(error)) from error
    missing = [(part, status) for part, status in statuses if status.state in ("missing", "incomplete")]
    if missing:
        raise UserError(_missing_message(missing, place))
    for part, status in statuses:
        if status.state == "replaced":
            say(f"{part.name}: {status.substitute} takes its place")
            class_type, name = LOADERS[part.name]
            for node in graph.values():
                if node["class_type"] == class_type:
                    node["inputs"][name] = status.substitute
    arguments = ["--extra-model-paths-config", str(_write_model_paths(folders, folder / "model_paths.yaml"))]
    return [*arguments, *(["--lowvram"] if low_memory and _has_accelerator() else [])]


def warn_without_accelerator(graph: dict) -> None:
    """Say how long the graph takes where only the CPU computes."""
    if _has_accelerator():
        return
    inputs = {name: value for node in graph.values() for name, value in node["inputs"].items()}
    import torch

    say(
        f"Warning: PyTorch {torch.__version__} finds no CUDA device, so the CPU computes. By the number of\n"
        f"multiplications, {inputs['steps']} steps of {inputs['length']} frames take at least"
        f" {_hours_on_cpu(inputs['steps'], inputs['length']):.1f} hours here. If there is a GPU, set CONSISID_VENV to\n"
        "the virtual environment that runs your ComfyUI. Ctrl-C stops."
    )


def _missing_message(missing: list, place: str | Path) -> str:
    join = subprocess.list2cmdline if os.name == "nt" else shlex.join
    lines = [f"Of the released weights, {len(missing)} of {len(PARTS)} parts are not there:"]
    for part, status in missing:
        note = f" ({status.note})" if status.note else ""
        lines.append(f"    {part.name}, {human(part.size)}, belongs at {status.path}{note}")
    lines += [
        "The licences are in the README. To fetch what is missing, run",
        f"    {join(['cd', str(ROOT)])}",
        f"    {join([sys.executable, '-m', 'consisid_core.weights', 'download', str(Path(place).absolute())])}",
        "or name another models folder with --models.",
    ]
    return "\n".join(lines)


def _write_model_paths(folders: ModelFolders, file: Path) -> Path:
    """Writes the folders in the form of ComfyUI's extra_model_paths.yaml; JSON is YAML, too."""
    kinds = {part.folder for part in PARTS}
    # ComfyUI puts each before those it has read earlier.
    paths = {kind: "\n".join(str(root) for root in reversed(folders.roots(kind))) for kind in sorted(kinds)}
    file.write_text(json.dumps({"released_weights": {"is_default": True, **paths}}, indent=2), encoding="utf-8")
    return file


def _has_accelerator() -> bool:
    import torch

    return torch.cuda.is_available()


def _hours_on_cpu(steps: int, length: int) -> float:
    """The transformer's multiplications at the released size, at the speed of this machine's large matrix products."""
    import torch

    config = TransformerConfig()
    width, layers = config.hidden_dim, config.num_layers
    faces = layers // config.cross_attn_interval * 2 * width * config.cross_attn_heads * config.cross_attn_head_dim
    _, rows, columns = config.base_grid
    tokens = config.max_text_length + ((length - 1) // 4 + 1) * rows * columns
    weights = layers * (4 * width**2 + 2 * width * config.ff_dim) + faces
    operations = 2 * weights * tokens + 4 * layers * width * tokens**2
    matrix = torch.rand(MATRIX, MATRIX)
    matrix @ matrix
    start = time.monotonic()
    for _ in range(MULTIPLICATIONS):
        matrix @ matrix
    seconds = (time.monotonic() - start) / (2 * MULTIPLICATIONS * MATRIX**3)
    return 2 * steps * operations * seconds / 3600  # Two branches of guidance.
