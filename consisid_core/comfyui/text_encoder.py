"""T5 v1.1 as ConsisID was trained with it: exactly 226 tokens. A real `comfy.sd.CLIP` on every version."""

import logging

import comfy.model_management
import comfy.sd1_clip
import comfy.supported_models_base
import comfy.text_encoders.sd3_clip
import comfy.text_encoders.t5
import comfy.utils
import folder_paths
import torch

from ..checkpoint import check_names, describe_weights
from ..errors import ConsisIDError
from . import compat
from .files import about, read_state_dict
from .notices import notices
from .quantization import take_quantization

MAX_TOKENS = 226
VOCAB_SIZE = 32128
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


def infer_t5_config(shapes):
    """ComfyUI's T5 config from parameter shapes (name -> shape). Raises ConsisIDError if they are not T5 v1.1's."""
    block = "encoder.block.0.layer"
    required = ("shared.weight", f"{block}.1.DenseReluDense.wi_0.weight")
    if missing := [name for name in required if name not in shapes]:
        likeness = describe_weights(shapes)
        raise ConsisIDError(f"is not a T5 v1.1 text encoder: it looks like {likeness} (no {missing[0]})")
    vocab_size, width = shapes["shared.weight"]
    if vocab_size != VOCAB_SIZE:
        raise ConsisIDError(
            f"is not a T5 v1.1 text encoder: its vocabulary has {vocab_size} entries instead of {VOCAB_SIZE}, as in "
            "UMT5 and mT5"
        )
    heads = shapes[f"{block}.0.SelfAttention.relative_attention_bias.weight"][1]
    return {
        "model_type": "t5",
        "is_gated_act": True,
        "dense_act_fn": "gelu_pytorch_tanh",
        "num_layers": 1 + max(int(name.split(".")[2]) for name in shapes if name.startswith("encoder.block.")),
        "d_model": width,
        "d_ff": shapes[f"{block}.1.DenseReluDense.wi_0.weight"][0],
        "d_kv": shapes[f"{block}.0.SelfAttention.q.weight"][0] // heads,
        "num_heads": heads,
        "vocab_size": vocab_size,
    }


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
        net = comfy.text_encoders.t5.T5(t5_config, dtype=None, device="meta", operations=torch.nn)
        expected = {name: tensor.shape for name, tensor in net.state_dict().items()}
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
