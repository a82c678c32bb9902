"""Makes the videos of a table, on one machine or many. See `--help`."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections import Counter
from pathlib import Path

from ..command_line import at_least, run_command
from .cost import cost_lines
from .faces import ANALYZER, FACE_NODES
from .graph import DEFAULT, read_graph
from .plan import Plan
from .protocol import lay_out
from .run import Run
from .run_folder import RunFolder
from .server import base_directory, find_comfyui
from .table import read_table

_SHOWN = 10  # failures at the end
_FILES = ("store", "folder")


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m consisid_core.batch",
        description="Makes a video for every row of RUN_DIR/manifest.csv. Columns: photo (several of one person are "
        "separated by semicolons), prompt, negative, seed, system, and any NODE.INPUT of the graph, by number "
        "or title. RUN_DIR/videos receives the videos and a manifest for consisid_core.evaluation. A second start "
        "makes only what is missing.",
        epilog="Exit codes: 0 every video is there, 1 some are not or a problem is named, 2 wrong usage, 130 stopped "
        "with Ctrl-C.",
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="folder with manifest.csv or manifest.json")
    parser.add_argument(
        "--graph", type=Path, default=DEFAULT, metavar="FILE",
        help="graph in API format (default: the template consisid_text_to_video)",
    )  # fmt: skip
    parser.add_argument(
        "--comfyui", metavar="DIR",
        help="ComfyUI's folder, on a cluster that of every machine; by default the ComfyUI whose custom_nodes holds "
        "this pack, else COMFYUI_PATH",
    )  # fmt: skip
    parser.add_argument(
        "--server-options", type=shlex.split, default=[], metavar="TEXT",
        help='further options for the ComfyUI servers that are started, in one text: "--fast --lowvram"',
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=at_least(1), metavar="N", help="so many servers on this machine (default: one for each GPU)"
    )
    parser.add_argument(
        "--gpus-per-video", type=at_least(1), default=1, metavar="N",
        help="so many GPUs for each server, over which the graph splits its video with MultiGPU CFG Split (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--url", action="append", metavar="URL",
        help="use this ComfyUI, which somebody else runs, and start none; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--ray", metavar="ADDRESS", nargs="?", const="auto",
        help="use every GPU of a Ray cluster: its address, or none for the one that this machine belongs to",
    )  # fmt: skip
    parser.add_argument(
        "--files", choices=_FILES, default="store",
        help="how photos and videos travel on a Ray cluster: through Ray's object store (default), or through RUN_DIR, "
        "which then is a folder that all machines see under this path",
    )  # fmt: skip
    parser.add_argument(
        "--attempts", type=at_least(1), default=3, metavar="N",
        help="so many workers are given a video whose worker is lost or hangs (default: 3)",
    )  # fmt: skip
    parser.add_argument(
        "--stall", type=at_least(1), default=1800, metavar="SECONDS",
        help="a video without any progress for so long counts as hung (default: 1800)",
    )  # fmt: skip
    parser.add_argument("--retry-refused", action="store_true", help="try also what a node has refused before")
    parser.add_argument(
        "--evaluate", action="store_true", help="score the videos at the end, as consisid_core.evaluation does"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be made and what it costs, and stop")
    parser.add_argument(
        "--seconds", type=float, metavar="S",
        help="of one worker for one video, for the estimate (default: as measured in this folder, else of one H100)",
    )  # fmt: skip
    parser.add_argument("--price", type=float, metavar="P", help="of a GPU for an hour, for the estimate")
    preset = parser.add_argument_group("to lay out the table: every photo with every prompt and seed")
    preset.add_argument("--people", type=Path, metavar="DIR", help="photos, or a folder of photos for each person")
    preset.add_argument("--prompts", type=Path, metavar="FILE", help="one prompt a line")
    preset.add_argument("--seeds", type=at_least(1), metavar="N", help="seeds 0 to N-1 (default: 1)")
    return parser


def _backend(options, folder):
    """The backend that the options name."""
    if options.url:
        from .backends.urls import Urls

        return Urls(options.url, options.stall)
    if options.ray:
        from .backends.ray_cluster import RayCluster

        shared = folder.run_dir.absolute() if options.files == "folder" else None
        return RayCluster(
            options.ray, options.comfyui, options.server_options, options.stall, shared, options.gpus_per_video
        )
    from .backends.local import Local

    root = find_comfyui(options.comfyui)
    servers = folder.state / "servers"
    return Local(root, servers, options.server_options, options.workers or 0, options.stall, options.gpus_per_video)


def _run(options):
    run_dir = options.run_dir
    graph, folder = read_graph(options.graph), RunFolder(run_dir)
    if options.gpus_per_video > 1:
        graph.check_split(options.gpus_per_video)
    if options.people or options.prompts:
        rows = lay_out(run_dir, options.people, options.prompts, options.seeds or 1, write=not options.dry_run)
    else:
        rows = read_table(run_dir)
    backend = _backend(options, folder)
    try:
        plan = Plan(run_dir, graph, rows, backend.weights(graph.nodes))
        missing = [item for item in plan.items if not folder.made(item.key)]
        refused = [item for item in missing if folder.is_refused(item.key)]
        todo = missing if options.retry_refused else [item for item in missing if item not in refused]
        print(f"{len(plan.items)} videos, of which {len(plan.items) - len(missing)} are there.", end=" ")
        print(f"{len(refused)} were refused before; --retry-refused tries them again." if refused else "")
        for line in cost_lines(len(todo), options.seconds, folder.seconds(), options.price, options.gpus_per_video):
            print(line)
        if options.dry_run:
            return 0
        with folder.held():
            try:
                if todo:
                    has_faces = backend.keeps_identities and ANALYZER in graph.node_types
                    backend.start(graph.node_types | (FACE_NODES if has_faces else frozenset()), plan.weights)
                    Run(folder, plan, backend, options.attempts).make(todo)
            finally:
                made = [(item, folder.made(item.key)) for item in plan.items]
                folder.write_manifest(plan.described(item, video) for item, video in made if video)
    finally:
        backend.close()
    code = _say_end(plan, folder)
    if options.evaluate and folder.any_video():
        from ..evaluation.__main__ import main as evaluate  # With torch, which takes seconds.

        models = base_directory(options.comfyui, options.server_options)
        where = ["--comfyui", str(models)] if models else []
        code = max(code, evaluate([str(folder.videos), *where]))
    return code


def _say_end(plan, folder):
    missing = [item for item in plan.items if not folder.made(item.key)]
    print(f"{len(plan.items) - len(missing)} of {len(plan.items)} videos are in {folder.videos}.")
    if not missing:
        return 0
    failures = [folder.failure(item.key) or {"kind": "not begun", "error": ""} for item in missing]
    kinds = Counter(failure["kind"] for failure in failures)
    print("Missing: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) + ".")
    for item, failure in list(zip(missing, failures, strict=True))[:_SHOWN]:
        print(f"  {item.row.place}: {failure['kind']}: {failure['error']}")
    if len(missing) > _SHOWN:
        print(f"  and {len(missing) - _SHOWN} more, in {folder.state}/results_videos.*.jsonl.")
    return 1


def main(arguments: list[str]) -> int:
    """Run the command.

    Args:
        arguments: of the command line, without the program's name.

    Returns:
        The exit code.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if bool(options.people) != bool(options.prompts) or options.seeds and not options.people:
        parser.error("--people and --prompts go together, and --seeds with them.")
    if bool(options.url) + bool(options.ray) + bool(options.workers) > 1:
        parser.error("--url, --ray and --workers exclude one another.")
    if options.url and options.gpus_per_video > 1:
        parser.error("--gpus-per-video is for servers that this command starts; those at --url have their own GPUs.")
    # A program that is told to end stops its servers first, as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return run_command(lambda: _run(options), options.run_dir, "the next start makes what is missing")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
