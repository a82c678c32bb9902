"""From a video to a training example, with tiny nets and real faces, against diffusers and against inference."""

from dataclasses import replace

import numpy as np
import pytest
import skimage.data
import torch
from consisid_pack.consisid_core.checkpoint.reading import read_checkpoint
from consisid_pack.consisid_core.comfyui.extractors import extract_global_id
from consisid_pack.consisid_core.comfyui.vae import load_vae
from consisid_pack.consisid_core.evaluation.video import VideoFile
from consisid_pack.consisid_core.face.align import FACE_SIZE
from consisid_pack.consisid_core.face.analyze import analyze_photos
from consisid_pack.consisid_core.face.parsing import BiSeNet
from consisid_pack.consisid_core.training import examples
from consisid_pack.consisid_core.training.cache import Geometry
from consisid_pack.consisid_core.training.examples import ExampleMaker, Settings
from consisid_pack.consisid_core.training.frames import latent_mask, place_window, resize, resized_size
from consisid_pack.consisid_core.training.manifest import Record, Refused
from helpers.oracle import build_reference_vae, relative_error
from helpers.training_videos import SIZE, moving_face, write_face_video, write_masks
from helpers.videos import write_picture, write_video

GEOMETRY = Geometry(width=96, height=64, frames=9, stride=2)
CLOSE = {"rtol": 3e-3, "atol": 3e-3}  # Half precision, of numbers around 1.


@pytest.fixture(scope="module", autouse=True)
def few_looks():
    """Looking for faces is most of the work."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examples, "LOOKS", 5)
        yield


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """30 frames: the clip takes 6, 8, ... 22."""
    return write_face_video(tmp_path_factory.mktemp("videos") / "eileen.mp4")


@pytest.fixture(scope="module")
def record(video):
    return Record("eileen.mp4", video, "A woman smiles.", "eileen")


@pytest.fixture(scope="module")
def make(encoders):
    @torch.inference_mode()
    def make(record, seed=0, encoders=encoders, **settings):
        settings = Settings(**{"geometry": GEOMETRY, "references": 1, "variants": 2, **settings})
        return list(ExampleMaker(encoders, settings).examples(record, seed))

    return make


@pytest.fixture(scope="module")
def example(make, record):
    ((clip, notes),) = make(record, references=2, variants=3)
    return clip, notes


def clip_frames(video):
    positions = range(6, 23, 2)
    return dict(VideoFile(video).frames(positions))


def test_the_clip(example, record):
    clip, notes = example
    assert (clip.name, clip.caption, clip.person) == ("eileen.mp4", record.caption, "eileen")
    assert clip.latent_mean.shape == clip.latent_std.shape == (16, *GEOMETRY.latent_size) == (16, 3, 8, 12)
    assert clip.text.shape == (226, 64) and clip.mask.shape == (3, 8, 12)
    assert len(clip.inside) == len(clip.outside) == 2
    for reference in (*clip.inside, *clip.outside):
        assert reference.latent_mean.shape == reference.keypoint_std.shape == (3, 16, 8, 12)
        assert reference.embedding.shape == (512,) and reference.eva_embedding.shape == (32,)
        assert reference.hidden_states.shape == (5, 577, 64)
    assert notes == []


def test_latents_equal_diffusers(example, video, models_dir):
    clip, _ = example
    frames = torch.stack([torch.from_numpy(frame).movedim(-1, 0) for frame in clip_frames(video).values()])
    resized = torch.stack([resize(frame, resized_size(SIZE, GEOMETRY)) for frame in frames])
    pixels = resized.float().movedim(1, 0)[None] / 127.5 - 1
    with torch.inference_mode():
        expected = build_reference_vae(models_dir).encode(pixels).latent_dist
    torch.testing.assert_close(clip.latent_mean, expected.mean[0].half(), **CLOSE)
    torch.testing.assert_close(clip.latent_std, expected.std[0].half(), **CLOSE)


def test_references_are_what_inference_makes_of_the_same_frame(example, video, encoders, models_dir):
    """Embedding, crop, latents and features: training and inference see one face alike."""
    clip, _ = example
    vae = load_vae(models_dir / "vae/consisid_demo/diffusion_pytorch_model.safetensors")
    inside = {6: clip_frames(video)[6]} | {p: frame for p, frame in clip_frames(video).items() if p in (10, 18)}
    outside = {p: frame for p, frame in VideoFile(video).frames() if not 6 <= p <= 22}
    for references, frames in ((clip.inside, inside), (clip.outside, outside)):
        found = set()
        for reference in references:
            faces = {}
            for position, frame in frames.items():
                image = torch.from_numpy(frame).float()[None] / 255
                faces[position], _ = analyze_photos(encoders.detector, encoders.parser, image, "largest", 0)
            position = min(faces, key=lambda p: (faces[p].embedding[0] - reference.embedding).abs().max().item())
            face = faces[position]
            found.add(position)
            torch.testing.assert_close(reference.embedding, face.embedding[0], rtol=0, atol=1e-4)
            identity = extract_global_id(face, vae, 96, 64, 9, keypoints=True).latents[0]
            assert relative_error(reference.latent_mean[0].float(), identity[:, 0]) <= 2e-3
            assert relative_error(reference.keypoint_mean[0].float(), identity[:, 1]) <= 2e-3
            eva, hidden = encoders.encode_face(face.gray_image.movedim(-1, 1))
            torch.testing.assert_close(reference.eva_embedding, eva, **CLOSE)
            torch.testing.assert_close(reference.hidden_states, hidden, **CLOSE)
        assert len(found) == 2, "two frames"


def test_noise_has_the_official_strength(make, record):
    """sigma = exp(N(-3, 0.5)) in pixels of -1..1, none in the first variant."""
    geometry = replace(GEOMETRY, width=16, height=16, frames=1)
    ((clip, _),) = make(record, geometry=geometry, variants=300)
    for reference in (*clip.inside, *clip.outside):
        assert reference.noise_sigma[0] == 0
        logs = reference.noise_sigma[1:].log()
        assert logs.mean().item() == pytest.approx(-3, abs=0.15)
        assert logs.std().item() == pytest.approx(0.5, abs=0.1)
        change = (reference.latent_mean[1:] - reference.latent_mean[0]).float().square().mean((1, 2, 3)).sqrt()
        assert torch.corrcoef(torch.stack([change, reference.noise_sigma[1:]]))[0, 1] > 0.5


def test_the_seed_decides(make, record, example):
    (again, _), (other, _) = (make(record, seed, references=2, variants=3)[0] for seed in (0, 1))
    for one, same, changed in zip(example[0].inside, again.inside, other.inside, strict=True):
        assert torch.equal(one.latent_mean, same.latent_mean)
        assert torch.equal(one.latent_mean[0], changed.latent_mean[0])
        assert not torch.equal(one.latent_mean[1], changed.latent_mean[1])


# Masks


def test_a_given_mask_is_taken(make, record, tmp_path):
    masks = np.zeros((30, *SIZE), bool)
    for i in range(30):
        masks[i, 40 : 100 + 2 * i, 100:200] = True
    folder = write_masks(tmp_path / "masks", masks)
    ((clip, notes),) = make(replace(record, mask=folder))
    scaled = [resize(torch.from_numpy(masks[i][None] * np.uint8(255)), (64, 96)) for i in range(6, 23, 2)]
    assert clip.mask_source == "given" and notes == []
    torch.testing.assert_close(clip.mask, latent_mask(torch.cat(scaled).float() / 255, GEOMETRY).half())


def test_an_empty_mask_is_refused(make, record, tmp_path):
    """The mask loss would divide by zero."""
    folder = write_masks(tmp_path / "masks", np.zeros((30, *SIZE)))
    with pytest.raises(Refused, match="masks is empty in the clip") as caught:
        make(replace(record, mask=folder))
    assert caught.value.kind == "mask"


def parser_that_says(label, models_dir):
    """A BiSeNet that gives every pixel this label: its last features are never negative."""
    state_dict = read_checkpoint(models_dir / "consisid/consisid_demo/parsing_bisenet.pth").tensors
    weight = torch.full_like(state_dict["conv_out.conv_out.weight"], -1)
    weight[label] = 1
    return BiSeNet.from_state_dict({**state_dict, "conv_out.conv_out.weight": weight})


@pytest.fixture
def encoders_with(encoders, models_dir, monkeypatch):
    def change(label):
        monkeypatch.setattr(encoders, "parser", parser_that_says(label, models_dir))
        return encoders

    return change


def first_look(video, detector):
    frame = clip_frames(video)[6]
    image = torch.from_numpy(frame).float()[None] / 255
    return analyze_photos(detector, None, image, "largest", 0)[0]


def test_the_parser_makes_a_mask(make, record, video, encoders_with, detector):
    """All skin: the mask is the whole aligned crop, where it lies in the frame."""
    import cv2

    ((clip, _),) = make(record, encoders=encoders_with(label=1))
    assert clip.mask_source == "parsing"
    face = first_look(video, detector)
    to_frame = cv2.invertAffineTransform(face.alignment[0].double().numpy())
    corners = np.array([[0, 0, 1], [FACE_SIZE, 0, 1], [FACE_SIZE, FACE_SIZE, 1], [0, FACE_SIZE, 1]]) @ to_frame.T
    expected = cv2.fillConvexPoly(np.zeros((64, 96), np.float32), (corners / 4).round().astype(np.int32), 1)
    expected = torch.nn.functional.interpolate(torch.from_numpy(expected)[None, None], (8, 12), mode="bilinear")[0, 0]
    assert (clip.mask[0].float() - expected).abs().mean() < 0.03
    assert 0.1 < expected.mean() < 0.9


def test_a_box_serves_where_the_parser_sees_no_face(make, record, video, encoders_with, detector):
    ((clip, _),) = make(record, encoders=encoders_with(label=0))
    assert clip.mask_source == "face box"
    x1, y1, x2, y2 = (first_look(video, detector).bbox[0] / 4).round().int().tolist()
    box = torch.zeros(1, 1, 64, 96)
    box[..., y1:y2, x1:x2] = 1
    expected = torch.nn.functional.interpolate(box, (8, 12), mode="bilinear")[0, 0]
    torch.testing.assert_close(clip.mask[0], expected.half())


# What is unusual


def test_long_videos_give_several_clips(make, record, tmp_path):
    video = write_face_video(tmp_path / "long.mp4", 60)
    (first, _), (second, _) = make(replace(record, video=video), clips=2)
    assert (first.name, second.name) == ("eileen.mp4", "eileen.mp4 #2")
    assert not torch.equal(first.latent_mean, second.latent_mean)


def test_a_face_at_the_border_moves_the_window(make, record, tmp_path):
    """A portrait video whose middle shows no face, as the example of the official repository."""
    pictures = [np.pad(picture[:, 120:300], ((0, 300), (0, 0), (0, 0)), "edge") for picture in moving_face(12)]
    video = write_video(tmp_path / "portrait.mp4", [np.ascontiguousarray(picture) for picture in pictures])
    ((clip, notes),) = make(replace(record, video=video), geometry=replace(GEOMETRY, stride=1))
    assert "The middle of its frames would cut the face off; the clip is cut out around it." in notes
    assert clip.mask.amax() == 1
    resized = resized_size((556, 180), GEOMETRY)
    assert not place_window(resized, np.array([[30.0, 10, 60, 40]]), GEOMETRY).is_middle


def test_remarks(make, record, tmp_path):
    video = write_face_video(tmp_path / "short.mp4", 9)
    photo = write_picture(tmp_path / "photo.png", skimage.data.astronaut())
    ((clip, notes),) = make(replace(record, video=video, caption="word " * 300))
    assert clip.outside == []
    assert "It is short: one of 1 frames is taken instead of one of 2." in notes
    assert "It has no reference from outside the clip." in notes
    assert any("tokens too long" in note for note in notes)
    assert "24.0 frames a second, and the model makes 8: motion will be 0.3 times as fast" in "".join(notes)
    ((clip, notes),) = make(replace(record, video=video, faces=(photo,), fps=8))
    assert len(clip.outside) == 1 and notes == ["It is short: one of 1 frames is taken instead of one of 2."]


def test_frames_of_annotations_are_kept_to(make, record, video):
    """Only frames 10 to 18 show the person, the annotations say."""
    ((clip, _),) = make(replace(record, frames=tuple(range(10, 19))), geometry=replace(GEOMETRY, stride=1))
    frames = [torch.from_numpy(frame).movedim(-1, 0) for _, frame in VideoFile(video).frames(range(10, 19))]
    assert clip.outside == []
    ((other, _),) = make(replace(record, frames=tuple(range(11, 20))), geometry=replace(GEOMETRY, stride=1))
    assert len(frames) == 9 and not torch.equal(clip.latent_mean, other.latent_mean)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"caption": ""}, "no caption", "it has no caption"),
        ({"refused": Refused("two people", "annotated.")}, "two people", "annotated"),
        ({"frames": tuple(range(5))}, "too short", "seen in 5 frames on end, and a clip has 9"),
    ],
)
def test_refusals(make, record, change, kind, words):
    with pytest.raises(Refused, match=words) as caught:
        make(replace(record, **change))
    assert caught.value.kind == kind


def test_unreadable_videos_are_refused(make, record, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video" * 100)
    for name, words in (("absent.mp4", "does not exist"), ("broken.mp4", "broken.mp4")):
        with pytest.raises(Refused, match=words) as caught:
            make(replace(record, video=tmp_path / name))
        assert caught.value.kind == "unreadable"


def test_videos_without_a_face_are_refused(make, record, tmp_path):
    plain = np.full((9, *SIZE, 3), 90, np.uint8)
    with pytest.raises(Refused, match="no face was found") as caught:
        make(replace(record, video=write_video(tmp_path / "plain.mp4", plain)), geometry=replace(GEOMETRY, stride=1))
    assert caught.value.kind == "no face"
