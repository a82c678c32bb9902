"""Fetching the parts of the release into their places."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..checkpoint.files import checkpoint_files
from ..errors import ConsisIDError
from .hub import DamagedDownloadError, RemoteFile, UnreachableError, fetch, is_same, list_remote, url_of
from .parts import REPOSITORY, Part, human, unfinished


@dataclass(frozen=True)
class Item:
    """A file to fetch and where it belongs."""

    part: Part
    remote: RemoteFile
    target: Path

    @property
    def remaining(self):
        """Bytes to fetch, if nothing has to be fetched twice."""
        if self.target.exists():
            return 0
        partial = unfinished(self.target)
        return max(0, self.remote.size - (partial.stat().st_size if partial.exists() else 0))


def plan(parts, folders):
    """The Items of these parts, by the hub's list of files. Raises ConsisIDError, UnreachableError with the way out."""
    try:
        remote = list_remote()
    except UnreachableError as error:
        raise UnreachableError(f"{error}\n{by_hand(parts, folders)}") from None
    items = []
    for part in parts:
        place = next((place for place in part.remote if _files_below(place, remote)), None)
        if place is None:
            raise ConsisIDError(
                f"{REPOSITORY} has no {' or '.join(part.remote)} at the model hub. It was moved or renamed; look for a "
                "newer version of this pack."
            )
        if place != part.remote[-1]:
            print(f"{part.name}: the repository has {place}, which is taken instead of {part.remote[-1]}.")
        target = part.place(folders)
        for path in _files_below(place, remote):
            items.append(Item(part, remote[path], target / path[len(place) + 1 :] if path != place else target))
    return items


def _files_below(place, remote):
    """Paths of the weights, index and config in a folder of the repository; or the path itself if it is a file."""
    if place in remote:
        return [place]
    names = [path for path in remote if path.rpartition("/")[0] == place]
    for suffix in (".safetensors", ".bin"):
        if weights := [name for name in names if name.endswith((suffix, f"{suffix}.index.json"))]:
            return sorted(weights + [name for name in names if name == f"{place}/config.json"])
    return []


def check_space(items):
    """Raise ConsisIDError if what remains to be fetched does not fit on the disks."""
    needs = {}
    for item in items:
        folder = next(parent for parent in item.target.parents if parent.exists())
        place, size = needs.get(folder.stat().st_dev, (folder, 0))
        needs[folder.stat().st_dev] = place, size + item.remaining
    for folder, size in needs.values():
        free = shutil.disk_usage(folder).free
        if size > free:
            raise ConsisIDError(
                f"{human(size)} are to be fetched, but the disk of {folder} has {human(free)} free. Make room, or "
                "fetch single parts with --part."
            )


def run(items):
    """Fetch what is not there yet, reporting each file. Returns the number of files that are not as the hub has them.

    Raises ConsisIDError when going on makes no sense: no connection, no permission, a full disk.
    """
    wrong = 0
    for item in items:
        if os.path.lexists(item.target):
            if item.target.is_file() and is_same(item.target, item.remote):
                print(f"kept     {item.target}")
            else:
                wrong += 1
                print(
                    f"DIFFERS  {item.target} is not the file that the hub has. It was left as it is: delete or rename"
                )
                print("         it and run the command again to get the released one.")
            continue
        try:
            fetch(item.remote, item.target, unfinished(item.target))
            print(f"fetched  {item.target}")
        except DamagedDownloadError as error:
            wrong += 1
            print(f"DAMAGED  {error}")
    return wrong


def by_hand(parts, folders):
    """The list of addresses and targets for somebody who fetches the files in another way."""
    lines = ["To fetch the files by hand, from another machine if need be, save each address under the path after it:"]
    for part in parts:
        target, place = part.place(folders), part.remote[-1]
        if not part.files:
            lines.append(f"  {url_of(place)}\n    -> {target}")
            continue
        lines += [f"  {url_of(f'{place}/{name}')}\n    -> {target / name}" for name in part.files]
        if not part.weights:
            lines += _shards_by_hand(place, target)
    return "\n".join(lines)


def _shards_by_hand(place, target):
    try:
        shards = [file.name for file in checkpoint_files(target)[0]] if target.is_dir() else []
    except ConsisIDError:
        shards = []
    if shards:
        return [f"  {url_of(f'{place}/{name}')}\n    -> {target / name}" for name in shards]
    return [
        f"  {url_of(place)}/<shard>\n    -> {target / '<shard>'}, for each shard that the "
        ".index.json above names in its weight_map"
    ]
