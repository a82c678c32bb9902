import numpy as np
import onnx
import onnxruntime
from consisid_pack.consisid_core.dev.demo_face_pack import write_demo_face_pack
from consisid_pack.consisid_core.training.small.onnx_weights import unpack_weights
from helpers.face_packs import CPU, RECOGNISER_FILE


def test_unpacked_weights_compute_the_same(tmp_path):
    write_demo_face_pack(tmp_path, "with its weights in int8")
    packed = onnx.load(tmp_path / RECOGNISER_FILE)
    unpacked = onnx.load(tmp_path / RECOGNISER_FILE)
    unpack_weights(unpacked.graph)
    kinds = [{node.op_type for node in model.graph.node} for model in (packed, unpacked)]
    assert "DequantizeLinear" in kinds[0] and "DequantizeLinear" not in kinds[1]
    crop = np.random.default_rng(0).uniform(0, 255, (1, 3, 112, 112)).astype(np.float32)
    sessions = (onnxruntime.InferenceSession(model.SerializeToString(), providers=CPU) for model in (packed, unpacked))
    one, other = (session.run(None, {"data": crop})[0] for session in sessions)
    assert np.allclose(one, other, atol=1e-4 * np.abs(one).max())
