"""The ConsisID transformer as a ComfyUI model: sampling type, latent format, identity conditioning, loading."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.patcher_extension
import comfy.supported_models_base
import comfy.utils
import torch
from comfy.ldm.modules.attention import optimized_attention

from ..checkpoint.fit import about
from ..checkpoint.nets import config_tensors, transformer_weights
from ..errors import ConsisIDError
from ..model.config import TransformerConfig
from ..model.facial_extractor import LocalFacialExtractor
from ..model.transformer import ConsisIDTransformer
from . import compat
from .notices import notices
from .sampling_checks import video_size, warn_of_inputs
from .weight_files import read_weights, refuse_broken_result

REMEDY = "Choose ConsisID's transformer: the folder `transformer` of BestWishYsh/ConsisID-preview"

WEIGHT_DTYPES = {
    "default": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e4m3fn_fast": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}

FP8_DTYPES = (torch.float8_e4m3fn, torch.float8_e5m2)


class ComfyConsisIDTransformer(ConsisIDTransformer):
    """The net with ComfyUI's attention, behind ComfyUI's diffusion-model wrappers."""

    def __init__(self, config: TransformerConfig, dtype: torch.dtype, device: torch.device, operations: type):
        super().__init__(config, device=device, dtype=dtype, operations=operations, attention=optimized_attention)
        # What nodes read of a video net, by the names of ComfyUI's CogVideoX.
        self.in_channels, self.out_channels = config.in_channels, config.out_channels
        self.patch_size, self.patch_size_t = config.patch_size, None
        self.dim = config.hidden_dim
        self.num_attention_heads, self.attention_head_dim = config.num_heads, config.head_dim

    def forward(self, x, timestep, context, transformer_options={}, **kwargs):
        return comfy.patcher_extension.WrapperExecutor.new_class_executor(
            self._forward,
            self,
            comfy.patcher_extension.get_all_wrappers(
                comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, transformer_options
            ),
        ).execute(x, timestep, context, transformer_options, **kwargs)

    def _forward(
        self,
        x,
        timestep,
        context,
        transformer_options={},
        identity_tokens=None,
        identity_scale=1.0,
        identity_blocks=None,
        **kwargs,
    ):
        return super().forward(
            x, timestep, context, identity_tokens, identity_scale, transformer_options, identity_blocks
        )


class ConsisIDLatentFormat(comfy.latent_formats.LatentFormat):
    """Latents of the CogVideoX VAE as the 5B models take them: 8x in space, 4x in time, scaled by 0.7."""

    latent_channels = 16
    latent_dimensions = 3
    temporal_downscale_ratio = 4
    scale_factor = 0.7
    # From scaled latents to RGB in -1..1, for the previews of samplers: those of kijai/ComfyUI-CogVideoXWrapper
    # (latent_preview.py), found by looking at random ones. They show shapes and motion, but not true colours.
    # `scripts/fit_latent_rgb.py` fits true ones, with a bias, to a VAE file.
    latent_rgb_factors = [
        [0.1195, 0.0992, -0.0048], [-0.0012, 0.0550, 0.0213], [-0.0141, -0.0087, -0.0210], [0.0306, 0.1219, 0.0140],
        [0.0927, 0.0303, 0.0508], [0.0379, 0.0494, 0.0586], [0.0177, 0.0088, 0.0360], [0.1061, 0.0234, 0.0572],
        [0.1274, -0.0110, 0.0433], [-0.0187, 0.0822, 0.1061], [0.0084, 0.0762, 0.0930], [0.1294, 0.1236, 0.0448],
        [0.0457, 0.0411, -0.0177], [0.0002, -0.0140, 0.0533], [0.0808, 0.1155, -0.0215], [-0.0152, -0.0058, 0.0722],
    ]  # fmt: skip


class ConsisIDModelConfig(comfy.supported_models_base.BASE):
    """What ComfyUI wants to know of a model before it is built."""

    unet_extra_config = {}
    # ComfyUI's "linear" is linear in the square root of beta: diffusers' "scaled_linear".
    sampling_settings = {"beta_schedule": "linear", "linear_start": 0.00085, "linear_end": 0.012, "zsnr": True}
    latent_format = ConsisIDLatentFormat
    supported_inference_dtypes = [torch.bfloat16, torch.float16, torch.float32]

    def __init__(self, config: TransformerConfig):
        super().__init__({"config": config})
        # Counted with `memory_count` at 720x480x49: a forward's peak is 7.2 hidden_dim for each patch, 0.72 GiB a video
        # in bf16, however many blocks: the feed-forward's activations (ff_dim) beside residual, modulated copy, output
        # and the text's share. 5 % are added. ComfyUI counts 0.01 MiB * dtype size * factor for a latent pixel, and a
        # patch covers patch_size^2 of those. Attention is taken as fused. What does not grow with the video lies within
        # ComfyUI's own reserve: a table resampled for another size (0.2 GiB), a weight cast from fp8 (72 MiB).
        values_per_pixel = 1.05 * (3.2 * config.hidden_dim + config.ff_dim) / config.patch_size**2
        self.memory_usage_factor = values_per_pixel / (0.01 * 1024 * 1024)


class ConsisID(comfy.model_base.BaseModel):
    """v-prediction on image latents and identity tokens. Conditioning keys it reads besides ComfyUI's own:

    identity_tokens [B, 32, 2048], identity_scale, identity_range (start and end as fractions of sampling), and
    identity_blocks (first and last block whose attention of the tokens acts), if not all do.
    """

    def __init__(self, model_config: ConsisIDModelConfig, weights: Path, device: torch.device | None = None):
        """
        Args:
            weights: file or folder of its weights.
        """
        super().__init__(
            model_config,
            comfy.model_base.ModelType.V_PREDICTION,
            device=device,
            unet_model=ComfyConsisIDTransformer,
        )
        self.config = model_config.unet_config["config"]
        self.weights = weights

    def state_dict_for_saving(self, *args, **kwargs):
        config = self.model_config.process_unet_state_dict_for_saving(config_tensors(self.config))
        return {**super().state_dict_for_saving(*args, **kwargs), **config}

    def concat_cond(self, noise, device, concat_latent_image=None, **kwargs):
        """Low-frequency identity: unscaled image latents, or zeros, to stand beside the noise channels."""
        if noise.shape[1] != self.config.out_channels:
            raise ConsisIDError(
                f"The latent to sample has {noise.shape[1]} channels, but this model takes {self.config.out_channels} "
                "channels: it comes from another model's VAE. Take it from the ConsisID Conditioning node, or encode "
                "it with ConsisID's VAE."
            )
        channels = self.config.in_channels - noise.shape[1]
        if concat_latent_image is None:
            return torch.zeros_like(noise[:, :1]).expand(-1, channels, *noise.shape[2:])
        if concat_latent_image.shape[1:] != (channels, *noise.shape[2:]):
            raise ConsisIDError(
                f"GLOBAL_ID is made for {video_size(concat_latent_image.shape[2:])}, but the latent to sample is "
                f"{video_size(noise.shape[2:])}. Set width, height and length of the Global ID Extractor to the "
                "latent's, or take the latent from the ConsisID Conditioning node."
            )
        return comfy.utils.resize_to_batch_size(self.process_latent_in(concat_latent_image), noise.shape[0]).to(device)

    def extra_conds(self, **kwargs):
        out = super().extra_conds(**kwargs)
        self._check_text(kwargs.get("cross_attn"))
        tokens = kwargs.get("identity_tokens")
        if tokens is not None:
            self._check_tokens(tokens)
            out["identity_tokens"] = comfy.conds.CONDRegular(tokens)
            out["identity_scale"] = comfy.conds.CONDConstant(kwargs["identity_scale"])
            if "identity_blocks" in kwargs:
                out["identity_blocks"] = comfy.conds.CONDConstant(kwargs["identity_blocks"])
            # Without a range nothing has to be compared, which would wait for the device at every step.
            if kwargs["identity_range"] != (0.0, 1.0):
                sigmas = tuple(map(self.model_sampling.percent_to_sigma, kwargs["identity_range"]))
                out["identity_sigmas"] = comfy.conds.CONDConstant(sigmas)
        return out

    def _check_text(self, text):
        config = self.config
        if text is not None and (text.shape[-1] != config.text_embed_dim or text.shape[1] > config.max_text_length):
            raise ConsisIDError(
                f"The prompt is encoded as {text.shape[1]} tokens of width {text.shape[-1]}, but this model takes up "
                f"to {config.max_text_length} tokens of width {config.text_embed_dim}. Encode it with the text encoder "
                "that the ConsisID Text Encoder loader gives, and do not concatenate prompts."
            )

    def _check_tokens(self, tokens):
        width = self.config.facial_extractor.output_dim
        if tokens.ndim != 3 or tokens.shape[-1] != width:
            raise ConsisIDError(
                f"LOCAL_ID has the shape {tuple(tokens.shape)}, but this model attends identity tokens of width "
                f"{width}: it was extracted with another model. Connect this MODEL to the Local ID Extractor."
            )

    def _apply_model(
        self, x, t, c_concat=None, *args, identity_tokens=None, identity_scale=1.0, identity_sigmas=None, **kwargs
    ):
        if c_concat is not None and c_concat.shape[2:] != x.shape[2:]:  # Context windows before 0.33 cut x alone.
            raise ConsisIDError(
                f"The face's latents are of {video_size(c_concat.shape[2:])}, but windows of "
                f"{video_size(x.shape[2:])} are sampled: the Context Windows of this ComfyUI do not cut them. Update "
                "ComfyUI to 0.33 or newer, or take Context Windows off."
            )
        if identity_tokens is not None and identity_sigmas is not None:
            start, end = identity_sigmas
            if not end <= float(t[0]) <= start:
                identity_tokens = None
        return super()._apply_model(
            x, t, c_concat, *args, identity_tokens=identity_tokens, identity_scale=identity_scale, **kwargs
        )


def load_transformer(
    path: Path | str, weight_dtype: str = "default", disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """ModelPatcher of a ConsisID transformer, its weights mapped from the file where they need no cast.

    Args:
        path: a weight file or a folder of shards.
        weight_dtype: a key of WEIGHT_DTYPES; "default" keeps what suits the device. Quantised files keep their own.
        disable_dynamic: whether ComfyUI asks for a plain ModelPatcher when it loads the model once more.

    Raises:
        ConsisIDError: naming the file, if it is not a complete ConsisID transformer, or quantised in a way that this
            ComfyUI does not know.
    """
    reload = load_transformer, (path, weight_dtype)  # For ComfyUI's own copies, as its loaders do.
    _log_averaged_weights(Path(path))
    checkpoint = read_weights(path)
    with about(path, REMEDY):
        file = transformer_weights(checkpoint)
    model_config = ConsisIDModelConfig(file.config)
    load_device = comfy.model_management.get_torch_device()
    offload_device = comfy.model_management.unet_offload_device()
    if file.quantization:
        with about(path, "Update ComfyUI, or choose plain bf16, fp16 or fp8 weights"):
            compat.set_quantization(model_config, file.quantization)
        if weight_dtype != "default":
            logging.getLogger("consisid").warning(
                "%s is quantised already: weight_dtype %s is left aside.", path, weight_dtype
            )
            weight_dtype = "default"
    dtype = WEIGHT_DTYPES[weight_dtype] or comfy.model_management.unet_dtype(
        model_params=comfy.utils.calculate_parameters(file.state_dict),
        supported_dtypes=model_config.supported_inference_dtypes,
        weight_dtype=None if file.quantization else comfy.utils.weight_dtype(file.state_dict),
    )
    manual_cast_dtype = comfy.model_management.unet_manual_cast(
        None if file.quantization else dtype, load_device, model_config.supported_inference_dtypes
    )
    model_config.set_inference_dtype(dtype, manual_cast_dtype)
    model_config.optimizations = {**model_config.optimizations, "fp8": weight_dtype == "fp8_e4m3fn_fast"}

    # Parameters come from the file, so none are allocated; quantised layers ask for the device that they will be on.
    model = ConsisID(model_config, Path(path), offload_device if file.quantization else torch.device("meta"))
    if dtype in FP8_DTYPES:
        _keep_tables_in_bf16(model.diffusion_model)
    patcher_class = comfy.model_patcher.ModelPatcher if disable_dynamic else compat.core_model_patcher()
    patcher = patcher_class(model, load_device=load_device, offload_device=offload_device)
    patcher.cached_patcher_init = reload
    with about(path, REMEDY):
        compat.load_weights(model.diffusion_model, file.state_dict, file.quantization, patcher)
    if not comfy.model_management.is_device_cpu(offload_device):
        model.to(offload_device)
    model.requires_grad_(False)
    patcher.add_wrapper_with_key(
        comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, "consisid", functools.partial(_sample_checked, path)
    )
    return patcher


def _sample_checked(path, sample, noise, *args, **kwargs):
    """Around a whole sampling, by whatever sampler: what its inputs lack is said, and one look taken at the result, and
    only if it is broken at the weights."""
    notices.begin()
    warn_of_inputs(sample.class_obj, noise.shape)
    samples = sample(noise, *args, **kwargs)
    if not samples.isfinite().all():
        refuse_broken_result(
            "The sampled latent", path, "Choose bf16 as weight_dtype, and take off LoRAs and other patches one by one."
        )
    return samples


def _log_averaged_weights(path):
    if path.name == "transformer" and path.with_name("transformer_ema").is_dir():
        logging.getLogger("consisid").warning(
            "%s has averaged weights beside it, in transformer_ema. The reference prefers those; choose them.", path
        )


def _keep_tables_in_bf16(net):
    """Parameters that no layer casts, the position table and the extractor's queries, stay out of fp8: they are few."""
    for module in (net.patch_embed, net.local_facial_extractor):
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, torch.nn.Parameter(torch.empty_like(parameter, dtype=torch.bfloat16)))
    compat.note_dtypes(net)


def require_consisid(patcher: comfy.model_patcher.ModelPatcher) -> ConsisID:
    """The model behind a MODEL, or ConsisIDError if it is not ConsisID."""
    if not isinstance(patcher.model, ConsisID):
        raise ConsisIDError(f"MODEL is a {type(patcher.model).__name__}, not ConsisID. Load it with Load ConsisID DiT.")
    return patcher.model


def load_facial_extractor(
    patcher: comfy.model_patcher.ModelPatcher,
) -> tuple[comfy.model_patcher.ModelPatcher, torch.dtype]:
    """A copy of the model's facial extractor (151 M weights) in a patcher of its own, with LoRA patches merged.

    So one face does not pull the whole transformer onto the accelerator, and the model that came in stays as it is.

    Returns:
        (ModelPatcher of a LocalFacialExtractor, the dtype that it computes in).

    Raises:
        ConsisIDError: MODEL is not ConsisID.
    """
    model = require_consisid(patcher)
    dtype = model.manual_cast_dtype or model.get_dtype()
    extractor = LocalFacialExtractor(
        model.config.facial_extractor, optimized_attention, device="meta", operations=comfy.ops.disable_weight_init
    )
    weights = {
        name: compat.patched_weight(patcher, f"diffusion_model.local_facial_extractor.{name}").to(dtype)
        for name in extractor.state_dict()
    }
    extractor.load_state_dict(weights, assign=True)
    return comfy.model_patcher.ModelPatcher(
        extractor.eval().requires_grad_(False), load_device=patcher.load_device, offload_device=patcher.offload_device
    ), dtype
