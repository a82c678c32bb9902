"""Which files form one checkpoint, and its config."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import ConsisIDError

DEMO_MARKER = "consisid_demo_weights"
"""Present in the metadata, or as a key, of every file that holds random demo weights."""

NOTE = "consisid_note"
"""Metadata: a sentence that whoever loads the file is to read."""

VOCABULARY = "consisid_vocabulary"
"""Metadata of a text encoder that learned few words: a JSON list of the tokens that it knows."""

SAVED_CONFIG = "consisid_config"
"""Under this name a transformer that ComfyUI has saved carries diffusers' config, as bytes."""

SAFETENSORS = (".safetensors", ".sft")
PICKLES = (".bin", ".pth", ".pt", ".ckpt")
GGUF = ".gguf"

_LIBRARY_STEMS = ("diffusion_pytorch_model", "model")
"""What diffusers and transformers call a file of weights that has its config.json beside it."""

_SHARD = re.compile(r"-\d{5}-of-\d{5}\.(safetensors|bin)$")


def list_checkpoints(filenames: Iterable[str]) -> list[str]:
    """Names to offer for choice: every file, but the shards of one checkpoint as the folder that holds them.

    Separators are slashes everywhere, so that workflows travel between systems.

    >>> list_checkpoints(["a.safetensors", "b/m-00001-of-00002.safetensors", "b/m-00002-of-00002.safetensors"])
    ['a.safetensors', 'b']
    """
    names = set()
    for name in filenames:
        folder = Path(name).parent
        # Shards without a folder of their own are offered too: choosing one is an error that says what to do.
        names.add(folder.as_posix() if folder.name and _SHARD.search(name) else Path(name).as_posix())
    # Averaged weights stand before the last ones of the same training, as the reference prefers them.
    return sorted(names, key=lambda name: (name.replace("transformer_ema", "transformer"), "_ema" not in name))


def checkpoint_files(path: Path | str) -> tuple[list[Path], dict]:
    """The weight files of a checkpoint.

    Args:
        path: a file, a folder of shards with an index, or a folder of one file as the libraries save small nets.

    Returns:
        (files, the config of diffusers or transformers, or {}).

    Raises:
        ConsisIDError: for a single shard, shards without an index, an unreadable index or config, a missing shard, or
            one outside the folder.
    """
    path = Path(path)
    path = _whole_net(path) or path
    if not path.is_dir():
        if _SHARD.search(path.name):
            raise ConsisIDError(
                f"{path} is one of several shards. Put all of them, with their .index.json and config.json, into a "
                "folder of their own and choose that folder."
            )
        config = path.with_name("config.json")
        is_theirs = path.stem in _LIBRARY_STEMS and config.is_file()
        return [path], _read_json(config) if is_theirs else {}
    index = _index_of(path)
    names = sorted({str(name) for name in _weight_map(index).values()})
    missing = [name for name in names if not (path / name).is_file()]
    if missing:
        raise ConsisIDError(
            f"{path} is incomplete: {index.name} names {len(names)} shards and {len(missing)} are missing "
            f"({', '.join(missing)}). Download them into this folder."
        )
    config = path / "config.json"
    return [path / name for name in names], _read_json(config) if config.is_file() else {}


def check_index(folder: Path, homes: Mapping[str, str]) -> None:
    """Compare a folder of shards with its index; a folder of one file needs none.

    Args:
        folder: of `checkpoint_files`.
        homes: parameter name -> name of the file that holds it.

    Raises:
        ConsisIDError: parameters are not in the file that the index names.
    """
    if _whole_net(folder):
        return
    index = _index_of(folder)
    stated = _weight_map(index)
    wrong = sorted(name for name in stated.keys() | homes.keys() if stated.get(name) != homes.get(name))
    if wrong:
        raise ConsisIDError(
            f"{index} does not fit its shards: {len(wrong)} parameters are not in the file that it names "
            f"({', '.join(wrong[:3])}). Download the folder again."
        )


def _whole_net(folder):
    """The file of a folder in which a library saved a net that is too small for shards, or None."""
    files = [file for file in folder.glob("*") if file.suffix.lower() in SAFETENSORS]
    if len(files) != 1 or files[0].stem not in _LIBRARY_STEMS or any(folder.glob("*.index.json")):
        return None
    return files[0] if (folder / "config.json").is_file() else None


def _index_of(folder):
    indexes = sorted(folder.glob("*.safetensors.index.json")) or sorted(folder.glob("*.index.json"))
    if len(indexes) != 1:
        raise ConsisIDError(
            f"{folder} holds {len(indexes)} index files (*.index.json); a folder of shards needs exactly one. "
            "Download the whole folder again."
        )
    return indexes[0]


def _weight_map(index):
    """Parameter name -> name of its shard."""
    weight_map = _read_json(index).get("weight_map")
    names = {str(name) for name in weight_map.values()} if isinstance(weight_map, dict) else set()
    if not names or any(Path(name).name != name for name in names):
        raise ConsisIDError(
            f"{index} is not an index of shards: its weight_map must name the files of this folder that hold the "
            "weights. Download it again."
        )
    return weight_map


def _read_json(path):
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConsisIDError(f"{path} cannot be read ({error}). Download it again.") from None
    return parse_json(text, path)


def parse_json(text: str | bytes, source: Path | str) -> dict:
    """The JSON object in a text.

    Args:
        text: e.g. the content of a file.
        source: where it stands, to begin the sentence of an error.

    Raises:
        ConsisIDError: it is none.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ConsisIDError(f"{source} cannot be read as JSON ({error}). Download it again.") from None
    if not isinstance(content, dict):
        raise ConsisIDError(f"{source} is not a JSON object. Download it again.")
    return content
