"""Lists, fetches, checks and converts the released weights. See `--help`."""

import argparse
import sys

from ..checkpoint.model_folders import ModelFolders
from ..errors import ConsisIDError
from . import check, convert, download
from .parts import EVALUATION_PARTS, PARTS, REPOSITORY, human
from .status import status_of

_ALL = (*PARTS, *EVALUATION_PARTS)
_NAMES = [part.name for part in _ALL]


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m consisid_core.weights",
        description=f"The weights of {REPOSITORY} for ComfyUI: what is there, fetching, checking, converting.",
        epilog="Without a command: list. Exit codes: 0 all is well, 1 a problem that is named, 2 wrong usage, 130 "
        "stopped with Ctrl-C. `--check` may be written for `check`.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    folder = argparse.ArgumentParser(add_help=False)
    folder.add_argument(
        "comfyui", nargs="?", metavar="COMFYUI",
        help="ComfyUI's folder, with its extra_model_paths.yaml, or a models folder; by default the ComfyUI whose "
        "custom_nodes holds this pack, else COMFYUI_PATH",
    )  # fmt: skip
    chosen = argparse.ArgumentParser(add_help=False)
    chosen.add_argument(
        "--part", action="append", choices=_NAMES, metavar="PART",
        help="only this part; may be given several times: " + ", ".join(_NAMES)
        + "; without it, all but those that only measure videos: "
        + ", ".join(part.name for part in EVALUATION_PARTS),
    )  # fmt: skip

    commands.add_parser("list", parents=[folder], help="show what is there and what is missing (no network)")
    fetch = commands.add_parser(
        "download", parents=[folder, chosen], help="fetch what is missing",
        description="Fetches what is missing into the places that the workflows expect. Every file is verified "
        "against the hub's checksum before it gets its name, a stopped download goes on at the next run, and a file "
        "that is there already is never overwritten. HF_TOKEN, HF_ENDPOINT and `hf auth login` are honoured.",
    )  # fmt: skip
    fetch.add_argument("--yes", action="store_true", help="do not ask before the download")
    verify = commands.add_parser(
        "check", parents=[folder, chosen], help="verify names, shapes and completeness of the weights",
    )  # fmt: skip
    verify.add_argument("--hash", action="store_true", help="also compare checksums with the hub (reads every byte)")
    into = commands.add_parser(
        "convert", help="write one .safetensors file in another number format",
        description="Writes SRC as one .safetensors file DST, with diffusers' parameter names and config. Values are "
        "cast, not scaled; parameters that no layer casts (the position table, the facial extractor's queries and "
        "projection) stay bf16 in fp8 files. One that does not fit the format is an error that names it.",
    )  # fmt: skip
    into.add_argument("source", metavar="SRC", help="transformer, VAE or T5: a folder of shards, .safetensors, .bin, …")
    into.add_argument("target", metavar="DST", help="the .safetensors file to write; must not exist")
    into.add_argument("--dtype", required=True, choices=convert.DTYPES, help="fp8 for transformer and T5 only")
    return parser


def _list(options):
    folders = ModelFolders(options.comfyui)
    statuses = [status_of(part, folders) for part in _ALL]
    _print_table(
        ["PART", "STATUS", "SIZE", "LICENCE", "PLACE"],
        [
            [part.name, _state(part, status), f"~{human(part.size)}", part.licence, folders.shown(status.path)]
            for part, status in zip(_ALL, statuses, strict=True)
        ],
    )
    for part, status in zip(_ALL, statuses, strict=True):
        if status.note:
            print(f"{part.name}: {status.note}")
    left = sum(
        max(0, part.size - status.fetched)
        for part, status in zip(PARTS, statuses, strict=False)
        if status.state in ("missing", "incomplete")
    )
    print(f"Still to fetch: about {human(left)}." if left else "Nothing to fetch.")
    return 0


def _state(part, status):
    is_optional = part in EVALUATION_PARTS and status.state == "missing"
    return "missing (optional)" if is_optional else status.state


def _chosen(options):
    return [part for part in _ALL if part.name in options.part] if options.part else list(PARTS)


def _download(options):
    folders = ModelFolders(options.comfyui)
    parts = _chosen(options)
    if not options.part:
        for part in parts.copy():
            status = status_of(part, folders)
            if status.state == "replaced":
                print(f"{part.name}: {status.note}. Skipped; --part {part.name} fetches it all the same.")
                parts.remove(part)
    items = download.plan(parts, folders)
    left = sum(item.remaining for item in items)
    if left:
        rows = []
        for part in parts:
            if size := sum(item.remaining for item in items if item.part is part):
                rows.append([part.name, human(size), part.licence, folders.shown(part.place(folders))])
        _print_table(["PART", "TO FETCH", "LICENCE", "PLACE"], rows)
        print(f"In all {human(left)}.")
        download.check_space(items)
        if not options.yes and not _confirmed():
            print("Nothing was fetched. Answer y, or give --yes.")
            return 1
    wrong = download.run(items)
    if wrong:
        print(f"{wrong} of {len(items)} files are not as the hub has them; see above.")
        return 1
    print("All files are in place.")
    return 0


def _confirmed():
    try:
        return input("Download, under the licences above? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


def _check(options):
    folders = ModelFolders(options.comfyui)
    parts = _chosen(options)
    return 1 if check.run(parts, folders, options.hash) else 0


def _convert(options):
    count, size = convert.convert(options.source, options.target, options.dtype)
    print(f"wrote {options.target}: {count} parameters, {human(size)}")
    return 0


def _print_table(head, rows):
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def main(arguments):
    arguments = ["check" if argument == "--check" else argument for argument in arguments] or ["list"]
    options = _parser().parse_args(arguments)
    command = {"list": _list, "download": _download, "check": _check, "convert": _convert}[options.command]
    try:
        return command(options)
    except ConsisIDError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        again = "; the next run goes on where this one stopped" if options.command == "download" else ""
        print(f"\nStopped{again}.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
