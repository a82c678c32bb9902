"""Scores of videos on real faces and clips, in the paper's protocol against `paper_metrics`, an independent script.

The recogniser is the demo pack's stand-in (SFace behind ArcFace's interface), so figures here say nothing about
buffalo_l; CurricularFace, Inception and CLIP have random weights. `pytest -s` prints what was measured.
"""

from dataclasses import replace

import pytest
import torch
from consisid_pack.consisid_core.evaluation.face_similarity import FaceScorer
from consisid_pack.consisid_core.evaluation.models import EvaluationModels
from consisid_pack.consisid_core.evaluation.nets.inception import Inception
from consisid_pack.consisid_core.evaluation.scores import VideoScorer, report_lines
from consisid_pack.consisid_core.evaluation.video import FrameBatch, VideoFile, read_picture
from helpers import paper_metrics
from helpers.evaluation import DEMO, OneLook, refused
from helpers.videos import batch
from torchvision.models import Inception3
from transformers import CLIPModel, CLIPProcessor


@pytest.fixture(scope="module")
def paper_nets(models, files):
    """Inception and CLIP as torchvision and transformers build them, on the weights of `models`."""
    inception = Inception3(num_classes=1000, transform_input=True, init_weights=False)
    inception.load_state_dict(torch.load(files[1], weights_only=True))
    inception.fc = torch.nn.Identity()
    clip = CLIPModel.from_pretrained(files[2]), CLIPProcessor.from_pretrained(files[2])
    return models.curricular_face, inception.eval(), *clip


PROMPT = "a man talks to the camera"
CASES = {  # Frames that can be read, those that show a face, and those that do so with a border only.
    "a man": (16, 16, 0), "a man who leaves": (16, 7, 0), "five frames": (16, 16, 0),
    "a face that fills the frame": (16, 16, 16), "two people": (16, 16, 0), "nobody": (16, 0, 0),
}  # fmt: skip
WITH_FID = ("a man who leaves", "nobody")  # Inception takes longer than all the rest.


@pytest.mark.filterwarnings("ignore:`estimate` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", CASES)
def test_paper_protocol_equals_an_independent_script(cases, models, detector, pack, paper_nets, name):
    """Cosines to 1e-6 absolute; FID and CLIPScore to 1e-6 relative."""
    video, picture = cases[name]
    recogniser, inception, clip, processor = paper_nets
    faces = paper_metrics.find_faces(video, picture, paper_metrics.face_analysis(pack.parent.parent, DEMO))
    expected = {
        "FaceSim-Arc": paper_metrics.facesim_arc(faces),
        "FaceSim-Cur": paper_metrics.facesim_cur(faces, recogniser),
        "CLIPScore": paper_metrics.clip_score(video, PROMPT, clip, processor),
    }
    if name in WITH_FID:
        expected["FID"] = paper_metrics.face_distance(faces, inception)
    else:
        models = replace(models, inception=None)

    scorer = VideoScorer(models, "paper")
    scores = scorer.score(VideoFile(video), scorer.reference([read_picture(picture, upright=False)]), PROMPT)
    arc, cur, text = scores.face.score(scores.face.arc), scores.face.score(scores.face.curricular), scores.text.score
    actual = {"FaceSim-Arc": arc.mean, "FaceSim-Cur": cur.mean, "CLIPScore": text.mean, "FID": scores.face.fid}
    print(name, *(f"{key} {value:.6f} ({abs(actual[key] - value):.1e})" for key, value in expected.items()))
    assert (faces.sampled, len(faces.frames), faces.padded) == CASES[name]
    assert arc.count == cur.count == len(faces.frames)
    assert scores.face.frames_without_face == faces.sampled - len(faces.frames)
    for key, value in expected.items():
        assert value == 0 or abs(value) > 1e-3, key
        bound = {"rel": 0, "abs": 1e-6} if key.startswith("FaceSim") else {"rel": 1e-6, "abs": 0}
        assert actual[key] == pytest.approx(value, **bound), key
    if name == "nobody":
        assert actual["FaceSim-Arc"] == actual["FaceSim-Cur"] == actual["FID"] == 0
    assert None is arc.standard_error is text.standard_error


@pytest.mark.parametrize("protocol", ["strict", "paper"])
def test_every_report_names_protocol_and_stand_ins(models, protocol, man):
    models = replace(models, inception=None)
    video = FrameBatch(batch(man[1:3]))
    frames_read = []
    scorer = VideoScorer(models, protocol)
    person = scorer.reference(man[:1])
    scores = scorer.score(video, person, PROMPT, lambda: frames_read.append(1))
    assert len(frames_read) == scorer.frames_to_read(video, PROMPT) == {"strict": 4, "paper": 32}[protocol]
    lines = report_lines(scores, models)
    print(*lines, sep="\n")
    assert lines[0] == f"Protocol: {protocol}"
    stand_ins = f"{DEMO}, curricular_calibrated.bin, clip-vit-base-patch32"
    assert f"Demo weights, no real measure: {stand_ins}" in lines
    assert any(line.startswith("The paper measures by buffalo_l") for line in lines) == (protocol == "paper")
    scores = scorer.score(video, person)
    assert scores.text is None and "Demo weights, no real measure: " + stand_ins.rpartition(", ")[0] in report_lines(
        scores, models
    )


def test_protocols_do_not_mix(models, inception_files, man):
    with refused("paper protocol measures FID by torchvision's Inception, and the one given is torch-fidelity's"):
        weights = torch.load(inception_files["strict"], weights_only=True)
        FaceScorer(models.detector, "paper", inception=Inception.from_state_dict(weights))
    with refused("strict protocol measures FID by torch-fidelity's Inception, and the one given is torchvision's"):
        VideoScorer(models, "strict")
    for run in (FaceScorer, lambda _, protocol: models.clip.score(FrameBatch(batch(man[:1])), PROMPT, protocol)):
        with refused("There is no protocol 'loose'; choose strict or paper"):
            run(models.detector, "loose")


class Stop(Exception):
    pass


@pytest.mark.parametrize("protocol", ["strict", "paper"])
def test_a_raising_callback_stops_at_once(models, detector, man, protocol):
    seen, looks = [], []

    class Watched(OneLook):
        def look(self, photo, *settings):
            looks.append(photo)
            return detector.look(photo, *settings)

    def stop():
        seen.append(1)
        if len(seen) == 3:
            raise Stop

    scorer = VideoScorer(EvaluationModels(Watched(None), DEMO, clip=models.clip), protocol)
    person = scorer.reference(man[:1])
    with pytest.raises(Stop):
        scorer.score(FrameBatch(batch(man)), person, PROMPT, stop)
    assert len(seen) == 3 and len(looks) == 4  # the reference and three frames
    seen.clear()
    with pytest.raises(Stop):
        models.clip.score(FrameBatch(batch(man)), PROMPT, protocol, stop)
    assert len(seen) == 3
