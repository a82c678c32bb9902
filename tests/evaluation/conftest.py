"""People, nets and runs that the tests of the evaluation share."""

import shutil

import numpy as np
import pytest
import skimage.data
import torch
from consisid_pack.consisid_core.checkpoint.files import DEMO_MARKER
from consisid_pack.consisid_core.checkpoint.reading import read_checkpoint
from consisid_pack.consisid_core.evaluation.face_similarity import CROP_SIZE, FaceScorer
from consisid_pack.consisid_core.evaluation.models import load_models
from consisid_pack.consisid_core.evaluation.nets.curricularface import CurricularFace, preprocess
from consisid_pack.consisid_core.face.align import recogniser_crop
from helpers.evaluation import (
    DEMO,
    PAPER_INCEPTION,
    RECOGNISER,
    TINY_STAGES,
    TRUE_INCEPTION,
    OneLook,
    run,
    write_manifest,
)
from helpers.pictures import blur, frames, jpeg, read, resize, rotate, tight
from helpers.random_nets import random_inception
from helpers.videos import clip_file, read_frames, write_clip, write_picture, write_video
from PIL import Image


@pytest.fixture(scope="session")
def astronaut():
    return skimage.data.astronaut()


@pytest.fixture(scope="session")
def friends():
    return read("feat", "tests/data/multi_face.jpg")


@pytest.fixture(scope="session")
def man():
    """A man: twelve frames over the whole of single_face.mp4."""
    return list(frames("single_face.mp4", range(0, 72, 6)).values())


@pytest.fixture(scope="session")
def woman():
    """Six frames of a clip of the same size."""
    return list(frames("WolfgangLanger_Pexels.mp4", range(0, 472, 90)).values())


@pytest.fixture(scope="session")
def still():
    """The man, seven frames in a row: so little moves that random nets find them alike."""
    return list(frames("single_face.mp4", range(7)).values())


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def detector(detector):
    return OneLook(detector)


@pytest.fixture(scope="session")
@torch.no_grad()
def curricular_file(models_dir, detector, astronaut, man, woman, friends, tmp_path_factory):
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
    file = tmp_path_factory.mktemp("curricular") / "curricular_calibrated.bin"
    torch.save({**net.state_dict(), DEMO_MARKER: torch.ones(1)}, file)
    return file


@pytest.fixture(scope="session")
def files(models_dir, curricular_file, inception_files):
    """What `load_models` takes after the pack, for the paper's protocol."""
    return [curricular_file, inception_files["paper"], models_dir / "consisid" / DEMO / "clip-vit-base-patch32"]


@pytest.fixture(scope="session")
def models(pack, files):
    return load_models(pack, ["CPUExecutionProvider"], *files)


@pytest.fixture(scope="session")
def strict(detector, models):
    return FaceScorer(detector, "strict", models.curricular_face)


@pytest.fixture(scope="session")
def paper(detector, models):
    return FaceScorer(detector, "paper", models.curricular_face)


@pytest.fixture(scope="session")
def portrait(strict, man):
    """Reference for the frames of `man` and of `still`: the first of both."""
    return strict.reference(man[:1])


@pytest.fixture(scope="session")
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


def each_face(photo, detector):
    """For every face of a photo three pictures that show no other."""
    for face in detector.look(photo):
        for margin in (0.35, 0.2, 0.1, 0):
            cut = tight(photo, face, margin)
            pictures = [cut, np.ascontiguousarray(cut[:, ::-1]), jpeg(resize(cut, 0.7), 40)]
            if all(len(detector.look(picture)) == 1 for picture in pictures):
                yield pictures
                break


@pytest.fixture(scope="session")
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


def cut_crops(picture, count, seed, side=224):
    rng = np.random.default_rng(seed)
    corners = zip(*(rng.integers(0, size - side, count) for size in picture.shape[:2]), strict=True)
    return [np.ascontiguousarray(picture[y : y + side, x : x + side]) for y, x in corners]


@pytest.fixture(scope="session")
def crops(astronaut, friends):
    """Eight crops of one photo and eight of another."""
    return cut_crops(astronaut, 8, seed=1), cut_crops(friends, 8, seed=2)


@pytest.fixture(scope="session")
def comfyui(pack, tmp_path_factory):
    root = tmp_path_factory.mktemp("ComfyUI")
    shutil.copytree(pack, root / "models/insightface/models/demo")
    return root


@pytest.fixture(scope="session")
def full_comfyui(comfyui, models_dir, inception_files, tmp_path_factory):
    """With random weights for everything that scores, where the command looks for them."""
    root = shutil.copytree(comfyui, tmp_path_factory.mktemp("full") / "ComfyUI")
    folder = root / "models/consisid"
    folder.mkdir()
    shutil.copy(inception_files["paper"], folder / PAPER_INCEPTION)
    shutil.copy(inception_files["strict"], folder / TRUE_INCEPTION)
    torch.manual_seed(0)
    tiny = CurricularFace(TINY_STAGES)
    (folder / RECOGNISER).parent.mkdir(parents=True)
    torch.save(tiny.state_dict(), folder / RECOGNISER)
    clip = "clip-vit-base-patch32"
    shutil.copytree(models_dir / "consisid/consisid_demo" / clip, folder / clip)
    return root


@pytest.fixture(scope="session")
def clips(astronaut, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "ours/a.mp4", read_frames("single_face.mp4", 0, 6))
    write_clip(folder / "ours/b.mp4", read_frames("single_face.mp4", 40, 5))
    # No package has a clip of a second person in which some frames are empty: these frames are put together.
    write_clip(
        folder / "theirs/a.mp4", read_frames("single_face.mp4", 10, 4) + read_frames("no_face.mp4", 0, 2, step=20)
    )
    write_clip(folder / "theirs/b.mp4", read_frames("face_noface.mov", 0, 6, step=20))
    (folder / "ours/corrupt.mp4").write_bytes((folder / "ours/a.mp4").read_bytes()[:3000])
    Image.fromarray(read_frames("single_face.mp4", 5, 1)[0][..., ::-1]).save(folder / "photo.png")
    write_picture(folder / "astronaut.png", astronaut)
    Image.fromarray(read_frames("no_face.mp4", 0, 1)[0][..., ::-1]).save(folder / "landscape.png")
    return folder


@pytest.fixture
def run_dir(clips, tmp_path):
    folder = shutil.copytree(clips, tmp_path / "run")
    write_manifest(folder)
    return folder


@pytest.fixture(scope="session")
def scored(clips, comfyui, tmp_path_factory):
    """A run that has been scored by both protocols; tests only read it."""
    folder = shutil.copytree(clips, tmp_path_factory.mktemp("scored") / "run")
    write_manifest(folder)
    assert [run(folder, comfyui, "--protocol", protocol) for protocol in ("strict", "paper")] == [1, 1]
    return folder
