"""Scores the videos of a run and compares the systems that made them. See `--help`."""

import argparse
import sys
from pathlib import Path

from ..checkpoint.model_folders import ModelFolders
from ..command_line import run_command
from ..errors import ConsisIDError
from ..face.providers import PROVIDER_CHOICES, resolve_providers
from . import batch
from .content import fingerprint
from .manifest import read_manifest
from .models import PAPER_PACK, load_models, model_files
from .protocol import PROTOCOLS
from .report.files import write_report

_CURRICULAR_FACE = "ConsisID-preview/face_encoder/glint360k_curricular_face_r101_backbone.bin"
_CLIP = ("clip-vit-base-patch32", "ConsisID-preview/data_process/clip-vit-base-patch32")
_INCEPTION = {"paper": "inception_v3_google-0cc3c7bd.pth", "strict": "weights-inception-2015-12-05-6726825d.pth"}


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m consisid_core.evaluation",
        description="Scores every video that RUN_DIR/manifest.csv lists: likeness to a reference photo, fit to the "
        "prompt, FID. The manifest's columns are video, reference, prompt, system and seed; only video and reference "
        "are needed, and several photos of a person are separated by semicolons. RUN_DIR/evaluation holds the results, "
        "one JSON line per video, and the report. A video that was scored before is not scored again. Several of these "
        "commands may work on one RUN_DIR and share its videos.",
        epilog="Exit codes: 0 every video has its scores, 1 some have not or a problem is named, 2 wrong usage, 130 "
        "stopped with Ctrl-C.",
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="folder with manifest.csv or manifest.json")
    parser.add_argument(
        "--protocol", choices=PROTOCOLS, default="strict",
        help="strict: every frame; paper: as the paper's code computes its tables (default: strict)",
    )  # fmt: skip
    parser.add_argument(
        "--comfyui", metavar="DIR",
        help="ComfyUI's folder, with its extra_model_paths.yaml, or a models folder, in which the nets are looked for; "
        "by default the ComfyUI whose custom_nodes holds this pack, else COMFYUI_PATH",
    )  # fmt: skip
    parser.add_argument(
        "--pack", metavar="NAME_OR_FOLDER", default=PAPER_PACK,
        help=f"insightface pack that finds and compares faces, in models/insightface/models (default: {PAPER_PACK})",
    )  # fmt: skip
    parser.add_argument(
        "--curricular-face", metavar="FILE", type=Path,
        help=f"for FaceSim-Cur (default: {_CURRICULAR_FACE} in models/consisid)",
    )  # fmt: skip
    parser.add_argument(
        "--inception", metavar="FILE", type=Path,
        help=f"for FID (default, in models/consisid: {_INCEPTION['strict']}, or {_INCEPTION['paper']} for paper)",
    )  # fmt: skip
    parser.add_argument(
        "--clip", metavar="FOLDER", type=Path,
        help="openai/clip-vit-base-patch32, for CLIPScore (default: clip-vit-base-patch32 in models/consisid)",
    )  # fmt: skip
    parser.add_argument("--provider", choices=PROVIDER_CHOICES, default="auto", help="runs the face pack")
    return parser


def _pack_folder(options):
    if (folder := Path(options.pack)).is_dir():
        return folder
    places = [root / "models" / options.pack for root in ModelFolders(options.comfyui).roots("insightface")]
    for place in places:
        if place.is_dir():
            return place
    raise ConsisIDError(
        f"There is no insightface pack {options.pack} in {places[0].parent}. Unpack {options.pack}.zip of "
        "https://github.com/deepinsight/insightface/releases/tag/v0.7 there, or name another with --pack. The paper "
        f"measures by {PAPER_PACK}."
    )


def _net(given, comfyui, names, is_there, score, option):
    """The path that was given, else the first default that is there, else None, which is said."""
    if given:
        if not is_there(given):
            raise ConsisIDError(f"{given} does not exist. Correct {option}, or leave it out to do without {score}.")
        return given
    try:
        roots = ModelFolders(comfyui).roots("consisid")
    except ConsisIDError as error:
        if comfyui:
            raise
        print(f"{score} is left out: {error}")
        return None
    for path in (root / name for root in roots for name in names):
        if is_there(path):
            return path
    print(f"{score} is left out: there is no {names[0]} in {roots[0]}. Put it there, or name it with {option}.")
    return None


def _run(options):
    rows = read_manifest(options.run_dir)
    pack, comfyui = _pack_folder(options), options.comfyui
    curricular_face = _net(
        options.curricular_face, comfyui, [_CURRICULAR_FACE], Path.is_file, "FaceSim-Cur", "--curricular-face"
    )
    inception = _net(
        options.inception, comfyui, [_INCEPTION[options.protocol]], Path.is_file, "FID", "--inception"
    )  # fmt: skip
    clip = None
    if options.clip or any(row.prompt for row in rows):
        clip = _net(options.clip, comfyui, _CLIP, Path.is_dir, "CLIPScore", "--clip")
    models = load_models(pack, resolve_providers(options.provider), curricular_face, inception, clip)
    weights = fingerprint(model_files(pack, curricular_face, inception, clip))
    nets = {
        "pack": models.pack,
        "curricular_face": curricular_face and curricular_face.name,
        "inception": inception and inception.name,
        "clip": models.clip and models.clip.name,
        "stand_ins": list(models.stand_ins),
    }
    results = batch.score_rows(options.run_dir, rows, models, nets, weights, options.protocol)
    page = write_report(options.run_dir, results, nets, options.protocol)
    failed = sum("error" in result for result in results)
    print(f"{len(results) - failed} of {len(results)} videos have their scores. Report: {page}")
    return 1 if failed else 0


def main(arguments: list[str]) -> int:
    """Run the command.

    Args:
        arguments: of the command line, without the program's name.

    Returns:
        The exit code.
    """
    options = _parser().parse_args(arguments)
    return run_command(lambda: _run(options), options.run_dir, "the next run goes on where this one stopped")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
