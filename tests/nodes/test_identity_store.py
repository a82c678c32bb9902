"""The nodes that keep identities and mix them."""

import os

import folder_paths
import pytest
import torch
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.face.identity_file import (
    find_identity,
    identity_name,
    read_identity,
    write_identity,
)
from consisid_pack.consisid_core.types import LocalID
from helpers.identities import assert_same, make_face
from skimage import data


@pytest.fixture
def identities(tmp_path, monkeypatch):
    """The identities folder of the nodes, not there yet."""
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "consisid", ([str(tmp_path / "consisid")], set()))
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    return tmp_path / "consisid" / "identities"


@pytest.fixture(scope="module")
def face():
    return make_face()


# Save and load


@pytest.mark.parametrize("photos", [1, 3])
def test_node_to_node(photos, run_node, identities):
    face = make_face(photos)
    (name,) = run_node("ConsisIDSaveIdentity", face=face, name="family/anna")
    assert name == "family/anna"
    loaded, face_image = run_node("ConsisIDLoadIdentity", identity=name)
    assert_same(face, loaded)
    assert torch.equal(face_image, face.image)


def test_nodes_and_functions_share_the_format(face, run_node, identities):
    assert_same(face, run_node("ConsisIDLoadIdentity", identity=identity_name(
        write_identity(face, identities, "ben"), identities))[0])  # fmt: skip
    (name,) = run_node("ConsisIDSaveIdentity", face=face, name="carla")
    assert_same(face, read_identity(find_identity([identities], name)))


def test_the_node_shows_the_saved_face_and_logs_its_name(node_classes, identities, tmp_path, caplog):
    node, face = node_classes["ConsisIDSaveIdentity"], make_face(2)
    assert node.define_schema().is_output_node
    with caplog.at_level("INFO", "consisid"):
        outputs = [node.execute(face, "anna") for _ in range(2)]
    assert [output.args for output in outputs] == [("anna",), ("anna_2",)]
    assert "Identity saved as anna_2 in" in caplog.text
    images = outputs[0].ui.as_dict()["images"]
    assert len(images) == 2
    for image in images:
        assert image["type"] == "temp" and (tmp_path / "temp" / image["subfolder"] / image["filename"]).is_file()


def test_the_combo_is_fresh_and_the_fingerprint_follows_the_file(face, node_classes, identities):
    node = node_classes["ConsisIDLoadIdentity"]

    def options():
        return node.define_schema().inputs[0].options

    assert options() == []
    path = write_identity(face, identities, "anna")
    assert options() == ["anna"]
    write_identity(face, identities, "anna")
    assert options() == ["anna", "anna_2"]
    # What the server asks for when R is pressed.
    assert node.INPUT_TYPES()["required"]["identity"][1]["options"] == ["anna", "anna_2"]
    before = node.fingerprint_inputs(identity="anna")
    assert node.fingerprint_inputs(identity="anna") == before
    os.utime(path, ns=(1, 1))
    assert node.fingerprint_inputs(identity="anna") != before
    touched = node.fingerprint_inputs(identity="anna")
    path.write_bytes(b"smaller")
    os.utime(path, ns=(1, 1))
    assert node.fingerprint_inputs(identity="anna") != touched
    path.unlink()
    for method in (node.fingerprint_inputs, node.execute):
        with pytest.raises(ConsisIDError, match="There is no identity 'anna' in .*identities. Press R"):
            method(identity="anna")


# Blend


def test_blend_is_the_formula_and_its_ends_are_exact(run_node):
    one, other = (torch.randn(1, 32, 2048, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    for ratio in (0.0, 0.25, 0.5, 0.9, 1.0):
        (local_id,) = run_node("ConsisIDBlendLocalID", local_id_1=LocalID(one), local_id_2=LocalID(other), ratio=ratio)
        assert torch.equal(local_id.tokens, one * (1 - ratio) + other * ratio)
        if ratio in (0, 1):
            assert torch.equal(local_id.tokens, other if ratio else one)


# With the other nodes


@pytest.fixture(scope="module")
def chain(run_node):
    """Face models, model, VAE and the analysed astronaut, from the tiny weights."""
    (face_models,) = run_node(
        "ConsisIDFaceModelsLoader", insightface_pack="consisid_demo",
        face_parsing="consisid_demo/parsing_bisenet.pth", eva_clip="consisid_demo/EVA02_CLIP_L_336_psz14_s6B.pt",
    )  # fmt: skip
    (model,) = run_node("ConsisIDModelLoader", model_name="consisid_demo/transformer")
    (vae,) = run_node("ConsisIDVAELoader", vae_name="consisid_demo/diffusion_pytorch_model.safetensors")
    photo = torch.from_numpy(data.astronaut()).float().div(255)[None]
    photos = torch.cat((photo, photo.flip(2)))
    faces = [run_node("ConsisIDFaceAnalyzer", face_models=face_models, image=x)[0] for x in (photo, photos)]
    return face_models, model, vae, faces


def test_extractors_make_the_same_of_a_loaded_face(chain, run_node, identities):
    face_models, model, vae, faces = chain
    local_ids = []
    for face in faces:
        (name,) = run_node("ConsisIDSaveIdentity", face=face, name="astronaut")
        loaded = run_node("ConsisIDLoadIdentity", identity=name)[0]
        assert_same(face, loaded)
        ids = [
            (
                run_node("ConsisIDLocalIDExtractor", model=model, face_models=face_models, face=x)[0],
                run_node("ConsisIDGlobalIDExtractor", face=x, vae=vae, width=96, height=64, length=9)[0],
            )
            for x in (face, loaded)
        ]
        assert torch.equal(ids[0][0].tokens, ids[1][0].tokens)
        assert torch.equal(ids[0][1].latents, ids[1][1].latents)
        local_ids.append(ids[1][0])
    (blend,) = run_node("ConsisIDBlendLocalID", local_id_1=local_ids[0], local_id_2=local_ids[1])
    assert blend.tokens.shape == local_ids[0].tokens.shape
