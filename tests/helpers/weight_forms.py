"""The forms in which people have a transformer's weights, written from one state dict."""

import json

import comfy.quant_ops
import gguf
import torch
from consisid_pack.consisid_core.checkpoint.quantization import VALUES_PER_BYTE, json_tensor
from safetensors.torch import save_file

LINEAR = "attn1.to_q.weight", "attn1.to_out.0.weight", "ff.net.2.weight", "proj_out.weight", "to_kv.weight"


def write_pickle_shards(folder, state_dict, config):
    names = sorted(state_dict)
    files = {"diffusion_pytorch_model-00001-of-00002.bin": names[::2]}
    files["diffusion_pytorch_model-00002-of-00002.bin"] = names[1::2]
    for file, part in files.items():
        torch.save({name: state_dict[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in files.items() for name in part}
    (folder / "diffusion_pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(config))


def write_gguf(path, state_dict, packed={}):
    """A GGUF file of float32 tensors, those in `packed` (name -> type) quantised, as converters write it."""
    writer = gguf.GGUFWriter(path, "consisid")
    for name, tensor in state_dict.items():
        values = tensor.float().numpy()
        if name in packed:
            writer.add_tensor(name, gguf.quants.quantize(values, packed[name]), raw_dtype=packed[name])
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_form(form, path, state_dict, config):
    metadata = {"format": "pt", "config": json.dumps(config)}
    stale = {**config, "LFE_heads": 12, "LFE_num_tokens": 32, "LFE_output_dim": 768, "unknown_key": [1]}
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == "safetensors with its config inside":
        save_file(state_dict, path, metadata)
    elif form == "safetensors beside config.json with stale keys":
        save_file(state_dict, path)
        path.with_name("config.json").write_text(json.dumps(stale))
    elif form == "prefixed":
        others = {"first_stage_model.decoder.conv_in.weight": torch.ones(2), "v_pred": torch.tensor([])}
        prefixed = {f"model.diffusion_model.{name}": tensor for name, tensor in state_dict.items()}
        save_file({**prefixed, **others}, path, metadata)
    elif form == "averaged and last weights of a training":
        last = {f"transformer.{name}": tensor + 1 for name, tensor in state_dict.items()}
        averaged = {f"transformer_ema.{name}": tensor for name, tensor in state_dict.items()}
        save_file({**last, **averaged}, path, metadata)
    elif form == "pickle":
        torch.save(state_dict, path)
        path.with_name("config.json").write_text(json.dumps(config))
    elif form == "pickle with a training's counters":
        torch.save({"state_dict": {f"module.{n}": t for n, t in state_dict.items()}, "step": 3}, path)
        path.with_name("config.json").write_text(json.dumps(config))
    elif form == "pickle shards":
        path.mkdir()
        write_pickle_shards(path, state_dict, config)


FORMS = {
    "safetensors with its config inside": "one.safetensors",
    "safetensors beside config.json with stale keys": "diffusion_pytorch_model.safetensors",
    "prefixed": "checkpoint.safetensors",
    "averaged and last weights of a training": "training.safetensors",
    "pickle": "diffusion_pytorch_model.bin",
    "pickle with a training's counters": "diffusion_pytorch_model.pth",
    "pickle shards": "shards",
}


def scaled(release, dtype, naming):
    """The demo weights with some layers in scaled fp8, under ComfyUI's old or new names, and what they stand for."""
    stored, meant, metadata = {}, {}, {"format": "pt", "config": json.dumps(release[1])}
    layers = {}
    for name, tensor in release[0].items():
        if not name.endswith(LINEAR):
            stored[name] = meant[name] = tensor
            continue
        scale = tensor.abs().amax().float() / torch.finfo(dtype).max
        stored[name] = (tensor / scale).to(dtype)
        meant[name] = stored[name].float() * scale
        layer = name.removesuffix(".weight")
        layers[layer] = {"format": str(dtype).removeprefix("torch.")}
        stored[f"{layer}.scale_weight" if naming == "scale_weight" else f"{layer}.weight_scale"] = scale
    if naming == "scale_weight":
        stored["scaled_fp8"] = torch.empty(0, dtype=dtype)
    elif naming == "comfy_quant":
        stored |= {f"{layer}.comfy_quant": json_tensor(settings) for layer, settings in layers.items()}
    elif naming == "metadata":
        metadata["_quantization_metadata"] = json.dumps({"format_version": "1.0", "layers": layers})
    return stored, meant, metadata


def quantised(state_dict, form, settings, ending):
    """The weights whose names end so in one of ComfyUI's quantisation formats, and what they stand for.

    A ComfyUI that does not know the format cannot pack them either: then they are zeros of the packed size.
    """
    stored, meant = {}, {}
    for name, tensor in state_dict.items():
        if not name.endswith(ending):
            stored[name] = meant[name] = tensor
            continue
        if form in comfy.quant_ops.QUANT_ALGOS:
            layout = comfy.quant_ops.QUANT_ALGOS[form]["comfy_tensor_layout"]
            packed = comfy.quant_ops.QuantizedTensor.from_float(tensor.bfloat16(), layout, **settings)
            stored |= {key: value.contiguous() for key, value in packed.state_dict(name).items()}
            meant[name] = packed.dequantize().float()
        else:
            columns = tensor.shape[1] // VALUES_PER_BYTE.get(form, 1)
            stored[name] = meant[name] = torch.zeros(len(tensor), columns, dtype=torch.uint8)
        stored[f"{name.removesuffix('.weight')}.comfy_quant"] = json_tensor({"format": form, **settings})
    return stored, meant
