"""`python -m consisid_core.training.small WORK_DIR`: the small default from nothing, or from what is there."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ...errors import ConsisIDError

STAGES = {
    "people": "renders people and clips, in the background while other stages train",
    "code": "fits the linear space-time code",
    "identity": "teaches image tower and facial extractor",
    "pictures": "the VAE on single frames",
    "videos": "the VAE on clips",
    "parser": "the face parser",
    "denoiser": "the transformer and its text encoder",
    "assemble": "writes the set for ComfyUI",
}
_SHARES = {"identity": 0.15, "pictures": 0.1, "videos": 0.17, "parser": 0.06, "denoiser": 0.52}
"""Of the minutes."""
_PEOPLE, _CLIPS = 5200, 11700
_CODE_CLIPS = 120
_LEAST_PEOPLE, _LEAST_CLIPS = 16, 32
_CUDA_BATCHES = {"identity": 128, "pictures": 64, "videos": 4, "parser": 48, "denoiser": 192}
_CPU_BATCHES = {"identity": 32, "pictures": 8, "videos": 1, "parser": 4, "denoiser": 8}


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m consisid_core.training.small",
        description="Train every net of a small ConsisID on drawn people. A second start goes on where the first was "
        "stopped; with more --minutes a finished stage goes on, too.",
        epilog="Stages: " + "; ".join(f"{name}: {what}" for name, what in STAGES.items()) + ". Exit codes: 0 done, 1 a "
        "problem that is named, 2 wrong usage, 130 stopped.",
    )
    parser.add_argument("work", metavar="WORK_DIR", type=Path, help="folder of people, checkpoints and the set")
    parser.add_argument("--stages", default=",".join(STAGES), metavar="A,B", help="which (default: all)")
    parser.add_argument("--minutes", type=float, default=60, help="of training in all (default 60)")
    parser.add_argument("--start", action="store_true", help="begin with the weights that come with the repository")
    parser.add_argument("--device", help="cpu, cuda, … (default: cuda if there is one)")
    parser.add_argument("--people", type=int, metavar="N", help=f"to render (default {_PEOPLE})")
    parser.add_argument("--clips", type=int, metavar="N", help=f"to render (default {_CLIPS})")
    parser.add_argument("--workers", type=int, metavar="K", help="renderers (default: one a core)")
    parser.add_argument("--pack", type=Path, metavar="DIR", help="face pack with SFace (default: the small set's own)")
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="T5's tokenizer.json (default: ComfyUI's)")
    parser.add_argument("--comfyui", metavar="DIR", help="ComfyUI's folder (default: the one that this pack lies in)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="models folder for the set (default: WORK_DIR/models)")
    parser.add_argument("--seed", type=int, default=0)
    return parser


class _Run:
    """The stages, each a method of its name."""

    def __init__(self, options: argparse.Namespace) -> None:
        from ..net_options import chosen_device
        from .nets import Sizes

        self.options, self.work = options, options.work
        self.device = chosen_device(options)
        self.batches = _CUDA_BATCHES if self.device.startswith("cuda") else _CPU_BATCHES
        self.sizes = Sizes()
        self._pool = None

    def run(self, stages: Sequence[str]) -> None:
        """Those stages, in the order of STAGES."""
        if self.options.start:
            from .start import begin

            begin(self.work)
        with self._rendering() if "people" in stages else contextlib.nullcontext() as wait:
            for stage in STAGES:
                if stage in stages and stage != "people":
                    getattr(self, stage)()
            if list(stages) == ["people"]:
                wait()

    def _rendering(self):
        from .producer import Order, rendering

        self._make_shelf()
        order = Order(self._recogniser(), self._tokenizer(), tuple(self._tokens()), self.options.seed)
        return rendering(self._people(), order)

    def _people(self):
        return self.work / "people"

    def _make_shelf(self):
        """The arrays, as given, as they are, or as usual."""
        from .shelf import Extent, Shelf

        try:
            there = Shelf(self._people()).extent
        except ConsisIDError:
            there = None
        given = self.options
        rows = given.workers or (there.rows if there else os.cpu_count() or 1)
        people = -(-given.people // rows) if given.people else there.people if there else -(-_PEOPLE // rows)
        clips = -(-given.clips // rows) if given.clips else there.clips if there else -(-_CLIPS // rows)
        if min(rows, people, clips) < 1:
            raise ConsisIDError("--people, --clips and --workers are 1 or more.")
        Shelf(self._people(), Extent.of(self.sizes, rows, people, clips))

    def _tokens(self):
        """Tokens of the vocabulary, made at the first start."""
        from .stage import read_state, write_state
        from .words import Vocabulary, every_caption

        state = read_state(self.work, "vocabulary")
        if state is None:
            state = {"tokens": Vocabulary.of_captions(self._tokenizer(), every_caption()).tokens}
            write_state(self.work, "vocabulary", state)
        return state["tokens"]

    def _tokenizer(self):
        if self.options.tokenizer:
            return self.options.tokenizer
        from ...checkpoint.model_folders import ModelFolders

        models = ModelFolders(self.options.comfyui).models
        return models.parent / "comfy" / "text_encoders" / "t5_tokenizer" / "tokenizer.json"

    def _pack(self):
        if self.options.pack:
            return self.options.pack
        from ...checkpoint.model_folders import DEFAULT_WEIGHTS
        from . import SET_NAME

        return DEFAULT_WEIGHTS / "insightface" / "models" / SET_NAME

    def _recogniser(self):
        """The pack's recogniser, which is by far the larger file."""
        files = sorted(self._pack().glob("*.onnx"), key=lambda file: file.stat().st_size)
        if not files:
            raise ConsisIDError(
                f"There is no face pack in {self._pack()}. Write the one with YuNet and SFace: "
                "python -m consisid_core.dev.demo_face_pack, or name another folder with --pack."
            )
        return files[-1]

    def _have_pool(self, clips=True):
        """Everything rendered so far, of which there has to be enough. clips: whether they are needed."""
        from .pool import Pool
        from .shelf import Shelf

        if self._pool is None:
            self._pool = Pool(Shelf(self._people()), self.device)
        self._pool.wait_for(_LEAST_PEOPLE, _LEAST_CLIPS if clips else 0)
        return self._pool

    def _code(self):
        from .code import LinearCode

        return LinearCode(**self._required("code")).to(self.device)

    def _required(self, stage):
        from .stage import read_state

        state = read_state(self.work, stage)
        if state is None:
            raise ConsisIDError(f"{self.work} has no {stage}.pt yet. Run the stage that makes it: --stages {stage}")
        return state

    def _train(self, task):
        from .stage import Budget, train

        train(task, self.work, Budget(seconds=60 * self.options.minutes * _SHARES[task.name]))

    def _settings(self, stage):
        return {"device": self.device, "seed": self.options.seed, "batch": self.batches[stage]}

    def code(self) -> None:
        """See STAGES, as all of these."""
        from .code import LinearCode
        from .pool import pixels
        from .stage import read_state, write_state

        if read_state(self.work, "code") is None:
            pool = self._have_pool()
            clips = [pixels(pool.clip[number]).transpose(0, 1).cpu() for number in pool.clips[:_CODE_CLIPS]]
            import torch

            write_state(self.work, "code", vars(LinearCode.fit(torch.stack(clips))))

    def identity(self) -> None:
        from .identity import IdentityTask
        from .stage import read_state

        stored = read_state(self.work, "identity")
        if stored is None or "net" in stored:  # Else it came finished, without its reader.
            pool = self._have_pool()
            self._train(IdentityTask(self.sizes, pool, self._code(), **self._settings("identity")))

    def pictures(self) -> None:
        from .autoencoder import PictureTask

        self._train(PictureTask(self.sizes, self._have_pool(), self._code(), **self._settings("pictures")))

    def videos(self) -> None:
        from .autoencoder import VideoTask

        flat, code = self._required("pictures"), self._code()
        self._train(VideoTask(self.sizes, flat, self._have_pool(), code, **self._settings("videos")))

    def parser(self) -> None:
        from .parser import ParserTask

        self._train(ParserTask(self.sizes, self._have_pool(clips=False).shelf, **self._settings("parser")))

    def denoiser(self) -> None:
        import torch

        from .denoiser import DenoiserTask
        from .identity import IdentityTask, identity_of
        from .sface import Recogniser
        from .words import Vocabulary

        pool, code, tokens, stored = self._have_pool(), self._code(), self._tokens(), self._required("identity")
        if "net" in stored:
            identity = IdentityTask(self.sizes, pool, code, **self._settings("identity"))
            identity.load(stored)
        else:
            identity = identity_of(stored, self.sizes)
        empty = Vocabulary(self._tokenizer(), tokens).rows("", self.sizes.text_length)
        self._train(
            DenoiserTask(
                self.sizes, pool, code, identity, len(tokens), torch.from_numpy(empty).long(),
                Recogniser(self._recogniser()), **self._settings("denoiser"),
            )
        )  # fmt: skip

    def assemble(self) -> None:
        from .assemble import assemble

        out = self.options.out or self.work / "models"
        for path in assemble(self.work, out, self.sizes, self._pack()):
            print(f"wrote {path}")


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: of the command line, without the program's name.

    Returns:
        The exit code.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = _parser().parse_args(arguments)
    stages = options.stages.split(",")
    if unknown := [stage for stage in stages if stage not in STAGES]:
        print(f"error: there is no stage {unknown[0]!r}. Choose of {', '.join(STAGES)}.", file=sys.stderr)
        return 2
    if not options.minutes > 0:
        print("error: --minutes is more than 0.", file=sys.stderr)
        return 2
    try:
        _Run(options).run(stages)
    except ConsisIDError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error.filename or options.work}: {error.strerror or error}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped; the next start goes on where this one stopped.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
