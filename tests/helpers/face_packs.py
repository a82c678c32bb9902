"""Insightface packs made of the stand-in pack's files, whole or changed."""

from consisid_pack.consisid_core.dev.demo_face_pack import DETECTOR_FILE, RECOGNISER_FILE

CPU = ["CPUExecutionProvider"]


def link(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source)


def save_variant(pack, folder, name, change):
    """A pack whose file `name` was changed by `change(onnx model)`."""
    import onnx

    folder.mkdir()
    for file in (DETECTOR_FILE, RECOGNISER_FILE):
        if file != name:
            link(pack / file, folder / file)
    model = onnx.load(pack / name)
    change(model)
    onnx.save(model, folder / name)
    return folder


def keep_128(model):
    """Takes SFace's own 128 numbers as the output."""
    model.graph.node.pop()
    model.graph.output[0].name = "fc1"
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 128
