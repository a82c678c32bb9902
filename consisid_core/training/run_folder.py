"""The folder of a run: its config, what its cache was made with, and that only one program at a time writes it.

RUN_DIR/config.toml       every number of the run
RUN_DIR/cache.json        the nets that made its cache
RUN_DIR/checkpoints/      see `checkpoint`
RUN_DIR/tensorboard/      see `monitor`
RUN_DIR/validation/       see `validation`
RUN_DIR/run.lock          who is at work
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..errors import ConsisIDError
from ..evaluation.results import held_alone, whole_file
from .cache import check_nets
from .config import TrainingConfig, differences, load_config, write_config

log = logging.getLogger("consisid")

CONFIG = "config.toml"
_CACHE = "cache.json"
_LOCK = "run.lock"

_FIXED = re.compile(r"(weights|net|lora)\b.*|run\.seed|optimizer\.ema_decay|stages\..*\.train\b.*")
"""Keys that decide what is in a run's checkpoints; all others may change where a run goes on."""


@contextmanager
def held(run_dir: Path) -> Iterator[None]:
    """Have a run's folder for this program alone, made if it is missing.

    Raises:
        ConsisIDError: another program has it, which is named; or it holds other things.
    """
    own = {CONFIG, _CACHE, _LOCK, "checkpoints", "tensorboard", "validation"}
    if run_dir.exists() and not run_dir.is_dir():
        raise ConsisIDError(f"{run_dir} is a file. Name a folder for the run.")
    foreign = sorted({path.name for path in run_dir.glob("*")} - own) if run_dir.is_dir() else []
    if foreign and not (run_dir / CONFIG).is_file():
        raise ConsisIDError(
            f"{run_dir} holds other files ({', '.join(foreign[:3])}) and no run. Name a new or an empty folder."
        )
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / _LOCK).touch()
    except OSError as error:
        raise ConsisIDError(f"{run_dir} cannot be written: {error.strerror or error}. Name another folder.") from None
    with held_alone(run_dir / _LOCK, "trained"):
        yield


def note(run_dir: Path, config: TrainingConfig, cache_nets: Mapping[str, str]) -> None:
    """Write down what a run is, or compare it with what is written there.

    Args:
        cache_nets: `cache.Index.nets`.

    Raises:
        ConsisIDError: the run there is another one.
    """
    file = run_dir / CONFIG
    if file.is_file():
        changed = differences(load_config(file), config)
        if fixed := [name for name in changed if _FIXED.fullmatch(name)]:
            was, now = changed[fixed[0]]
            raise ConsisIDError(
                f"{run_dir} was begun with another {fixed[0]}: {was!r}, not {now!r}. Put it back to go on with that "
                "run, or name a new folder."
            )
        for name, (was, now) in changed.items():
            log.warning("%s: %s was %r and is %r from here on.", run_dir, name, was, now)
        check_nets(json.loads((run_dir / _CACHE).read_text(encoding="utf-8")), cache_nets, config.data.cache)
    for name, write in {
        _CACHE: lambda path: path.write_text(json.dumps(dict(cache_nets)), encoding="utf-8"),
        CONFIG: lambda path: write_config(config, path),
    }.items():
        with whole_file(run_dir / name) as unfinished:
            write(unfinished)
