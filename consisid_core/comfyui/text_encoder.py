"""T5 v1.1 as ConsisID was trained with it: exactly 226 tokens. A real `comfy.sd.CLIP` on every version."""

import logging

import comfy.model_management
import comfy.sd1_clip
import comfy.supported_models_base
import comfy.text_encoders.sd3_clip
import comfy.text_encoders.t5
import comfy.utils
import folder_paths

from ..checkpoint.fit import about, check_names
from ..checkpoint.net_config import infer_t5_config, t5_shapes
from . import compat
from .files import read_state_dict
from .notices import notices
from .quantization import take_quantization

MAX_TOKENS = 226
REMEDY = (
    "Choose a T5 v1.1 XXL encoder: the folder `text_encoder` of BestWishYsh/ConsisID-preview, or t5xxl_fp16.safetensors"
)


class T5Tokenizer(comfy.text_encoders.sd3_clip.T5XXLTokenizer):
    """Pads with token 0 to 226 and cuts what is longer, keeping the end token, as the reference's tokenizer does."""

    def __init__(self, embedding_directory=None, tokenizer_data={}):
        super().__init__(embedding_directory, tokenizer_data, min_length=MAX_TOKENS)

    def tokenize_with_weights(self, text, return_word_ids=False, **kwargs):
        notices.begin()
        (tokens,) = super().tokenize_with_weights(text, return_word_ids, **kwargs)
        if len(tokens) > MAX_TOKENS:
            kept, cut = tokens[: MAX_TOKENS - 1], tokens[MAX_TOKENS - 1 : -1]
            lost = self.tokenizer.decode([token[0] for token in cut if isinstance(token[0], int)])
            logging.getLogger("consisid").warning(
                "Prompt cut from %d to %d tokens, the most that ConsisID takes. Lost: %r",
                len(tokens), MAX_TOKENS, lost,
            )  # fmt: skip
            tokens = [*kept, tokens[-1]]
        return [tokens]


class Tokenizer(comfy.sd1_clip.SD1Tokenizer):
    def __init__(self, embedding_directory=None, tokenizer_data={}):
        super().__init__(embedding_directory, tokenizer_data, clip_name="t5xxl", tokenizer=T5Tokenizer)


class TextEncoder(comfy.sd1_clip.SD1ClipModel):
    """T5 without attention mask: padding tokens are attended, as in the reference."""

    def __init__(self, device="cpu", dtype=None, model_options={}):
        super().__init__(
            device=device,
            dtype=dtype,
            name="t5xxl",
            clip_model=comfy.text_encoders.sd3_clip.T5XXLModel,
            model_options=model_options,
        )


def load_text_encoder(path):
    """`comfy.sd.CLIP` of a T5 encoder file or folder of shards.

    Raises ConsisIDError naming the file if it is another text encoder, incomplete, or quantised in a way that this
    ComfyUI does not know.
    """
    state_dict, _ = read_state_dict(path)
    if "encoder.embed_tokens.weight" in state_dict:
        state_dict.setdefault("shared.weight", state_dict.pop("encoder.embed_tokens.weight"))
    with about(path, REMEDY):
        quantization = take_quantization(state_dict)
        quantization_options, quantization_tensors = compat.quantized_text_encoder(quantization)
        shapes = {name: tensor.shape for name, tensor in state_dict.items()}
        t5_config = infer_t5_config(shapes)
        expected = t5_shapes(t5_config)
        # Whole T5 models carry a decoder, and some files a tokenizer; both stay unused.
        check_names({name: shape for name, shape in shapes.items() if name in expected}, expected)
    device = comfy.model_management.text_encoder_device()
    stored_dtype = (
        state_dict["encoder.final_layer_norm.weight"].dtype if quantization else comfy.utils.weight_dtype(state_dict)
    )
    dtype = comfy.model_management.pick_weight_dtype(
        stored_dtype, comfy.model_management.text_encoder_dtype(device), device
    )
    return compat.load_clip(
        {**state_dict, **quantization_tensors},
        comfy.supported_models_base.ClipTarget(Tokenizer, TextEncoder),
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        parameters=comfy.utils.calculate_parameters(state_dict),
        model_options={"dtype": dtype, "t5xxl_model_config": t5_config, **quantization_options},
    )
