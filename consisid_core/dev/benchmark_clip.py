"""Our way to a whole clip against diffusers' ConsisIDPipeline, for the benchmark: its latents, or photo to frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from ..face.align import FACE_SIZE
from ..face.face_pack import quiet
from ..model.vae import Pass
from ..training.diffusion import LATENT_SCALE
from ..training.sample import Sampling, sample_latents, to_pixels
from .benchmark_face import STAND_INS, FaceContest, Identity, extractor_config
from .benchmark_transformer import SIZES, build_pair
from .benchmark_vae import ALL_AT_ONCE, build_vaes
from .measuring import AGREEMENT, COMPUTE_DTYPE, Row, memory_row, require_agreement, timed_rows, timings
from .reference import importing_diffusers

STEPS = {"small": 2, "mid": 2, "full": 50}
TOWER_TOKENS = {"small": 26, "mid": 577, "full": 577}
SCHEDULER = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True, "snr_shift_scale": 1.0, "timestep_spacing": "trailing", "set_alpha_to_one": True,
    "clip_sample": False,
}  # fmt: skip
"""Of the release."""
COMPARED = Sampling(steps=1, guidance=1.5)
"""How outputs are compared: later steps draw noise, each side in its own order, and such guidance no more than doubles
what rounding does."""


class ClipContest:
    """Both ways from an identity to latents and frames, with the same weights, prompts and noise to start from."""

    def __init__(self, size: str, device: str, dtype: str):
        """
        Raises:
            ConsisIDError: diffusers does not import.
        """
        with importing_diffusers():
            from diffusers import CogVideoXDPMScheduler, ConsisIDPipeline
        self.config = config = replace(SIZES[size], facial_extractor=extractor_config(size))
        self.device, self.dtype = device, COMPUTE_DTYPE[dtype]
        self.net, transformer = build_pair(config, device, dtype)
        self.vae, vae = build_vaes(size, device, self.dtype)
        # The pipeline samples the face's latents, we take their mean: let both be the same.
        spread = slice(config.out_channels, None)
        vae.encoder.conv_out.conv.weight[spread] = 0
        vae.encoder.conv_out.conv.bias[spread] = -30
        self.pipeline = ConsisIDPipeline(None, None, vae, transformer, CogVideoXDPMScheduler(**SCHEDULER))
        self.pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator(device).manual_seed(1)
        self.text = torch.randn(
            2, config.max_text_length, config.text_embed_dim, generator=generator, device=device
        ).to(self.dtype)  # fmt: skip
        self.sampling = Sampling(STEPS[size])

    @property
    def video_size(self) -> tuple[int, int, int]:
        """Frames, height and width in pixels."""
        config = self.config
        return 4 * config.sample_frames - 3, 8 * config.sample_height, 8 * config.sample_width

    def an_identity(self, size: str) -> Identity:
        """Random, of no photo."""
        face, generator = self.config.facial_extractor, torch.Generator().manual_seed(2)

        def randn(*shape):
            return torch.randn(1, *shape, generator=generator).to(self.device, self.dtype)

        picture = torch.randint(256, (FACE_SIZE, FACE_SIZE, 3), generator=generator, dtype=torch.uint8).numpy()
        states = [randn(TOWER_TOKENS[size], face.vit_dim) for _ in range(face.num_scales)]
        return picture, randn(face.id_dim), states

    def our_latents(self, identity: Identity, sampling: Sampling) -> torch.Tensor:
        """Scaled latents [1, 16, T, h, w]."""
        picture, embedding, states = identity
        frames, height, width = self.video_size
        picture = np.array(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))
        pixels = torch.from_numpy(picture).to(self.device).movedim(-1, 0)[None, :, None].float() / 127.5 - 1
        face = self.vae.encode(pixels.to(self.dtype), Pass(ALL_AT_ONCE))[0] * LATENT_SCALE
        image = torch.cat((face, face.new_zeros(face.shape[0], self.config.sample_frames - 1, *face.shape[2:])), dim=1)
        tokens = self.net.local_facial_extractor(embedding, states)

        def predict(latents, timestep, text):
            batch = len(text)
            latents = latents.to(self.dtype).expand(batch, -1, -1, -1, -1)
            return self.net(latents, timestep.expand(batch), text.to(self.dtype), tokens.expand(batch, -1, -1))

        negative, positive = self.text
        return sample_latents(predict, positive, negative, image, sampling, branches=in_one_batch)[None]

    def our_frames(self, identity: Identity) -> torch.Tensor:
        """[T, H, W, 3] uint8 on the CPU."""
        latents = self.our_latents(identity, self.sampling) / LATENT_SCALE
        return to_pixels(self.vae.decode(latents.to(self.dtype), Pass(ALL_AT_ONCE))[0])

    def their_latents(self, identity: Identity, sampling: Sampling) -> torch.Tensor:
        """As ours."""
        return self._pipeline(identity, sampling, "latent").transpose(1, 2)

    def their_frames(self, identity: Identity) -> np.ndarray:
        """[T, H, W, 3] in 0..1."""
        return self._pipeline(identity, self.sampling, "np")[0]

    def _pipeline(self, identity, sampling, output_type):
        picture, embedding, states = identity
        frames, height, width = self.video_size
        config = self.config
        noise = torch.randn(
            1, config.out_channels, config.sample_frames, config.sample_height, config.sample_width,
            generator=torch.Generator().manual_seed(sampling.seed),
        )  # fmt: skip
        (result,) = self.pipeline(
            image=Image.fromarray(picture), height=height, width=width, num_frames=frames,
            num_inference_steps=sampling.steps, guidance_scale=sampling.guidance, prompt_embeds=self.text[1:],
            negative_prompt_embeds=self.text[:1], latents=noise.transpose(1, 2).to(self.device, self.dtype),
            id_cond=embedding, id_vit_hidden=states, output_type=output_type, return_dict=False,
        )  # fmt: skip
        return result

    def require_agreement(self, identity: Identity, dtype: str) -> None:
        """Raise ConsisIDError unless both sample the same where they draw no noise on the way."""
        latents = (sample(identity, COMPARED) for sample in (self.our_latents, self.their_latents))
        require_agreement("pipelines", *latents, 2 * AGREEMENT[dtype])

    def describe(self) -> str:
        """What is sampled."""
        frames, height, width = self.video_size
        config, sampling = self.config, self.sampling
        return (
            f"{frames} frames of {width}x{height}, {sampling.steps} DPM steps with guidance {sampling.guidance:g}, "
            f"{config.num_layers} layers of width {config.hidden_dim}; prompts are encoded"
        )


def in_one_batch(
    predict: Callable[[torch.Tensor], torch.Tensor], texts: Sequence[torch.Tensor]
) -> Sequence[torch.Tensor]:
    """The Branches of `sample_latents` that diffusers takes: both texts at once."""
    return predict(torch.cat(list(texts))).chunk(len(texts))


def _rows(what, ours, theirs, device, repeats):
    times = timings([ours, theirs], device, repeats)
    return [*timed_rows(what, *times, device), memory_row(what, ours, theirs, device)]


@torch.inference_mode()
def compare_clip(size: str, device: str, dtype: str, repeats: int) -> tuple[str, list[Row]]:
    """Measure the sampling of a clip's latents from a face's picture and features.

    Returns:
        (what was measured, rows).

    Raises:
        ConsisIDError: the latents disagree, or diffusers does not import.
    """
    contest = ClipContest(size, device, dtype)
    identity = contest.an_identity(size)
    contest.require_agreement(identity, dtype)
    sides = contest.our_latents, contest.their_latents
    ours, theirs = (lambda side=side: side(identity, contest.sampling) for side in sides)
    return contest.describe(), _rows("a clip's latents", ours, theirs, device, repeats)


@quiet()
@torch.inference_mode()
def compare_video(size: str, device: str, dtype: str, repeats: int) -> tuple[str, list[Row]]:
    """Measure a video from the photo to its frames.

    Returns:
        (what was measured, rows).

    Raises:
        ConsisIDError: the latents disagree, or a library does not import.
    """
    faces, contest = FaceContest(size, device, COMPUTE_DTYPE[dtype]), ClipContest(size, device, dtype)
    require_agreement("face paths", faces.ours()[1], faces.theirs()[1], AGREEMENT[dtype])
    contest.require_agreement(faces.ours(), dtype)
    rows = _rows(
        "photo to frames",
        lambda: contest.our_frames(faces.ours()),
        lambda: contest.their_frames(faces.theirs()),
        device,
        repeats,
    )
    return f"{contest.describe()}; {STAND_INS}", rows
