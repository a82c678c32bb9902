"""T5 v1.1 as ConsisID was trained with it: exactly 226 tokens, or as many as the encoder's config says. A real
`comfy.sd.CLIP` on every version."""

from __future__ import annotations

import logging
import string
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import comfy.text_encoders.sd3_clip
import comfy.text_encoders.t5
import comfy.utils
import folder_paths

from ..checkpoint.fit import about
from ..checkpoint.nets import known_tokens, text_encoder_weights
from . import compat
from .notices import notices
from .weight_files import read_weights, refuse_broken_result

_WORD_START = "\u2581"
"""With which a token begins that begins a word."""

REMEDY = (
    "Choose a T5 v1.1 XXL encoder: the folder `text_encoder` of BestWishYsh/ConsisID-preview, or t5xxl_fp16.safetensors"
)


class T5Tokenizer(comfy.text_encoders.sd3_clip.T5XXLTokenizer):
    """Pads with token 0 to `max_text_seq_length` of tokenizer_data and cuts what is longer, keeping the end token, as
    the reference's tokenizer does."""

    def __init__(self, embedding_directory=None, tokenizer_data={}):
        self.max_tokens = tokenizer_data["max_text_seq_length"]
        self.known_tokens = tokenizer_data["known_tokens"]
        super().__init__(embedding_directory, tokenizer_data, min_length=self.max_tokens)

    def tokenize_with_weights(self, text, return_word_ids=False, **kwargs):
        notices.begin()
        if self.known_tokens:
            text = text.lower()  # It learned no capital letters.
        (tokens,) = super().tokenize_with_weights(text, return_word_ids, **kwargs)
        if len(tokens) > self.max_tokens:
            kept, cut = tokens[: self.max_tokens - 1], tokens[self.max_tokens - 1 : -1]
            lost = self.tokenizer.decode([token[0] for token in cut if isinstance(token[0], int)])
            logging.getLogger("consisid").warning(
                "Prompt cut from %d to %d tokens, the most that ConsisID takes. Lost: %r",
                len(tokens), self.max_tokens, lost,
            )  # fmt: skip
            tokens = [*kept, tokens[-1]]
        if unknown := self._unknown_words(tokens):
            logging.getLogger("consisid").warning(
                "This small text encoder never learned these words, which mean nothing to it: %s", ", ".join(unknown)
            )
        return [tokens]

    def _unknown_words(self, tokens):
        """Words with a piece that the encoder never learned; of one that learned all tokens none."""
        words = []
        for token, *_ in tokens if self.known_tokens else ():
            piece = self.inv_vocab[token] if isinstance(token, int) else ""
            if piece.startswith((_WORD_START, "</s>")) or not words:
                words.append(["", True])
            words[-1][0] += piece.strip(_WORD_START)
            words[-1][1] &= token in self.known_tokens or not any(map(str.isalnum, piece))
        return list(dict.fromkeys(word.strip(string.punctuation) for word, is_known in words if not is_known))


class Tokenizer(comfy.sd1_clip.SD1Tokenizer):
    def __init__(self, embedding_directory=None, tokenizer_data={}):
        super().__init__(embedding_directory, tokenizer_data, clip_name="t5xxl", tokenizer=T5Tokenizer)


class TextEncoder(comfy.sd1_clip.SD1ClipModel):
    """T5 without attention mask: padding tokens are attended, as in the reference."""

    weights_path = None
    """The file, to be looked at should the result not be finite."""

    def __init__(self, device="cpu", dtype=None, model_options={}):
        super().__init__(
            device=device,
            dtype=dtype,
            name="t5xxl",
            clip_model=comfy.text_encoders.sd3_clip.T5XXLModel,
            model_options=model_options,
        )

    def encode_token_weights(self, token_weight_pairs):
        encoded = super().encode_token_weights(token_weight_pairs)
        if not encoded[0].isfinite().all():
            refuse_broken_result("The encoded prompt", self.weights_path, "Start ComfyUI with --fp32-text-enc.")
        return encoded


def load_text_encoder(path: Path | str, disable_dynamic: bool = False) -> comfy.sd.CLIP:
    """`comfy.sd.CLIP` of a T5 encoder, its weights mapped from the file where they need no cast.

    Args:
        path: a weight file or a folder of shards.
        disable_dynamic: whether its patcher is to be a plain ModelPatcher.

    Raises:
        ConsisIDError: naming the file, if it is another text encoder, incomplete, or quantised in a way that this
            ComfyUI does not know.
    """
    checkpoint = read_weights(path)
    with about(path, REMEDY):
        weights = text_encoder_weights(checkpoint)
        quantization_options, quantization_tensors = compat.quantized_text_encoder(weights.quantization)
    state_dict = weights.state_dict
    device = comfy.model_management.text_encoder_device()
    norm = state_dict["encoder.final_layer_norm.weight"]  # Is in the plain type where layers are quantised.
    stored_dtype = norm.dtype if weights.quantization else comfy.utils.weight_dtype(state_dict)
    dtype = comfy.model_management.pick_weight_dtype(
        stored_dtype, comfy.model_management.text_encoder_dtype(device), device
    )
    clip = compat.load_clip(
        {**state_dict, **quantization_tensors},
        comfy.supported_models_base.ClipTarget(Tokenizer, TextEncoder),
        disable_dynamic,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        parameters=comfy.utils.calculate_parameters(state_dict),
        tokenizer_data={
            "max_text_seq_length": weights.config["max_text_seq_length"],
            "known_tokens": known_tokens(checkpoint),
        },
        model_options={"dtype": dtype, "t5xxl_model_config": weights.config, **quantization_options},
    )
    clip.cond_stage_model.weights_path = path
    clip.patcher.cached_patcher_init = load_text_encoder_patcher, (path,)
    return clip


def load_text_encoder_patcher(path: Path | str, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """Load a text encoder once more, for ComfyUI's copies of a patcher.

    Args:
        path, disable_dynamic: as of `load_text_encoder`.
    """
    return load_text_encoder(path, disable_dynamic).patcher
