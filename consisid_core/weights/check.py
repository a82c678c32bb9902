"""Verifying the parts that a ComfyUI has."""

from ..checkpoint.files import checkpoint_files
from ..errors import ConsisIDError
from .download import plan
from .hub import is_same
from .layout import human, unfinished
from .nets import check_net
from .status import status_of


def run(parts, folders, with_hash):
    """Check each part and print a line for it. Returns the number of parts that are missing or wrong.

    with_hash: compare each file's checksum with the hub's, too. Raises ConsisIDError if the hub cannot be asked.
    """
    items = plan(parts, folders) if with_hash else []
    wrong = 0
    for part in parts:
        status = status_of(part, folders)
        try:
            if status.state == "replaced":
                print(f"{part.name}: not there; {status.note}")
                continue
            if status.state == "missing":
                raise ConsisIDError(f"missing; it belongs at {status.path}")
            note = _check_part(part, status.path)
            for item in items:
                if item.part is part and not (item.target.is_file() and is_same(item.target, item.remote)):
                    raise ConsisIDError(f"{item.target} is not the file that the hub has (size or checksum differs)")
        except ConsisIDError as error:
            wrong += 1
            print(f"{part.name}: WRONG: {error}")
        else:
            print(f"{part.name}: ok, {human(status.fetched)}: {note}{', as at the hub' if with_hash else ''}")
    return wrong


def _check_part(part, target):
    begun = list(target.glob("*.part")) if target.is_dir() else [unfinished(target)]
    if begun := [path for path in begun if path.exists()]:
        raise ConsisIDError(f"{begun[0]} is an unfinished download; run `download` again")
    checkpoint = target / part.weights
    checkpoint_files(checkpoint)  # Names missing shards, before anything is read.
    return check_net(part.name, checkpoint)
