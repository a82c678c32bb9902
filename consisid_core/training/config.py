"""Every number of a training run, from one TOML file.

A file names a preset and what differs from it:

    preset = "lora"
    [weights]
    transformer = "models/diffusion_models/ConsisID-preview/transformer"
    [data]
    cache = "cache"

`presets/paper.toml` holds all keys with the section of the paper beside each; the other presets say what differs.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from ..errors import ConsisIDError

PRESETS = ("paper", "released", "lora", "small")


def _number(least: float, most: float = math.inf) -> Any:
    return field(metadata={"range": (least, most)})


def _choice(*values: str) -> Any:
    return field(metadata={"choice": values})


def _probability() -> Any:
    return _number(0, 1)


@dataclass(frozen=True)
class Run:
    """How a run is kept."""

    seed: int = _number(0)
    """Of every random number: the same seed, the same run."""
    save_every: int = _number(1)
    """Steps between checkpoints."""
    keep: int = _number(1)
    """Checkpoints that are kept."""
    log_every: int = _number(1)
    """Steps between values in TensorBoard."""


@dataclass(frozen=True)
class Weights:
    """Where training starts."""

    transformer: str
    """A ConsisID transformer; or a CogVideoX one, whose face modules are then new; or "" for a new net of `net`."""


@dataclass(frozen=True)
class Data:
    """What is trained on."""

    cache: str
    """Folder that `prepare` wrote."""
    workers: int = _number(0)
    """Processes that read ahead; any number gives the same training."""


@dataclass(frozen=True)
class Batch:
    """How many clips a step sees; any number of processes gives the same training."""

    size: int = _number(1)
    """Clips of a step, of all processes together."""
    micro: int = _number(1)
    """Clips that one process has in memory at a time; the rest of a step is accumulated."""


@dataclass(frozen=True)
class Conditions:
    """What the net is told of the person, and how often it is not. Probabilities for each clip."""

    cross_face: float = _probability()
    """That the reference face comes from outside the clip (dynamic cross-face loss: beta)."""
    reference_noise: bool
    """Whether the reference has noise on its pixels, of sigma exp(N(-3, 0.5))."""
    image_dropout: float = _probability()
    """That the image latents are zeros."""
    text_dropout: float = _probability()
    """That the text is empty."""
    identity_dropout: float = _probability()
    """That no identity tokens are attended."""
    token_dropout: float = _probability()
    """That an identity token is zeros, for each token."""


@dataclass(frozen=True)
class Loss:
    """What is minimised: see `losses`."""

    mask_probability: float = _probability()
    """That the loss of a clip counts inside the face's mask only (dynamic mask loss: alpha)."""


@dataclass(frozen=True)
class Optimizer:
    """AdamW and what surrounds it."""

    beta1: float = _number(0, 1)
    beta2: float = _number(0, 1)
    eps: float = _number(0)
    weight_decay: float = _number(0)
    clip_norm: float = _number(0)
    """The gradient's norm is cut to this."""
    warmup: int = _number(0)
    """Steps at the start of each stage in which the learning rate rises from 0."""
    cycles: int = _number(1)
    """Times that it falls to 0 along a cosine in each stage."""
    ema_decay: float = _number(0, 1)
    """Of the averaged weights, which approach it as min(decay, (1 + n) / (10 + n)); 0 keeps none."""


@dataclass(frozen=True)
class Memory:
    """What a step takes, and how it is spread."""

    precision: str = _choice("float32", "mixed", "bfloat16")
    """"mixed": trained parameters in float32, frozen ones and the computing in bfloat16."""
    frozen: str = _choice("bfloat16", "float8")
    """How the linear layers that are never trained are kept, if the precision is not float32."""
    checkpointing: bool
    """Whether blocks are computed again in the backward pass instead of kept."""
    sharding: str = _choice("ddp", "fsdp")
    """Several processes: a whole copy for each (DDP), or everything in slices (FSDP2)."""
    compile: bool
    """Whether blocks go through torch.compile."""


@dataclass(frozen=True)
class Lora:
    """Low-rank additions in place of whole weights."""

    rank: int = _number(0)
    """0 for none."""
    alpha: float = _number(0)
    """They are scaled by alpha / rank."""
    targets: list[str]
    """Ends of the names of the layers that have one."""


@dataclass(frozen=True)
class Guard:
    """What happens where loss or gradient are no finite numbers: such a step changes nothing."""

    skips: int = _number(1)
    """After so many in a row the run goes back to its last checkpoint, and on with other random numbers."""
    returns: int = _number(0)
    """After so many returns to one checkpoint the run ends."""


@dataclass(frozen=True)
class Validation:
    """Videos of the people and prompts that the command `cases` put into the cache."""

    every: int = _number(0)
    """Steps between them; they are made at the end of the run, too. 0 for none."""
    steps: int = _number(1, 1000)
    """Of the sampler."""
    guidance: float = _number(1)
    """Scale of classifier-free guidance; 1 for none."""


@dataclass(frozen=True)
class Stage:
    """A part of the run (coarse to fine), with an optimiser and a schedule of its own."""

    steps: int = _number(0)
    learning_rate: float = _number(0)
    image: str = _choice("face", "first_frame", "none")
    """What the image latents hold: the reference face (low frequency), or the clip's first frame as the image-to-video
    base has it."""
    identity_tokens: bool
    """Whether identity tokens are attended (high frequency)."""
    train: dict[str, float]
    """Pattern of parameter names -> factor on the learning rate. The first that fits counts; 0, or none, is frozen.
    Face modules are frozen, too, where no identity tokens are attended."""


@dataclass(frozen=True)
class TrainingConfig:
    """A whole run."""

    run: Run
    weights: Weights
    net: dict[str, Any]
    """Fields of `TransformerConfig` that are not as in the file: where the identity enters; or of a new net."""
    data: Data
    batch: Batch
    conditions: Conditions
    loss: Loss
    optimizer: Optimizer
    memory: Memory
    lora: Lora
    guard: Guard
    validation: Validation
    stages: dict[str, Stage]
    """By name, in their order; one of no steps is left out."""


def load_config(file: Path | str) -> TrainingConfig:
    """Read a config file. Paths in it are relative to its folder.

    Raises:
        ConsisIDError: it cannot be read, or a key is unknown, missing or out of its range: each by its name.
    """
    file = Path(file)
    content = _read(file)
    preset = content.pop("preset", None)
    if preset is not None:
        if preset not in PRESETS:
            raise ConsisIDError(f"{file}: there is no preset {preset!r}{_nearest(str(preset), PRESETS)}")
        content = _merged(TrainingConfig, _preset(preset), content)
    config = _parse(TrainingConfig, content, f"{file}", "")
    if not any(stage.steps for stage in config.stages.values()):
        raise ConsisIDError(f"{file}: no stage has any steps. Give one of them steps above 0.")
    return _with_paths(config, file.parent)


def write_config(config: TrainingConfig, file: Path) -> None:
    """Write all of a config, so that it can be read again without a preset."""
    file.write_text("# Every number of this run.\n" + "\n".join(_toml(asdict(config), "")) + "\n", encoding="utf-8")


def differences(one: TrainingConfig, other: TrainingConfig) -> dict[str, tuple[Any, Any]]:
    """Names of the keys that differ -> both values."""
    first, second = _flat(asdict(one)), _flat(asdict(other))
    names = dict.fromkeys([*first, *second])
    return {name: (first.get(name), second.get(name)) for name in names if first.get(name) != second.get(name)}


def _preset(name):
    """The tables of a preset, on those of the preset that it is based on."""
    content = _read(Path(__file__).parent / "presets" / f"{name}.toml")
    base = content.pop("preset", None)
    return _merged(TrainingConfig, _preset(base), content) if base else content


def _read(file):
    try:
        import tomllib
    except ImportError:  # Python 3.10
        import tomli as tomllib
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConsisIDError(f"{file} cannot be read: {error.strerror or error}.") from None
    except ValueError as error:
        raise ConsisIDError(f"{file} is not TOML: {error}.") from None


def _merged(kind, base, changes):
    """Tables of this dataclass, key by key; what is no dataclass there, such as the patterns, is replaced whole."""
    merged = dict(base)
    hints = get_type_hints(kind)
    for key, value in changes.items():
        hint = hints.get(key)
        if isinstance(value, dict) and is_dataclass(hint):
            merged[key] = _merged(hint, base.get(key, {}), value)
        elif isinstance(value, dict) and key == "stages":
            stages = merged[key] = dict(base.get(key, {}))
            for name, stage in value.items():
                is_table = isinstance(stage, dict)
                stages[name] = _merged(Stage, stages.get(name, {}), stage) if is_table else stage
        else:
            merged[key] = value
    return merged


def _parse(kind, table, file, path):
    """A dataclass of a table, its values checked."""
    if not isinstance(table, dict):
        raise ConsisIDError(f"{file}: {path.rstrip('.')} must be a table.")
    hints = get_type_hints(kind)
    known = {item.name: item for item in fields(kind)}
    if unknown := [key for key in table if key not in known]:
        raise ConsisIDError(f"{file}: there is no key {path}{unknown[0]}{_nearest(unknown[0], known, path)}")
    if missing := [key for key in known if key not in table]:
        raise ConsisIDError(f'{file}: {path}{missing[0]} is missing. Give it, or name a preset: preset = "paper".')
    return kind(**{key: _value(hints[key], table[key], item, file, path + key) for key, item in known.items()})


def _value(hint, value, item, file, path):
    if is_dataclass(hint):
        return _parse(hint, value, file, path + ".")
    wanted = {str: "text", bool: "true or false", int: "a whole number", float: "a number", dict: "a table"}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    plain = get_origin(hint) or hint
    if not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
        raise ConsisIDError(f"{file}: {path} must be {wanted.get(plain, 'a list of texts')}, not {value!r}.")
    if plain is dict:
        inner = get_args(hint)[1]
        if is_dataclass(inner):
            return {name: _parse(inner, stage, file, f"{path}.{name}.") for name, stage in value.items()}
        if inner is float:
            return {key: _value(float, number, None, file, f"{path}.{key}") for key, number in value.items()}
    if plain is list and not all(isinstance(text, str) for text in value):
        raise ConsisIDError(f"{file}: {path} must be a list of texts, not {value!r}.")
    least, most = item.metadata.get("range", (-math.inf, math.inf)) if item else (0, math.inf)
    if plain in (int, float) and not least <= value <= most:
        upper = f" to {most:g}" if most < math.inf else " or more"
        raise ConsisIDError(f"{file}: {path} must be {least:g}{upper}, not {value:g}.")
    if (choice := item and item.metadata.get("choice")) and value not in choice:
        raise ConsisIDError(f"{file}: {path} must be one of {', '.join(choice)}, not {value!r}.")
    return value


def _nearest(word, words, path=""):
    near = difflib.get_close_matches(word, words, n=1, cutoff=0)
    return f". Did you mean {path}{near[0]}?" if near else "."


def _with_paths(config, folder):
    from dataclasses import replace

    def absolute(path):
        return str((folder / path).resolve()) if path else ""

    return replace(
        config,
        weights=replace(config.weights, transformer=absolute(config.weights.transformer)),
        data=replace(config.data, cache=absolute(config.data.cache)),
    )


def _toml(table: Mapping, path: str):
    """The lines of a table: its values, then the tables in it."""
    tables = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    for key, value in table.items():
        if key not in tables:
            # Texts, numbers, truth values and lists of them are written alike in JSON.
            yield f"{json.dumps(key) if not key.isidentifier() else key} = {json.dumps(value)}"
    for key, value in tables.items():
        name = path + (key if key.isidentifier() else json.dumps(key))
        yield f"\n[{name}]"
        yield from _toml(value, name + ".")


def _flat(table, path=""):
    flat = {}
    for key, value in table.items():
        flat |= _flat(value, f"{path}{key}.") if isinstance(value, Mapping) and value else {path + key: value}
    return flat
