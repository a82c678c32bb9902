"""Runs of `python -m consisid_core.evaluation`, and what its tests share."""

import csv
import importlib.util
import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.evaluation.__main__ import main
from consisid_pack.consisid_core.evaluation.video import FrameBatch

from helpers import ROOT
from helpers.processes import wait_until
from helpers.videos import batch
from helpers.weights_command import environment

DEMO = "consisid_demo"
PROMPT = 'A woman, "talking", in a\nbright room.'
HOSTILE = "<b>A&B</b> | 100%_$x$ \\ \"q\" 'p' #1 ~^{}"
RECOGNISER = "ConsisID-preview/face_encoder/glint360k_curricular_face_r101_backbone.bin"
PAPER_INCEPTION = "inception_v3_google-0cc3c7bd.pth"
TRUE_INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
# A second system whose person is there in two thirds of the frames, and another person than in the photo.
ROWS = [
    ("ours/a.mp4", "photo.png", PROMPT, "ours", "1"),
    ("ours/b.mp4", "photo.png", PROMPT, "ours", "2"),
    ("theirs/a.mp4", "astronaut.png", PROMPT, HOSTILE, "1"),
    ("theirs/b.mp4", "photo.png;astronaut.png", "", HOSTILE, "2"),
    ("ours/missing.mp4", "photo.png", PROMPT, "ours", "3"),
    ("ours/corrupt.mp4", "photo.png", PROMPT, "ours", "4"),
    ("ours/a.mp4", "landscape.png", PROMPT, "ours", "5"),
]
FAILED = 3
TINY_STAGES = ((4, 1), (8, 1), (16, 2), (24, 1))


def write_manifest(folder, rows=ROWS):
    with open(folder / "manifest.csv", "w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("video", "reference", "prompt", "system", "seed"))
        writer.writerows(rows)


def results_files(folder, protocol="strict"):
    return sorted((folder / "evaluation").glob(f"results_{protocol}*.jsonl"))


def read_lines(folder, protocol="strict"):
    texts = [file.read_text(encoding="utf-8") for file in results_files(folder, protocol)]
    return [json.loads(line) for text in texts for line in text.splitlines()]


def read_csv(folder, protocol="strict"):
    with open(folder / f"evaluation/summary_{protocol}.csv", encoding="utf-8", newline="") as stream:
        return {row["system"]: row for row in csv.DictReader(stream)}


def run(folder, comfyui, *options):
    return main([str(folder), "--comfyui", str(comfyui), "--pack", "demo", "--provider", "CPU", *map(str, options)])


def start(folder, comfyui):
    """The command in a process of its own, as a user starts it."""
    command = [sys.executable, "-m", "consisid_core.evaluation", folder, "--comfyui", comfyui, "--pack", "demo"]
    return subprocess.Popen(
        list(map(str, command)), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_lines(folder, count, process):
    wait_until(lambda: sum(file.read_bytes().count(b"\n") for file in results_files(folder)) >= count, process)


class OneLook:
    """The detector, which looks at a picture that comes again only once."""

    def __init__(self, detector):
        self.detector, self.seen = detector, {}

    def look(self, photo, *settings):
        key = photo.shape, hash(photo.tobytes()), settings
        if key not in self.seen:
            self.seen[key] = self.detector.look(photo, *settings)
        return self.seen[key]


def similarity(scorer, reference, pictures):
    """FaceSimilarity of pictures, of one size or several, as a video."""
    return scorer.score(FrameBatch([batch([picture])[0] for picture in pictures]), reference)


def refused(message):
    return pytest.raises(ConsisIDError, match=message)


def relative_error(actual, expected):
    assert actual.shape == expected.shape
    return (abs(actual - expected).max() / abs(expected).max()).item()


def package_folder(package):
    """The folder of an installed package, which is not imported."""
    return Path(importlib.util.find_spec(package).submodule_search_locations[0])


class Page(HTMLParser):
    """Every element with its attributes, and all text outside of style."""

    def __init__(self, file):
        super().__init__()
        self.elements, self.text, self.open = [], [], []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)
