"""Did the video keep the face? Scores, spectra and comparisons, for ConsisID's videos and any other."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..consisid_core.comfyui.compat import growing_inputs, growing_values, schema
from ..consisid_core.comfyui.evaluation import (
    ResidentModels,
    compare_videos,
    frequency_spectrum,
    load_evaluation_models,
    sample_with_effect_plot,
    score_identity,
    score_text,
)
from ..consisid_core.comfyui.model_folders import (
    checkpoint_path,
    clip_folder_names,
    evaluation_pack_names,
    face_pack_path,
    weight_file_names,
)
from ..consisid_core.comfyui.notices import clears_notices
from ..consisid_core.comfyui.sampler import SamplerSettings
from ..consisid_core.errors import ConsisIDError
from ..consisid_core.evaluation.plots import THEMES
from ..consisid_core.evaluation.protocol import PROTOCOLS
from ..consisid_core.face.providers import PROVIDER_CHOICES
from ..consisid_core.types import Face
from .sampler import ConsisIDSampler
from .sockets import ConsisIDEvaluationModels, ConsisIDFace

CATEGORY = "ConsisID/evaluation"
NONE = "none"


def _protocol_input() -> io.Combo.Input:
    return io.Combo.Input(
        "protocol",
        options=list(PROTOCOLS),
        default="strict",
        tooltip="strict: every frame, the face that matches best, a frame without a face counts 0. paper: as the "
        "paper's code, 16 frames and frames without a face left out; only to compare with the paper's tables.",
    )


def _theme_input() -> io.Combo.Input:
    return io.Combo.Input("plot_theme", options=list(THEMES), default="dark", tooltip="Colours of the plot.")


def _reference_input() -> io.MultiType.Input:
    return io.MultiType.Input(
        "reference",
        [ConsisIDFace, io.Image],
        tooltip="The person: a face of the Face Analyzer, or photos of one person, of which the largest face counts. "
        "paper takes a single photo.",
    )


class ConsisIDEvaluationModelsLoader(io.ComfyNode):
    """Face pack and up to three files -> the nets that measure."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ConsisIDEvaluationModelsLoader",
            display_name="Load ConsisID Evaluation Models",
            search_aliases=["FaceSim", "CurricularFace", "CLIPScore", "FID", "face similarity"],
            category=CATEGORY,
            description="The nets that measure videos. Only the face pack is needed; each of the others adds a score.",
            inputs=[
                io.Combo.Input(
                    "insightface_pack",
                    options=evaluation_pack_names(),
                    tooltip="Folder in models/insightface/models, for FaceSim-Arc. The paper measures by buffalo_l; "
                    "antelopev2 is what ConsisID itself looks at the photo with.",
                ),
                io.Combo.Input(
                    "curricular_face",
                    options=[NONE, *weight_file_names("curricular")],
                    default=NONE,
                    tooltip="glint360k_curricular_face_r101_backbone.bin in models/consisid, for FaceSim-Cur.",
                ),
                io.Combo.Input(
                    "inception",
                    options=[NONE, *weight_file_names("inception")],
                    default=NONE,
                    tooltip="For FID, in models/consisid: inception_v3_google-0cc3c7bd.pth of torchvision for the "
                    "paper protocol, weights-inception-2015-12-05-6726825d.pth of torch-fidelity for the strict one.",
                ),
                io.Combo.Input(
                    "clip",
                    options=[NONE, *clip_folder_names()],
                    default=NONE,
                    tooltip="For CLIPScore: all files of openai/clip-vit-base-patch32 in a folder in models/consisid.",
                ),
                io.Combo.Input(
                    "provider",
                    options=list(PROVIDER_CHOICES),
                    default="auto",
                    tooltip="Where face detection and recognition run. auto takes the best that the installed "
                    "onnxruntime offers.",
                ),
            ],
            outputs=[ConsisIDEvaluationModels.Output(display_name="evaluation_models")],
        )

    @classmethod
    @clears_notices
    def execute(
        cls,
        insightface_pack: str,
        curricular_face: str,
        inception: str,
        clip: str,
        provider: str,
    ) -> io.NodeOutput:
        paths = [
            None if name == NONE else checkpoint_path("consisid", name) for name in (curricular_face, inception, clip)
        ]
        return io.NodeOutput(load_evaluation_models(face_pack_path(insightface_pack), provider, *paths))


class ConsisIDIdentityScore(io.ComfyNode):
    """Video and person -> FaceSim and FID."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ConsisIDIdentityScore",
            display_name="ConsisID Identity Score",
            search_aliases=["FaceSim", "face similarity", "identity preservation", "likeness", "same person", "FID"],
            category=CATEGORY,
            description="Measures how well a video keeps a person's face, frame by frame: FaceSim-Arc, and FaceSim-Cur "
            "and FID where their nets are loaded. Works for any video, ConsisID's or not.",
            is_output_node=True,
            inputs=[
                ConsisIDEvaluationModels.Input("evaluation_models"),
                io.Image.Input("video", tooltip="The frames of the video."),
                _reference_input(),
                _protocol_input(),
                _theme_input(),
            ],
            outputs=[
                io.Float.Output(display_name="similarity", tooltip="FaceSim-Arc; 1 is the photo itself."),
                io.String.Output(display_name="report"),
                io.Image.Output(display_name="plot", tooltip="Likeness over frames, best and worst frame."),
            ],
        )

    @classmethod
    @clears_notices
    def execute(
        cls,
        evaluation_models: ResidentModels,
        video: io.Image.Type,
        reference: Face | io.Image.Type,
        protocol: str,
        plot_theme: str,
    ) -> io.NodeOutput:
        similarity, report, plot = score_identity(evaluation_models, video, reference, protocol, plot_theme)
        return io.NodeOutput(similarity, report, plot, ui=ui.PreviewImage(plot, cls=cls))


class ConsisIDTextScore(io.ComfyNode):
    """Video and prompt -> CLIPScore."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ConsisIDTextScore",
            display_name="ConsisID Text Score",
            search_aliases=["CLIPScore", "CLIP score", "prompt adherence", "text alignment"],
            category=CATEGORY,
            description="Measures how well a video fits its prompt: CLIPScore by ViT-B/32, about 20 for any picture, "
            "30 and more for a good fit.",
            is_output_node=True,
            inputs=[
                ConsisIDEvaluationModels.Input("evaluation_models", tooltip="Loaded with a clip."),
                io.Image.Input("video", tooltip="The frames of the video."),
                io.String.Input(
                    "prompt", multiline=True, tooltip="The prompt of the video. CLIP reads its first 77 tokens."
                ),
                _protocol_input(),
            ],
            outputs=[io.Float.Output(display_name="score"), io.String.Output(display_name="report")],
        )

    @classmethod
    @clears_notices
    def execute(
        cls,
        evaluation_models: ResidentModels,
        video: io.Image.Type,
        prompt: str,
        protocol: str,
    ) -> io.NodeOutput:
        return io.NodeOutput(*score_text(evaluation_models, video, prompt, protocol))


class ConsisIDFrequencySpectrum(io.ComfyNode):
    """Pictures -> their amplitude by frequency."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ConsisIDFrequencySpectrum",
            display_name="ConsisID Frequency Spectrum",
            search_aliases=["Fourier", "FFT", "sharpness", "detail", "texture"],
            category=CATEGORY,
            description="Shows how much coarse and how much fine structure pictures have, averaged over directions and "
            "frames, against a reference: the paper's Figure 3.",
            is_output_node=True,
            inputs=[
                io.Image.Input("images", tooltip="A video or pictures."),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="What to compare with: photos of the person, or another video; whole pictures must be of "
                    "one size. Without it amplitudes are relative to the lowest frequency.",
                ),
                ConsisIDEvaluationModels.Input(
                    "evaluation_models",
                    optional=True,
                    tooltip="Connected: only the largest face of each picture counts, aligned to 224 pixels. Open: "
                    "whole pictures.",
                ),
                _theme_input(),
            ],
            outputs=[
                io.Image.Output(display_name="plot"),
                io.Image.Output(
                    display_name="spectrum", tooltip="Power over both directions; frequency 0 in the middle."
                ),
            ],
        )

    @classmethod
    @clears_notices
    def execute(
        cls,
        images: io.Image.Type,
        plot_theme: str,
        reference: io.Image.Type | None = None,
        evaluation_models: ResidentModels | None = None,
    ) -> io.NodeOutput:
        plot, spectrum = frequency_spectrum(images, reference, evaluation_models, plot_theme)
        return io.NodeOutput(plot, spectrum, ui=ui.PreviewImage(plot, cls=cls))


class ConsisIDCompareVideos(io.ComfyNode):
    """Videos of one person -> a table of their scores."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ConsisIDCompareVideos",
            display_name="ConsisID Compare Videos",
            search_aliases=["benchmark", "side by side", "FaceSim table", "compare models"],
            category=CATEGORY,
            description="Scores two to six videos of one person and puts them into one table and one plot.",
            is_output_node=True,
            inputs=[
                ConsisIDEvaluationModels.Input("evaluation_models"),
                _reference_input(),
                *growing_inputs("videos", io.Image, [f"video_{number}" for number in range(1, 7)], shown=2),
                io.String.Input(
                    "names",
                    default="",
                    multiline=True,
                    tooltip="What to call the videos, one name a line, in the order of the inputs.",
                ),
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    tooltip="The prompt that all of them were made for, to compare CLIPScore too. Leave it empty "
                    "otherwise.",
                ),
                _protocol_input(),
                _theme_input(),
            ],
            outputs=[io.Image.Output(display_name="table"), io.String.Output(display_name="report")],
        )

    @classmethod
    @clears_notices
    def execute(
        cls,
        evaluation_models: ResidentModels,
        reference: Face | io.Image.Type,
        names: str,
        prompt: str,
        protocol: str,
        plot_theme: str,
        **videos: io.Image.Type | dict[str, io.Image.Type],
    ) -> io.NodeOutput:
        videos = growing_values("videos", videos)
        if len(videos) < 2:
            raise ConsisIDError(f"Compare Videos got {len(videos)} videos. Connect two to six of them.")
        table, report = compare_videos(
            evaluation_models, videos, names.splitlines(), reference, prompt, protocol, plot_theme
        )
        return io.NodeOutput(table, report, ui=ui.PreviewImage(table, cls=cls))


class ConsisIDIdentityEffect(io.ComfyNode):
    """Noise -> LATENT, and what each half of the identity changes on the way."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ConsisIDIdentityEffect",
            display_name="ConsisID Identity Effect",
            search_aliases=["frequency analysis", "ablation", "identity strength", "explain"],
            category=CATEGORY,
            description="The ConsisID Sampler with a look inside: what each half of the identity changes at every "
            "step, at which frequencies. The video is the same; sampling takes two to three times as long.",
            is_output_node=True,
            inputs=[*(i for i in ConsisIDSampler.define_schema().inputs if not i.optional), _theme_input()],
            outputs=[io.Latent.Output(display_name="latent"), io.Image.Output(display_name="plot")],
        )

    @classmethod
    @clears_notices
    def execute(
        cls,
        model: io.Model.Type,
        positive: io.Conditioning.Type,
        negative: io.Conditioning.Type,
        latent_image: io.Latent.Type,
        seed: int,
        steps: int,
        cfg: float,
        sampler: str,
        guidance: str,
        denoise: float,
        plot_theme: str,
    ) -> io.NodeOutput:
        settings = SamplerSettings(seed, steps, cfg, sampler, guidance, denoise)
        latent, plot = sample_with_effect_plot(model, positive, negative, latent_image, settings, plot_theme)
        return io.NodeOutput(latent, plot, ui=ui.PreviewImage(plot, cls=cls))


NODES = [
    ConsisIDEvaluationModelsLoader,
    ConsisIDIdentityScore,
    ConsisIDTextScore,
    ConsisIDFrequencySpectrum,
    ConsisIDCompareVideos,
    ConsisIDIdentityEffect,
]
