"""Scores of videos on real faces and clips, in the paper's protocol against `paper_metrics`, an independent script.

The recogniser is the demo pack's stand-in (SFace behind ArcFace's interface), so figures here say nothing about
buffalo_l; CurricularFace, Inception and CLIP have random weights. `pytest -s` prints what was measured.
"""

import itertools
import json
import logging
import math
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import psutil
import pytest
import skimage.data
import torch
from consisid_pack.consisid_core.checkpoint.files import DEMO_MARKER
from consisid_pack.consisid_core.checkpoint.reading import read_checkpoint
from consisid_pack.consisid_core.dev.tiny import randomize
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.evaluation.face_similarity import CROP_SIZE, FaceScorer, Score, mean_score
from consisid_pack.consisid_core.evaluation.models import EvaluationModels, load_models
from consisid_pack.consisid_core.evaluation.nets.clip_score import ClipScorer, text_positions
from consisid_pack.consisid_core.evaluation.nets.curricularface import CurricularFace, preprocess
from consisid_pack.consisid_core.evaluation.nets.fid import Inception
from consisid_pack.consisid_core.evaluation.scores import VideoScorer, VideoScores, report_lines
from consisid_pack.consisid_core.evaluation.spectrum import picture_spectrum
from consisid_pack.consisid_core.evaluation.video import FrameBatch, VideoFile, read_picture
from consisid_pack.consisid_core.face.analysis import recogniser_crop
from helpers import paper_metrics
from helpers.pictures import blur, crop, frames, jpeg, package_file, read, resize, rotate, tight
from helpers.random_nets import random_inception
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.models import Inception3
from transformers import CLIPConfig, CLIPModel, CLIPProcessor

DEMO = "consisid_demo"
PROMPT = "a man talks to the camera"
LONG_PROMPT = "a man in an orange suit talks to the camera and laughs, " * 10


def clip_file(name):
    return package_file("feat", f"tests/data/{name}")


def write_video(path, pictures, quality=18, **options):
    """H.264 in whatever the name of the file says. pictures: uint8 [H, W, 3] with even sides."""
    with av.open(str(path), "w", options=options) as file:
        stream = file.add_stream("libx264", 24, options={"crf": str(quality), "preset": "veryfast"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        file.mux(stream.encode())
    return path


def write_picture(path, picture):
    Image.fromarray(picture).save(path)
    return path


def batch(pictures):
    """Pictures as ComfyUI's IMAGE."""
    return torch.from_numpy(np.stack(pictures)).float() / 255


class OneLook:
    """The detector, which looks at a picture that comes again only once."""

    def __init__(self, detector):
        self.detector, self.seen = detector, {}

    def look(self, photo, *settings):
        key = photo.shape, hash(photo.tobytes()), settings
        if key not in self.seen:
            self.seen[key] = self.detector.look(photo, *settings)
        return self.seen[key]


@pytest.fixture(scope="module")
def astronaut():
    return skimage.data.astronaut()


@pytest.fixture(scope="module")
def friends():
    return read("feat", "tests/data/multi_face.jpg")


@pytest.fixture(scope="module")
def man():
    """A man: twelve frames over the whole of single_face.mp4."""
    return list(frames("single_face.mp4", range(0, 72, 6)).values())


@pytest.fixture(scope="module")
def woman():
    """Six frames of a clip of the same size."""
    return list(frames("WolfgangLanger_Pexels.mp4", range(0, 472, 90)).values())


@pytest.fixture(scope="module")
def still():
    """The man, seven frames in a row: so little moves that random nets find them alike."""
    return list(frames("single_face.mp4", range(7)).values())


@pytest.fixture(scope="module")
def inception_files(astronaut, man, tmp_path_factory):
    """{protocol: file} of random weights that tell faces apart."""
    pictures = [astronaut[:224, 112:336], man[0][:224, 200:424], man[6][100:324, 200:424]]
    folder, files = tmp_path_factory.mktemp("inception"), {}
    for protocol, options in (
        ("paper", {"num_classes": 1000, "transform_input": True}),
        ("strict", {"num_classes": 1008, "aux_logits": False}),
    ):
        files[protocol] = folder / f"{protocol}.pth"
        torch.save(random_inception(pictures, **options), files[protocol])
    return files


@pytest.fixture(scope="module")
def detector(detector):
    return OneLook(detector)


@pytest.fixture(scope="module")
@torch.no_grad()
def curricular_file(models_dir, detector, astronaut, man, woman, friends):
    """The tiny recogniser, made to tell faces apart and to find alike ones alike.

    Norms have the statistics of some faces, without which all are one to it; kernels are positive, which pass what is
    coarse, without which a random net takes any change for another face.
    """
    tiny = models_dir / "consisid" / DEMO / "glint360k_curricular_face_r101_backbone.bin"
    net = CurricularFace.from_state_dict(read_checkpoint(tiny).tensors)
    pictures = [(p, face) for p in (astronaut, *man[::4], *woman[::3], friends) for face in detector.look(p)]
    x = torch.cat([preprocess(recogniser_crop(picture, face, CROP_SIZE)) for picture, face in pictures])
    for module in net.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.train().momentum = 1
        if isinstance(module, torch.nn.Conv2d):
            module.weight.abs_()
    net(x)
    torch.save({**net.state_dict(), DEMO_MARKER: torch.ones(1)}, tiny.with_name("curricular_calibrated.bin"))
    yield tiny.with_name("curricular_calibrated.bin")
    tiny.with_name("curricular_calibrated.bin").unlink()


@pytest.fixture(scope="module")
def files(models_dir, curricular_file, inception_files):
    """What `load_models` takes after the pack, for the paper's protocol."""
    return [curricular_file, inception_files["paper"], models_dir / "consisid" / DEMO / "clip-vit-base-patch32"]


@pytest.fixture(scope="module")
def models(pack, files):
    return load_models(pack, ["CPUExecutionProvider"], *files)


@pytest.fixture(scope="module")
def strict(detector, models):
    return FaceScorer(detector, "strict", models.curricular_face)


@pytest.fixture(scope="module")
def paper(detector, models):
    return FaceScorer(detector, "paper", models.curricular_face)


def similarity(scorer, reference, pictures):
    """FaceSimilarity of pictures, of one size or several, as a video."""
    return scorer.score(FrameBatch([batch([picture])[0] for picture in pictures]), reference)


# ---- the paper's protocol against an independent script ------------------------------------------------------------


@pytest.fixture(scope="module")
def cases(tmp_path_factory, astronaut, friends, man, woman, models):
    """{name: (video, picture)}"""
    folder = tmp_path_factory.mktemp("cases")
    (face,) = models.detector.look(astronaut)
    close = resize(tight(astronaut, face, -0.2), 4)
    close = close[: close.shape[0] // 2 * 2, : close.shape[1] // 2 * 2]
    photo = write_picture(folder / "astronaut.png", astronaut)
    return {
        "a man": (clip_file("single_face.mp4"), clip_file("single_face.jpg")),
        "a man who leaves": (clip_file("face_noface.mov"), write_picture(folder / "man.png", man[0])),
        "five frames": (write_video(folder / "short.mp4", man[:5]), photo),
        "a face that fills the frame": (
            write_video(folder / "close.mp4", [np.roll(close, shift, axis=1) for shift in (0, 4, 8)]), photo
        ),
        "two people": (
            write_video(folder / "two.mp4", [friends[200:520, x : x + 240] for x in (590, 600, 610)]),
            write_picture(folder / "friend.png", friends[270:450, 660:820]),
        ),
        "nobody": (write_video(folder / "nobody.mp4", list(frames("no_face.mp4", (0, 40, 80)).values())), photo),
    }  # fmt: skip


@pytest.fixture(scope="module")
def paper_nets(models, files):
    """Inception and CLIP as torchvision and transformers build them, on the weights of `models`."""
    inception = Inception3(num_classes=1000, transform_input=True, init_weights=False)
    inception.load_state_dict(torch.load(files[1], weights_only=True))
    inception.fc = torch.nn.Identity()
    clip = CLIPModel.from_pretrained(files[2]), CLIPProcessor.from_pretrained(files[2])
    return models.curricular_face, inception.eval(), *clip


CASES = {  # Frames that can be read, those that show a face, and those that do so with a border only.
    "a man": (16, 16, 0), "a man who leaves": (15, 7, 0), "five frames": (16, 16, 0),
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


def test_paper_protocol_looks_as_the_paper_does(models, astronaut, monkeypatch):
    """The stand-in detector has a fixed input, so that no figure shows the one that was asked for."""
    sizes = []
    prepare = models.detector._app.prepare
    monkeypatch.setattr(models.detector._app, "prepare", lambda **options: sizes.append(options) or prepare(**options))
    scorer = FaceScorer(models.detector, "paper")
    scorer.reference([astronaut])
    assert [options["det_size"] for options in sizes] == [(320, 320), (640, 640)]
    sizes.clear()
    FaceScorer(models.detector, "strict").reference([astronaut])
    assert sizes[0]["det_size"] == (640, 640)


@pytest.mark.parametrize("count", [1, 5, 16, 17, 49, 1000])
def test_paper_frames_are_those_of_the_papers_code(count):
    assert text_positions("paper", count) == [int(i * count / 16) for i in range(16)]
    assert list(text_positions("strict", count)) == list(range(count))


def test_a_negative_cosine_counts_as_zero_in_the_paper_and_as_itself_else(paper, strict, astronaut, man):
    astronaut, (frame,) = paper.reference([astronaut]), man[:1]
    cosine = similarity(strict, astronaut, [frame]).arc[0]
    opposite = -astronaut.arc  # of which the cosine is the negative
    reference = type(astronaut)(opposite if cosine > 0 else astronaut.arc, astronaut.curricular, None)
    found = similarity(strict, reference, [frame])
    assert found.score(found.arc).mean == found.arc[0] == -abs(cosine) < -1e-4
    found = similarity(paper, reference, [frame])
    assert found.score(found.arc).mean == 0 and (found.arc == -abs(cosine)).all()


# ---- CLIPScore -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full_size_clip(tmp_path_factory):
    """A folder with a CLIP ViT-B/32 of random weights and the tokenizer of ComfyUI, which is OpenAI's."""
    import comfy.sd1_clip

    folder = tmp_path_factory.mktemp("clip-vit-base-patch32")
    config = CLIPConfig()
    with torch.device("meta"):
        shapes = {name: x.shape for name, x in CLIPModel(config).state_dict().items()}
    assert 151e6 < sum(map(math.prod, shapes.values())) < 152e6
    weights = randomize({name: torch.empty(shape) for name, shape in shapes.items()}, seed=3)
    weights["logit_scale"].fill_(math.log(100))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config.save_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):
        source = Path(comfy.sd1_clip.__file__).with_name("sd1_tokenizer") / name
        (folder / name).write_bytes(source.read_bytes())
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}')
    (folder / "preprocessor_config.json").write_text(
        json.dumps({
            "image_processor_type": "CLIPImageProcessor", "crop_size": 224, "size": 224, "resample": 3,
            "do_center_crop": True, "do_normalize": True, "do_resize": True,
            "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
        })
    )  # fmt: skip
    return folder


@torch.no_grad()
def strict_clip_scores(video, prompt, model, processor):
    """100 x cosine of every frame in its true colours, by transformers."""
    count = paper_metrics.frame_count(video)
    pictures = [frame[:, :, ::-1].copy() for frame in paper_metrics.read_frames(video, range(count))]
    output = model(**processor(text=prompt, images=pictures, return_tensors="pt", padding=True, truncation=True))
    image, text = output.image_embeds.double(), output.text_embeds.double()
    return (100 * (image @ text[0]) / (image.norm(dim=1) * text[0].norm())).numpy()


@pytest.mark.parametrize("size", ["tiny", "ViT-B/32"])
def test_clip_score_equals_transformers(request, files, cases, size):
    folder = files[2] if size == "tiny" else request.getfixturevalue("full_size_clip")
    scorer, video = ClipScorer(folder), VideoFile(cases["five frames"][0])
    model, processor = CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)
    for prompt in (PROMPT, LONG_PROMPT):
        expected = strict_clip_scores(video.path, prompt, model, processor)
        actual = scorer.score(video, prompt, "strict")
        expected_paper = paper_metrics.clip_score(video.path, prompt, model, processor)
        actual_paper = scorer.score(video, prompt, "paper").score.mean
        print(size, expected, np.abs(actual.values - expected).max(), abs(actual_paper - expected_paper))
        assert actual.values.shape == (5,) and expected.std() > 0.01
        assert np.abs(actual.values - expected).max() <= 1e-4
        assert actual_paper == pytest.approx(expected_paper, rel=0, abs=1e-4)
        # Red for blue is another picture.
        assert abs(expected_paper - expected.mean()) > 0.01
        assert actual.is_prompt_cut == (prompt is LONG_PROMPT)


def test_what_clip_does_not_read_of_a_prompt_changes_nothing(models, cases, caplog):
    video = VideoFile(cases["five frames"][0])
    start = "ab" * 100
    with caplog.at_level(logging.WARNING, "consisid"):
        values = [models.clip.score(video, start + end, "strict").values for end in ("", " and much more")]
    assert np.array_equal(*values)
    assert sum("the first 77 tokens" in record.getMessage() for record in caplog.records) == 2
    assert not np.array_equal(values[0], models.clip.score(video, start[:20], "strict").values)


def test_a_frame_of_a_lower_score_lowers_clip_score(models, man, woman):
    """With random weights no direction means anything, but the score is the mean over frames, each on its own."""
    pictures = [*man[:6], *woman]
    scores = models.clip.score(FrameBatch(batch(pictures)), PROMPT, "strict").values
    order = np.argsort(scores)
    videos = [[pictures[i] for i in half] for half in (order[6:], order[:6])]
    values = scores[order[6:]], scores[order[:6]]
    means = []
    for count in range(7):
        mixed = [*videos[1][:count], *videos[0][count:]]
        scores = models.clip.score(FrameBatch(batch(mixed)), PROMPT, "strict")
        np.testing.assert_allclose(scores.values, [*values[1][:count], *values[0][count:]], rtol=0, atol=1e-4)
        means.append(scores.score.mean)
    print("CLIPScore with 0 to 6 frames exchanged:", means)
    assert all(a > b for a, b in itertools.pairwise(means))


# ---- who is who ----------------------------------------------------------------------------------------------------


def each_face(photo, detector):
    """For every face of a photo three pictures that show no other."""
    for face in detector.look(photo):
        for margin in (0.35, 0.2, 0.1, 0):
            cut = tight(photo, face, margin)
            pictures = [cut, np.ascontiguousarray(cut[:, ::-1]), jpeg(resize(cut, 0.7), 40)]
            if all(len(detector.look(picture)) == 1 for picture in pictures):
                yield pictures
                break


@pytest.fixture(scope="module")
def people(detector, astronaut, friends, man, woman):
    """{name: pictures of that one person}, 14 people."""
    (face,) = detector.look(astronaut)
    poker = read("insightface", "data/images/t1.jpg")
    result = {
        "astronaut": [
            astronaut, tight(astronaut, face, 0.2), tight(astronaut, face, 0.6), rotate(astronaut, 15),
            rotate(astronaut, -20), resize(astronaut, 0.6), blur(astronaut, 1.5), jpeg(astronaut, 15),
            np.ascontiguousarray(astronaut[:, ::-1]),
        ],
        # One man at two places, and in a clip that was cut another time.
        "man": [
            read("feat", "tests/data/single_face.jpg"), *man[::3],
            *(resize(x, 0.5) for x in frames("face_noface.mov", (0, 20, 40)).values()),
        ],
        "woman": woman,
    }  # fmt: skip
    for group, photo in (("friend", friends), ("player", poker)):
        for number, pictures in enumerate(each_face(photo, detector)):
            result[f"{group} {number}"] = pictures
    return result


def test_the_same_person_scores_above_another(detector, people):
    """Over all pairs of real faces, by the demo pack's stand-in recogniser, not by ArcFace."""
    assert len(people) == 14
    names = [name for name, pictures in people.items() for _ in pictures]
    photos = [picture for pictures in people.values() for picture in pictures]
    images = [torch.from_numpy(photo).float() / 255 for photo in photos]  # of many sizes
    assert all(len(detector.look(photo)) == 1 for photo in photos)
    scorer = FaceScorer(detector, "strict")
    same, different = [], []
    for number in range(len(photos) - 1):
        found = scorer.score(FrameBatch(images[number + 1 :]), scorer.reference([photos[number]]))
        assert found.frames_without_face == 0
        for name, cosine in zip(names[number + 1 :], found.arc, strict=True):
            (same if name == names[number] else different).append(cosine)
    same, different = np.array(same), np.array(different)
    area = (same[:, None] > different).mean() + 0.5 * (same[:, None] == different).mean()
    print(
        f"AUC {area:.6f}: {len(same)} pairs of one person, {same.min():.3f} to {same.max():.3f}, mean {same.mean():.3f}"
        f"; {len(different)} of two, {different.min():.3f} to {different.max():.3f}, mean {different.mean():.3f}"
    )
    assert len(same) > 100 and len(different) > 1000
    assert area >= 0.99


def test_strict_takes_the_face_that_matches_and_paper_the_largest(strict, paper, detector, friends):
    faces = sorted(detector.look(friends), key=lambda face: face.area)
    small, large = faces[0], faces[-1]
    photos = [tight(friends, face, 0.35) for face in (small, large)]
    for scorer, expected in ((strict, (True, True)), (paper, (False, True))):
        cosines = [similarity(scorer, scorer.reference([photo]), [friends]).arc[0] for photo in photos]
        assert tuple(cosine > 0.8 for cosine in cosines) == expected
        assert tuple(cosine < 0.36 for cosine in cosines) == tuple(not x for x in expected)


def test_several_photos_count_by_their_mean_direction(strict, people):
    photos = people["man"][:3]
    singles = [strict.reference([photo]) for photo in photos]
    together = strict.reference(photos)
    for name in ("arc", "curricular"):
        mean = np.mean([getattr(single, name) for single in singles], axis=0)
        np.testing.assert_allclose(getattr(together, name), mean / np.linalg.norm(mean), rtol=0, atol=1e-12)
    others = people["man"][3:]
    cosines = [similarity(strict, reference, others).arc.mean() for reference in (*singles, together)]
    assert cosines[-1] > np.mean(cosines[:-1])


# ---- videos that get worse -----------------------------------------------------------------------------------------


def means(found):
    return found.score(found.arc).mean, found.score(found.curricular).mean


def falls(values):
    return all(a > b for a, b in itertools.pairwise(values))


@pytest.fixture(scope="module")
def portrait(strict, man):
    """Reference for the frames of `man` and of `still`: the first of both."""
    return strict.reference(man[:1])


def test_blur_lowers_likeness_and_high_frequencies(strict, detector, portrait, still):
    arcs, curs, bands = [], [], []
    for sigma in (0, 2, 4, 6, 9):
        pictures = [blur(frame, sigma) if sigma else frame for frame in still[1:5]]
        found = similarity(strict, portrait, pictures)
        assert found.frames_without_face == 0
        arc, cur = means(found)
        # The same place of every frame, so that the spectra differ by the blur alone.
        crops = [recogniser_crop(p, *detector.look(f), CROP_SIZE) for p, f in zip(pictures, still[1:5], strict=True)]
        spectrum = picture_spectrum(crops)
        arcs.append(arc), curs.append(cur), bands.append(spectrum.power[spectrum.frequency > 0.125].sum())
    print("blur 0, 2, 4, 6, 9 px:", "arc", arcs, "cur", curs, "power above 1/8", bands)
    assert falls(arcs) and falls(curs) and falls(bands)
    assert arcs[0] - arcs[-1] > 0.2


def test_frames_of_another_person_lower_likeness(strict, portrait, still, woman):
    found = [similarity(strict, portrait, [*woman[:count], *still[count + 1 :]]) for count in range(7)]
    arcs, curs = zip(*map(means, found), strict=True)
    print("0 to 6 of 6 frames exchanged:", "arc", arcs, "cur", curs)
    assert falls(arcs) and falls(curs)
    assert arcs[0] > 0.8 and arcs[-1] < 0.3


def test_frames_without_a_face_lower_strict_likeness_and_not_the_papers(strict, paper, portrait, man):
    """What the paper's protocol cannot see: its mean runs over the frames with a face only."""
    order = np.argsort(similarity(strict, portrait, man[1:]).arc)  # The least alike goes first.
    blank = np.full_like(man[0], 128)
    strict_means, paper_means = [], []
    for count in range(len(order) + 1):
        pictures = [blank if i in order[:count] else frame for i, frame in enumerate(man[1:])]
        found = similarity(strict, portrait, pictures)
        assert found.frames_without_face == count
        strict_means.append(means(found)[0])
        found = similarity(paper, portrait, pictures)
        assert found.score(found.arc).count == 16 - found.frames_without_face
        paper_means.append(means(found)[0])
    print("0 to 11 of 11 frames without a face:", "strict", strict_means, "paper", paper_means)
    assert falls(strict_means) and strict_means[-1] == 0
    assert all(a <= b for a, b in itertools.pairwise(paper_means[:-1])) and paper_means[-2] > paper_means[0]
    assert paper_means[-1] == 0


def test_true_fid_grows_with_the_faces_of_another_person(detector, inception_files, man, woman):
    weights = torch.load(inception_files["strict"], weights_only=True)
    scorer = FaceScorer(detector, "strict", inception=Inception.from_state_dict(weights))
    reference = scorer.reference(man[:6])
    values = [similarity(scorer, reference, [*woman[:count], *man[6 + count :]]).fid for count in (0, 3, 6)]
    print("true FID with 0, 3 and 6 of 6 faces exchanged:", values)
    assert falls(values[::-1])
    found = similarity(scorer, scorer.reference(man[:1]), man[6:8])
    assert found.fid is None and found.features.shape == (2, 2048)
    lines = report_lines(VideoScores(found, None), EvaluationModels(detector, DEMO, inception=scorer.inception))
    assert "FID needs two photos and two frames with a face at least" in lines


# ---- scores --------------------------------------------------------------------------------------------------------


def test_standard_error_is_that_of_the_mean():
    # Deviations -3, -1, 1, 3 of 5: variance 20 / 3, of the mean 5 / 3.
    assert mean_score([2, 4, 6, 8]) == Score(5.0, pytest.approx((5 / 3) ** 0.5, rel=1e-15), 4)
    assert mean_score([0.25]) == Score(0.25, None, 1)


def test_frames_without_a_face_are_zeros_in_the_standard_error(strict, portrait, man):
    found = similarity(strict, portrait, [man[1], np.zeros_like(man[1])])
    score, cosine = found.score(found.arc), found.arc[0]
    # Two values x and 0: mean x / 2, deviation x / sqrt 2, of the mean x / 2.
    assert score == Score(pytest.approx(cosine / 2), pytest.approx(cosine / 2), 2)
    assert found.best[0] == found.worst[0] == 0 and np.array_equal(found.best[1], man[1])
    alone = similarity(strict, portrait, [np.zeros_like(man[1])])
    assert alone.score(alone.arc) == Score(0.0, None, 1) and alone.best is None and alone.worst is None


def test_best_and_worst_frame_are_those_of_the_cosines(strict, portrait, man):
    pictures = [man[3], np.zeros_like(man[0]), man[0], man[7]]
    found = similarity(strict, portrait, pictures)
    assert found.positions.tolist() == [0, 1, 2, 3]
    assert found.best[0] == 2 and found.arc[2] == pytest.approx(1, abs=1e-6)
    assert found.worst[0] == np.nanargmin(found.arc)
    for position, picture in (found.best, found.worst):
        assert np.array_equal(picture, pictures[position])


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


# ---- what goes wrong -----------------------------------------------------------------------------------------------


def refused(message):
    return pytest.raises(ConsisIDError, match=message)


def test_bad_videos_are_named(tmp_path, cases):
    with refused("The video .*gone.mp4 does not exist"):
        VideoFile(tmp_path / "gone.mp4")
    with refused(f"The video {tmp_path} does not exist"):
        VideoFile(tmp_path)
    whole = cases["five frames"][0].read_bytes()  # Its index is at the end.
    for name, content in (("text.mp4", b"not a video\n" * 99), ("cut.mp4", whole[: len(whole) // 2]), ("0.mp4", b"")):
        (tmp_path / name).write_bytes(content)
        with refused(f"The video .*{name} (cannot be read: it is damaged|holds no frames)"):
            VideoFile(tmp_path / name)


def test_bad_batches_are_named(strict, portrait, man):
    with refused("^video is an empty batch"):
        FrameBatch(torch.zeros(0, 8, 8, 3))
    with refused("^reference is an empty batch"):
        FrameBatch(torch.zeros(0, 8, 8, 3), "reference")
    images = batch(man[:3])
    images[2, 5, 5, 0] = torch.nan
    with refused("^Picture 2 of video: The photo .640x360 px. contains NaN"):
        strict.score(FrameBatch(images), portrait)


def test_a_reference_without_a_face_is_named(strict, paper, man):
    blank = np.zeros((240, 320, 3), np.uint8)
    with refused(r"No face found in reference photo 2 of 3 \(320x240\)"):
        strict.reference([man[0], blank, man[1]])
    with refused("No face found in reference photo 1 of 1"):
        paper.reference([blank])
    with refused("compares with one photo, and the reference holds 2"):
        paper.reference(man[:2])


def test_protocols_do_not_mix(models, inception_files, man):
    with refused("paper protocol measures FID by torchvision's Inception, and the one given is torch-fidelity's"):
        weights = torch.load(inception_files["strict"], weights_only=True)
        FaceScorer(models.detector, "paper", inception=Inception.from_state_dict(weights))
    with refused("strict protocol measures FID by torch-fidelity's Inception, and the one given is torchvision's"):
        VideoScorer(models, "strict")
    for run in (FaceScorer, lambda _, protocol: models.clip.score(FrameBatch(batch(man[:1])), PROMPT, protocol)):
        with refused("There is no protocol 'loose'; choose strict or paper"):
            run(models.detector, "loose")


@pytest.mark.parametrize("prompt", ["", " \n"])
def test_an_empty_prompt_is_refused(models, man, prompt):
    with refused("The prompt is empty"):
        models.clip.score(FrameBatch(batch(man[:1])), prompt, "strict")


@pytest.fixture
def clip_copy(files, tmp_path):
    folder = tmp_path / "my clip"
    folder.mkdir()
    for file in files[2].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def without(name):
    def change(folder):
        weights = load_file(folder / "model.safetensors")
        del weights[name]
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return change


def reshaped(folder):
    config = json.loads((folder / "config.json").read_text())
    config["projection_dim"] = 48
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda folder: (folder / "config.json").unlink(), "my clip is no folder with a config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "No CLIP can be loaded from .*my clip"),
        (lambda folder: (folder / "model.safetensors").unlink(), "No CLIP can be loaded from .*my clip"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 99), "No CLIP can be loaded from .*my clip"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "No CLIP can be loaded from .*my clip"),
        (lambda folder: (folder / "preprocessor_config.json").write_text("?"), "No CLIP can be loaded from .*my clip"),
        (without("visual_projection.weight"), "1 parameters are missing or of another shape .visual_projection.weight"),
        (
            reshaped,
            "The weights in .*my clip .*: 2 parameters .*text_projection.weight",
        ),
    ],
)
def test_a_wrong_clip_folder_is_named(clip_copy, change, message):
    change(clip_copy)
    with refused(message) as caught:
        ClipScorer(clip_copy)
    assert "huggingface.co/openai/clip-vit-base-patch32" in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_clip_folder_is_named(tmp_path):
    with refused("gone is no folder with a config.json"):
        ClipScorer(tmp_path / "gone")


def test_wrong_files_are_named(pack, files, tmp_path):
    curricular, inception, clip = files
    with refused(f"{inception} is not a CurricularFace recogniser.*Choose glint360k_curricular_face_r101_backbone.bin"):
        load_models(pack, ["CPUExecutionProvider"], inception)
    with refused(f"{curricular} is not an InceptionV3.*Choose torchvision's inception_v3_google"):
        load_models(pack, ["CPUExecutionProvider"], None, curricular)
    cut = tmp_path / "cut.bin"
    cut.write_bytes(curricular.read_bytes()[:5000])
    with refused("cut.bin"):
        load_models(pack, ["CPUExecutionProvider"], cut)


# ---- videos and pictures -------------------------------------------------------------------------------------------


def test_a_video_gives_its_frames_in_order():
    video = VideoFile(clip_file("single_face.mp4"))
    capture = cv2.VideoCapture(str(video.path))
    count = 0
    for position, frame in video.frames():
        assert position == count and np.array_equal(frame, capture.read()[1][:, :, ::-1])
        assert frame.dtype == np.uint8 and frame.flags.c_contiguous
        count += 1
    assert count == video.frame_count == 72 and not capture.read()[0]


def test_a_video_gives_the_frames_that_are_asked_for():
    video = VideoFile(clip_file("single_face.mp4"))
    whole = [frame for _, frame in video.frames()]
    asked = [0, 3, 3, 71, 40, 40]
    given = list(video.frames(asked))
    assert [position for position, _ in given] == asked
    assert all(np.array_equal(frame, whole[position]) for position, frame in given)
    assert [position for position, _ in video.frames([70, 500])] == [70]
    with refused("No frame of the video .*single_face.mp4 can be read"):
        list(video.frames([500]))


def test_a_video_that_breaks_off_is_scored_as_far_as_it_goes(tmp_path, strict, portrait, caplog):
    pictures = [frame for _, frame in itertools.islice(VideoFile(clip_file("single_face.mp4")).frames(), 40)]
    whole = write_video(tmp_path / "whole.mp4", pictures, movflags="faststart").read_bytes()
    assert whole.index(b"moov") < whole.index(b"mdat")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(whole[: len(whole) // 2])
    video = VideoFile(broken)
    assert video.frame_count == 40
    with caplog.at_level(logging.WARNING, "consisid"):
        found = strict.score(video, portrait)
    count = len(found.positions)
    assert 5 < count < 40 and found.positions.tolist() == list(range(count)) and not np.isnan(found.arc).any()
    (warning,) = [record.getMessage() for record in caplog.records if "broken.mp4" in record.getMessage()]
    assert warning.endswith(f"should have 40 frames; {count} can be read.")


def test_a_picture_is_not_taken_for_a_series(tmp_path):
    """OpenCV reads x_1.png, x_2.png, ... as one video where it may."""
    for number in (1, 2, 3):
        write_picture(tmp_path / f"x_{number}.png", np.full((64, 64, 3), 60 * number, np.uint8))
    try:
        video = VideoFile(tmp_path / "x_2.png")
    except ConsisIDError as error:
        assert "x_2.png" in str(error)
    else:
        ((_, frame),) = video.frames()
        assert abs(int(frame[32, 32, 0]) - 120) < 5


def test_a_photo_on_its_side_is_turned_by_the_strict_reader_alone(tmp_path, astronaut):
    exif = Image.Exif()
    exif[0x0112] = 6  # To be seen turned by a quarter clockwise.
    Image.fromarray(astronaut[:, 100:]).save(tmp_path / "photo.png", exif=exif)
    assert np.array_equal(read_picture(tmp_path / "photo.png", upright=False), astronaut[:, 100:])
    upright = read_picture(tmp_path / "photo.png", upright=True)
    assert np.array_equal(upright, np.rot90(astronaut[:, 100:], -1)) and upright.shape == (412, 512, 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_transparent_picture_is_laid_on_white(tmp_path, mode):
    picture = np.full((32, 32, 4), (200, 40, 90, 255), np.uint8)
    picture[:16, :, 3] = 0
    path = tmp_path / "cut out.png"
    Image.fromarray(picture).convert(mode).save(path, **({"transparency": 0} if mode == "P" else {}))
    read_back = read_picture(path, upright=True)
    assert read_back.shape == (32, 32, 3) and read_back.dtype == np.uint8
    if mode != "P":
        assert (read_back[:16] == 255).all() and (read_back[16:] < 255).all()
    raw = read_picture(path, upright=False)
    assert np.array_equal(raw, np.array(Image.open(path).convert("RGB")))


def test_bad_pictures_are_named(tmp_path, astronaut):
    with refused("The picture .*gone.png does not exist"):
        read_picture(tmp_path / "gone.png", upright=True)
    (tmp_path / "text.png").write_text("no picture")
    path = write_picture(tmp_path / "cut.png", astronaut)
    path.write_bytes(path.read_bytes()[:9000])
    write_picture(tmp_path / "small.png", astronaut[:8, :8])
    for upright in (True, False):
        for name in ("text.png", "cut.png"):
            with refused(f"The picture .*{name} cannot be read .*Save it as"):
                read_picture(tmp_path / name, upright)
    with refused("The picture .*small.png: The photo is 8x8 px, too small"):
        read_picture(tmp_path / "small.png", upright=True)


# ---- long videos ---------------------------------------------------------------------------------------------------


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


@pytest.fixture(scope="module")
def long_video(tmp_path_factory, astronaut):
    """1,000 frames of 480x320, 439 MiB when decoded. Nothing moves, so that few of them differ."""
    picture = crop(resize(astronaut, 320 / 512), 0, 0, 320, 320)
    picture = cv2.copyMakeBorder(picture, 0, 0, 80, 80, cv2.BORDER_CONSTANT, value=(128, 128, 128))
    return write_video(tmp_path_factory.mktemp("long") / "long.mp4", [picture] * 1000, quality=30)


def test_memory_does_not_hold_a_long_video(long_video, models, detector, astronaut):
    process, video = psutil.Process(), VideoFile(long_video)
    scorer = FaceScorer(detector, "strict")
    reference = scorer.reference([astronaut])
    assert video.frame_count == 1000
    growth = []
    for _ in range(3):
        sizes = []
        found = scorer.score(video, reference, lambda sizes=sizes: sizes.append(process.memory_info().rss / 2**20))
        assert len(found.arc) == len(sizes) == 1000 and np.nanmin(found.arc) > 0.6
        growth.append(max(sizes[100:]) - sizes[99])
    print("growth in MiB over the last 900 of 1,000 frames, three times:", growth, "looks", len(detector.seen))
    # A video that is kept grows every time, by 395 MiB; what other tests have left behind comes or goes once.
    assert min(growth) < 20
