"""Sizes of the CogVideoX VAE from the shapes of its parameters, as `checkpoint` infers those of the transformer."""

from .checkpoint import describe_weights
from .errors import ConsisIDError


def infer_vae_config(shapes):
    """Constructor arguments of `model.vae.CogVideoXVAE`, also diffusers' names, from parameter shapes (name -> shape).

    Raises ConsisIDError saying what the weights are instead, if they are not a CogVideoX VAE.
    """
    required = ("encoder.conv_out.conv.weight", "decoder.mid_block.resnets.0.norm1.conv_y.conv.weight")
    if missing := [name for name in required if name not in shapes]:
        raise ConsisIDError(f"is not a CogVideoX VAE: it looks like {describe_weights(shapes)} (no {missing[0]})")
    blocks = 1 + max(int(name.split(".")[2]) for name in shapes if name.startswith("encoder.down_blocks."))
    resnets = {name.split(".")[4] for name in shapes if name.startswith("encoder.down_blocks.0.resnets.")}
    channels = [shapes[f"encoder.down_blocks.{i}.resnets.0.conv1.conv.weight"][0] for i in range(blocks)]
    return {
        "block_out_channels": tuple(channels),
        "latent_channels": shapes["decoder.conv_in.conv.weight"][1],
        "layers_per_block": len(resnets),
    }
