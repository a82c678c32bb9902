"""The nets that training does not train: loaded without ComfyUI, told apart by fingerprints, run once for each clip."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from ..checkpoint.files import checkpoint_files
from ..checkpoint.finite import check_finite
from ..checkpoint.fit import about
from ..checkpoint.model_folders import ModelFolders
from ..checkpoint.nets import text_encoder_weights, vae_weights
from ..checkpoint.reading import read_checkpoint
from ..errors import ConsisIDError, in_short, optional_library
from ..evaluation.content import digests
from ..face.detector import FaceDetector
from ..face.parsing import BiSeNet
from ..face.providers import resolve_providers
from ..model.vae import CogVideoXVAE
from ..weights.parts import PARTS

_COMFYUI_TOKENIZER = "comfy/text_encoders/t5_tokenizer"


@dataclass(frozen=True)
class EncoderPaths:
    """Where the nets lie."""

    vae: Path
    text_encoder: Path
    tokenizer: Path
    eva: Path
    parser: Path
    pack: Path

    @classmethod
    def find(cls, comfyui: Path | str | None, **given: Path | None) -> EncoderPaths:
        """The paths that were given, and for the others where the released weights lie in a ComfyUI.

        Args:
            comfyui: its root or its models folder, as `ModelFolders` takes it.
            given: by the names of the fields.

        Raises:
            ConsisIDError: naming the option and the path that does not exist.
        """
        names = {
            "vae": "vae", "text_encoder": "text_encoder", "eva": "eva_clip", "parser": "face_parsing",
            "pack": "face_detector",
        }  # fmt: skip
        paths = {name: path for name, path in given.items() if path}
        if missing := [field.name for field in fields(cls) if field.name not in paths]:
            folders = ModelFolders(comfyui)
            parts = {part.name: part for part in PARTS}
            for name in set(missing) - {"tokenizer"}:
                part = parts[names[name]]
                place = part.place(folders) / part.weights
                paths[name] = place.parent if name == "pack" else place
            if "tokenizer" in missing:
                paths["tokenizer"] = _find_tokenizer(paths["text_encoder"], folders)
        for name, path in paths.items():
            if not path.exists():
                raise ConsisIDError(
                    f"There is no {name.replace('_', ' ')} at {path}. Name one with --{name.replace('_', '-')}, or "
                    "fetch the released weights: python -m consisid_core.weights download"
                )
        return cls(**paths)

    def fingerprints(self) -> dict[str, str]:
        """Net -> digest of what its files hold, wherever they lie and whatever they are called.

        Raises:
            ConsisIDError: a checkpoint is incomplete.
        """
        tokenizer = [file for file in sorted(self.tokenizer.glob("*")) if file.suffix in (".json", ".model")]
        files = {
            "vae": checkpoint_files(self.vae)[0],
            "text_encoder": [*checkpoint_files(self.text_encoder)[0], *tokenizer],
            "eva": [self.eva],
            "parser": [self.parser],
            "face_pack": sorted(self.pack.glob("*.onnx")),
        }
        found = digests(path for paths in files.values() for path in paths)
        parts = {net: json.dumps([found[path] for path in paths]) for net, paths in files.items()}
        return {net: hashlib.sha256(part.encode()).hexdigest() for net, part in parts.items()}


def _find_tokenizer(text_encoder, folders):
    places = [text_encoder.parent / "tokenizer", folders.models.parent / _COMFYUI_TOKENIZER]
    return next((place for place in places if place.is_dir()), places[0])


def load_vae(path: Path, device: torch.device | str, remedy: str) -> CogVideoXVAE:
    """A VAE in bf16 on a card, else in float32.

    Args:
        path: its file.
        remedy: what to do if it is no VAE, a sentence without its full stop.

    Raises:
        ConsisIDError: it is gone or damaged.
    """
    checkpoint = read_checkpoint(path)
    with about(path, remedy):
        net = _build_vae(checkpoint)
    dtype = torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
    return net.to(device, dtype).requires_grad_(False).eval()


class Encoders:
    """The loaded nets. Results are on the CPU, large ones float16."""

    def __init__(self, paths: EncoderPaths, device: str, provider: str, text_length: int) -> None:
        """
        Args:
            paths: of the nets.
            device: torch's, "cpu" or "cuda".
            provider: for the face pack, one of `PROVIDER_CHOICES`.
            text_length: tokens of a caption: shorter ones are padded, longer ones cut.

        Raises:
            ConsisIDError: naming the file or folder that is missing, damaged or of another kind.
        """
        self.device = torch.device(device)
        # As the official code trains (weight_dtype), where there is hardware for it.
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.text_length = text_length
        self.detector = FaceDetector(paths.pack, resolve_providers(provider))
        self._is_demo = self.detector.is_demo
        self.vae = self._load(paths.vae, _build_vae, "Choose ConsisID's: vae/diffusion_pytorch_model.safetensors")
        self.parser = self._load(paths.parser, _build(BiSeNet), "Choose parsing_bisenet.pth of ConsisID-preview")
        with optional_library("The EVA-CLIP image tower"):
            from ..face.eva_clip import EvaClipVisual
        self.eva = self._load(paths.eva, _build(EvaClipVisual), "Choose EVA02_CLIP_L_336_psz14_s6B.pt")
        self.text_encoder = self._load(paths.text_encoder, _build_text_encoder, "Choose a T5 v1.1 encoder, not fp8")
        self.tokenizer = _load_tokenizer(paths.tokenizer)

    @property
    def is_demo(self) -> bool:
        """Whether one of the nets is a stand-in."""
        return self._is_demo

    def encode_video(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation of the VAE's posterior, unscaled.

        Args:
            frames: [F, 3, H, W] uint8.

        Returns:
            Two of [16, T, h, w] float16.
        """
        mean, std = self._posterior((frames.float() / 127.5 - 1).movedim(1, 0)[None])
        return mean[0], std[0]

    def encode_pictures(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `encode_video`, of single pictures.

        Args:
            pixels: [V, 3, H, W] in -1..1.

        Returns:
            Two of [V, 16, h, w] float16.
        """
        mean, std = self._posterior(pixels[:, :, None])
        return mean[:, :, 0], std[:, :, 0]

    def encode_text(self, text: str) -> tuple[torch.Tensor, int]:
        """T5's encoding, padding attended as in the reference.

        Returns:
            ([text_length, D] float16, number of tokens that were cut off).
        """
        wanted = len(self.tokenizer(text).input_ids)
        tokens = self.tokenizer(
            text, padding="max_length", max_length=self.text_length, truncation=True, return_tensors="pt"
        ).input_ids
        encoded = self.text_encoder(tokens.to(self.device)).last_hidden_state[0]
        return encoded.half().cpu(), max(0, wanted - self.text_length)

    def encode_face(self, gray: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the EVA tower makes of a face.

        Args:
            gray: [1, 3, 512, 512], 0..1.

        Returns:
            (embedding [D] float32, hidden states [5, N, D] float16).
        """
        from ..face.eva_clip import preprocess

        embedding, hidden = self.eva(preprocess(gray.to(self.device), self.eva.image_size))
        return embedding[0].float().cpu(), torch.cat(hidden).half().cpu()

    def crop_tensor(self, crop: np.ndarray) -> torch.Tensor:
        """[H, W, 3] uint8 -> [1, 3, H, W] float32 in 0..1 on the device."""
        return torch.from_numpy(crop).to(self.device).movedim(-1, 0)[None].float() / 255

    def _posterior(self, pixels):
        return [part.half().cpu() for part in self.vae.posterior(pixels.to(self.device, self.dtype))]

    def _load(self, path, build, remedy):
        checkpoint = read_checkpoint(path)
        with about(path, remedy):
            net = build(checkpoint)
        check_finite(checkpoint)
        self._is_demo |= checkpoint.is_demo
        dtype = torch.float32 if isinstance(net, BiSeNet) else self.dtype
        return net.to(self.device, dtype).requires_grad_(False).eval()


def _build(net_class):
    return lambda checkpoint: net_class.from_state_dict(checkpoint.tensors)


def _build_vae(checkpoint):
    weights = vae_weights(checkpoint)
    with torch.device("meta"):
        net = CogVideoXVAE(**weights.config)
    net.load_state_dict(weights.state_dict, assign=True)
    return net


def _build_text_encoder(checkpoint):
    from transformers import T5Config, T5EncoderModel

    weights = text_encoder_weights(checkpoint)
    if weights.quantization:
        raise ConsisIDError(f"{checkpoint.path} is quantised. For training choose the encoder in fp16, bf16 or fp32.")
    sizes = {
        name: weights.config[name] for name in ("num_layers", "d_model", "d_ff", "d_kv", "num_heads", "vocab_size")
    }
    with torch.device("meta"):
        net = T5EncoderModel(T5Config(**sizes, feed_forward_proj="gated-gelu", dropout_rate=0.0))
    names = net.state_dict().keys()
    state_dict = {name: tensor for name, tensor in weights.state_dict.items() if name in names}
    state_dict["encoder.embed_tokens.weight"] = state_dict["shared.weight"]
    net.load_state_dict({name: state_dict[name] for name in names}, assign=True)
    return net


def _load_tokenizer(folder):
    from transformers import T5TokenizerFast

    try:
        # Without a file transformers 5 makes an empty tokenizer.
        if not any((folder / name).is_file() for name in ("tokenizer.json", "spiece.model")):
            raise FileNotFoundError("no tokenizer.json, no spiece.model")
        return T5TokenizerFast.from_pretrained(str(folder), local_files_only=True)
    # Whatever a folder of other files makes it raise.
    except Exception as error:
        raise ConsisIDError(
            f"{folder} holds no T5 tokenizer ({in_short(error)}). Name with --tokenizer the folder `tokenizer` of "
            "ConsisID-preview, or comfy/text_encoders/t5_tokenizer of a ComfyUI."
        ) from None
