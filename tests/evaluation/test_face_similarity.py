"""FaceSim and FID of real faces and clips: who is who, videos that get worse, long ones.

The recogniser is the demo pack's stand-in, CurricularFace and Inception have random weights. `pytest -s` prints what
was measured.
"""

import itertools

import cv2
import numpy as np
import psutil
import pytest
import torch
from consisid_pack.consisid_core.evaluation.face_similarity import CROP_SIZE, FaceScorer
from consisid_pack.consisid_core.evaluation.models import EvaluationModels
from consisid_pack.consisid_core.evaluation.nets.inception import Inception
from consisid_pack.consisid_core.evaluation.protocol import Score
from consisid_pack.consisid_core.evaluation.scores import VideoScores, report_lines
from consisid_pack.consisid_core.evaluation.spectrum import picture_spectrum
from consisid_pack.consisid_core.evaluation.video import VideoFile
from consisid_pack.consisid_core.face.align import recogniser_crop
from helpers.evaluation import DEMO, refused, similarity
from helpers.pictures import blur, crop, resize, tight
from helpers.videos import write_video


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


def test_a_negative_cosine_counts_as_zero_in_the_paper_and_as_itself_else(paper, strict, astronaut, man):
    astronaut, (frame,) = paper.reference([astronaut]), man[:1]
    cosine = similarity(strict, astronaut, [frame]).arc[0]
    opposite = -astronaut.arc  # of which the cosine is the negative
    reference = type(astronaut)(opposite if cosine > 0 else astronaut.arc, astronaut.curricular, None)
    found = similarity(strict, reference, [frame])
    assert found.score(found.arc).mean == found.arc[0] == -abs(cosine) < -1e-4
    found = similarity(paper, reference, [frame])
    assert found.score(found.arc).mean == 0 and (found.arc == -abs(cosine)).all()


class Photos:
    """A video of photos of many sizes, as they are: a FrameBatch would convert each of them for every pair anew."""

    def __init__(self, photos):
        self.photos, self.frame_count = photos, len(photos)

    def frames(self, positions=None):
        return enumerate(self.photos)


def test_the_same_person_scores_above_another(detector, people):
    """Over all pairs of real faces, by the demo pack's stand-in recogniser, not by ArcFace."""
    assert len(people) == 14
    names = [name for name, pictures in people.items() for _ in pictures]
    photos = [picture for pictures in people.values() for picture in pictures]
    assert all(len(detector.look(photo)) == 1 for photo in photos)
    scorer = FaceScorer(detector, "strict")
    same, different = [], []
    for number in range(len(photos) - 1):
        found = scorer.score(Photos(photos[number + 1 :]), scorer.reference([photos[number]]))
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


def means(found):
    return found.score(found.arc).mean, found.score(found.curricular).mean


def falls(values):
    return all(a > b for a, b in itertools.pairwise(values))


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


def test_frames_without_a_face_are_zeros_in_the_standard_error(strict, portrait, man):
    found = similarity(strict, portrait, [man[1], np.zeros_like(man[1])])
    score, cosine = found.score(found.arc), found.arc[0]
    # Two values x and 0: mean x / 2, deviation x / sqrt 2, of the mean x / 2.
    assert score == Score(pytest.approx(cosine / 2), pytest.approx(cosine / 2), 2)
    assert found.best.position == found.worst.position == 0 and np.array_equal(found.best.picture, man[1])
    alone = similarity(strict, portrait, [np.zeros_like(man[1])])
    assert alone.score(alone.arc) == Score(0.0, None, 1) and alone.best is None and alone.worst is None


def test_best_and_worst_frame_are_those_of_the_cosines(strict, portrait, man):
    pictures = [man[3], np.zeros_like(man[0]), man[0], man[7]]
    found = similarity(strict, portrait, pictures)
    assert found.positions.tolist() == [0, 1, 2, 3]
    assert found.best.position == 2 and found.arc[2] == pytest.approx(1, abs=1e-6)
    assert found.worst.position == np.nanargmin(found.arc)
    for frame in (found.best, found.worst):
        assert np.array_equal(frame.picture, pictures[frame.position])
        assert frame.cosine == found.arc[frame.position]


def test_a_reference_without_a_face_is_named(strict, paper, man):
    blank = np.zeros((240, 320, 3), np.uint8)
    with refused(r"No face found in reference photo 2 of 3 \(320x240\)"):
        strict.reference([man[0], blank, man[1]])
    with refused("No face found in reference photo 1 of 1"):
        paper.reference([blank])
    with refused("No face found in reference photo 1 of 1 .*16-bit greyscale file like that"):
        strict.reference([np.full_like(blank, 255)])
    with refused("compares with one photo, and the reference holds 2"):
        paper.reference(man[:2])


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
