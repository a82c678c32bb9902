"""Identities as files: what is saved comes back bit by bit, nothing is overwritten, and no file or name does harm."""

import dataclasses
import json
import os
import random
import re
import struct
from datetime import datetime, timedelta, timezone
from pathlib import Path

import folder_paths
import pytest
import torch
from consisid_pack.consisid_core.comfyui.conditioning import blend_local_ids
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.face import identity_file
from consisid_pack.consisid_core.face.identity_file import (
    MAX_PHOTOS,
    find_identity,
    identity_name,
    list_identities,
    read_identity,
    write_identity,
)
from consisid_pack.consisid_core.types import Face, LocalID
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from skimage import data

FIELDS = [field.name for field in dataclasses.fields(Face)]
METADATA = {"format": "consisid-identity", "version": "1", "created": "2026-01-01T00:00:00+00:00", "photos": "1"}


def make_face(photos=1, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape):
        return torch.rand(photos, *shape, generator=generator)

    gray = numbers(512, 512, 1).expand(-1, -1, -1, 3)
    return Face(
        embedding=numbers(512) * 40 - 20, landmarks=numbers(5, 2) * 900, bbox=numbers(4) * 900, score=numbers(),
        image=numbers(512, 512, 3), gray_image=gray, alignment=numbers(2, 3) - 0.5,
    )  # fmt: skip


def assert_same(one, other):
    for field in FIELDS:
        first, second = getattr(one, field), getattr(other, field)
        assert first.dtype == second.dtype and first.shape == second.shape, field
        assert torch.equal(first.contiguous().view(torch.int32), second.contiguous().view(torch.int32)), field


def tree(folder):
    """{relative path: (kind, content or target)} of everything below a folder."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.is_file() and path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def identities(tmp_path, monkeypatch):
    """The identities folder of the nodes, not there yet."""
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "consisid", ([str(tmp_path / "consisid")], set()))
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    return tmp_path / "consisid" / "identities"


@pytest.fixture(scope="module")
def face():
    return make_face()


@pytest.fixture(scope="module")
def file_bytes(face, tmp_path_factory):
    return write_identity(face, tmp_path_factory.mktemp("identities"), "anna").read_bytes()


# Round trip


def test_every_field_of_a_face_is_kept():
    assert list(identity_file._SHAPES) == FIELDS


@pytest.mark.parametrize("photos", [1, 3])
def test_round_trip_is_exact(photos, tmp_path):
    face = make_face(photos)
    path = write_identity(face, tmp_path, "family/anna")
    assert path == tmp_path.resolve() / "family" / "anna.safetensors"
    loaded = read_identity(path)
    assert_same(face, loaded)
    # The Face is in memory of its own: the file may go.
    path.write_bytes(b"")
    assert_same(face, loaded)
    assert os.listdir(path.parent) == ["anna.safetensors"]


def test_one_tensor_in_two_fields_is_saved(face, tmp_path):
    shared = dataclasses.replace(face, gray_image=face.image)
    assert_same(shared, read_identity(write_identity(shared, tmp_path, "shared")))


def test_metadata(tmp_path):
    with safe_open(str(write_identity(make_face(3), tmp_path, "anna")), "pt") as file:
        metadata = file.metadata()
    created = datetime.fromisoformat(metadata.pop("created"))
    assert created.utcoffset() == timedelta(0) and abs(datetime.now(timezone.utc) - created) < timedelta(minutes=5)
    assert metadata == {"format": "consisid-identity", "version": "1", "photos": "3"}


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


# Numbers in place of overwriting


def test_nothing_is_overwritten(face, tmp_path):
    (tmp_path / "anna_2.safetensors").write_bytes(b"somebody else's file")
    (tmp_path / "anna_4.safetensors").mkdir()
    before = tree(tmp_path)
    names = [identity_name(write_identity(face, tmp_path, "anna"), tmp_path) for _ in range(3)]
    assert names == ["anna", "anna_3", "anna_5"]
    after = tree(tmp_path)
    assert {name: after[name] for name in before} == before and len(after) == len(before) + 3


def test_a_dangling_link_is_not_written_through(face, tmp_path):
    folder = tmp_path / "identities"
    folder.mkdir()
    (folder / "anna.safetensors").symlink_to(tmp_path / "outside.safetensors")
    assert write_identity(face, folder, "anna").name == "anna_2.safetensors"
    assert not (tmp_path / "outside.safetensors").exists()


@pytest.mark.parametrize("fails", ["save_file", "replace"])
def test_a_failed_write_leaves_nothing(face, tmp_path, monkeypatch, fails):
    def fail(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr(identity_file if fails == "save_file" else os, fails, fail)
    with pytest.raises(ConsisIDError, match="cannot be written below .*No space left"):
        write_identity(face, tmp_path, "anna")
    assert not tree(tmp_path)


def test_a_file_in_place_of_a_folder(face, tmp_path):
    (tmp_path / "family").write_text("a file")
    before = tree(tmp_path)
    with pytest.raises(ConsisIDError, match="cannot be written below"):
        write_identity(face, tmp_path, "family/anna")
    assert tree(tmp_path) == before


# Names

DEVICES = ["CON", "PRN", "AUX", "NUL", "COM0", "COM1", "COM9", "COM²", "LPT1", "LPT9", "LPT³", "CONIN$", "CONOUT$"]
REFUSED = [
    "", " ", ".", "..", "...", "../anna", "../../anna", "family/../anna", "family/../../anna", "family/..", "./anna",
    "/anna", "//anna", "//server/share/anna", "/etc/passwd", "/", "anna/", "family//anna", "C:/anna", "C:anna",
    "c:\\anna", "C:", "..\\anna", "family\\anna", "\\\\server\\share", "\\\\?\\C:\\anna", "anna\0", "an\0na", "\0",
    "anna\n", "\nanna", "anna\t", "an\rna", "\x1b[31manna", "\x7f", "an\x85na", "an\u200bna", "an\u202ena", "\u2028",
    "anna\ud800", "anna.", "anna ", "anna. ", "family./anna", "family /anna", " anna", ".anna", "family/.anna",
    ".git/anna", "\u00a0anna", "x" * 101, "/".join("x" * 51), "x/" * 50 + "y", "\U0001f600" * 51, "😀" * 60 + "/anna",
    *(f"an{sign}na" for sign in '<>:"|?*\\'), *'<>:"|?*\\', "anna:stream", "~/../anna",
    *DEVICES, *map(str.lower, DEVICES), *(f"{device}.txt" for device in DEVICES), "CON .txt", "nul.tar.gz",
    *(f"family/{device}" for device in DEVICES), *(f"{device}/anna" for device in DEVICES),
]  # fmt: skip


@pytest.fixture(scope="module")
def fence(tmp_path_factory):
    """A folder with an identities folder inside, to see what is written around it."""
    folder = tmp_path_factory.mktemp("fence")
    (folder / "models" / "identities").mkdir(parents=True)
    return folder


@pytest.mark.parametrize("name", REFUSED, ids=ascii)
def test_refused_names(name, face, fence):
    before = tree(fence)
    with pytest.raises(ConsisIDError, match=r"(?s)The identity's name .*Allowed are .*Windows device name"):
        write_identity(face, fence / "models" / "identities", name)
    assert tree(fence) == before


ACCEPTED = [
    "anna", "Anna-Maria (2)", "family/anna", "a/b/c/d", "Ärzte", "花子", "анна", "anna.2026", "v1.2", "CONRAD",
    "nullable", "com", "com10", "~", "$HOME", "%TEMP%", "anna's", "#1", "x" * 100, "a" * 49 + "/" + "b" * 50, "-rf",
    "a..b",
]  # fmt: skip


@pytest.mark.parametrize("name", ACCEPTED, ids=ascii)
def test_accepted_names(name, face, tmp_path, monkeypatch):
    # The content is tested elsewhere.
    monkeypatch.setattr(identity_file, "save_file", lambda tensors, path, metadata: Path(path).write_bytes(b"face"))
    folder = tmp_path / "models" / "identities"
    assert identity_name(write_identity(face, folder, name), folder) == name
    assert identity_name(write_identity(face, folder, name), folder) == f"{name}_2"
    assert set(list_identities([folder])) == {name, f"{name}_2"}
    assert {path for path in tree(tmp_path) if tree(tmp_path)[path]} == {
        f"models/identities/{name}.safetensors", f"models/identities/{name}_2.safetensors"
    }  # fmt: skip


def test_random_names_never_leave_the_folder(face, tmp_path, monkeypatch):
    monkeypatch.setattr(identity_file, "save_file", lambda tensors, path, metadata: Path(path).write_bytes(b"face"))
    folder = tmp_path / "models" / "identities"
    (tmp_path / "keep").write_text("keep")
    rng = random.Random(0)
    alphabet = ["a", "B", ".", "..", "/", "\\", " ", ":", "\0", "\n", "~", "CON", "nul", "é", "\u202e", "*", "-", "c:"]
    written = 0
    for _ in range(1000):
        name = "".join(rng.choices(alphabet, k=rng.randint(0, 6)))
        try:
            path = write_identity(face, folder, name)
        except ConsisIDError:
            continue
        written += 1
        assert path.is_relative_to(folder.resolve()) and path.is_file()
    assert written > 50 and len(list_identities([folder])) == written
    assert {path.name for path in tmp_path.iterdir()} == {"models", "keep"}
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["identities"]


# Links


def test_a_link_out_of_the_folder_is_refused(face, file_bytes, tmp_path):
    folder, outside = tmp_path / "identities", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "secret.safetensors").write_bytes(file_bytes)
    (folder / "link").symlink_to(outside)
    (folder / "secret.safetensors").symlink_to(outside / "secret.safetensors")
    (folder / "circle").symlink_to(folder / "circle")
    (folder / "circle.safetensors").symlink_to(folder / "circle.safetensors")
    before = tree(tmp_path)
    for name in ("link/anna", "link/deep/anna"):
        with pytest.raises(ConsisIDError, match="leads through a link out of"):
            write_identity(face, folder, name)
    with pytest.raises(ConsisIDError, match="cannot be written below"):
        write_identity(face, folder, "circle/anna")
    assert tree(tmp_path) == before
    assert list_identities([folder]) == {}
    for name in ("secret", "link/secret", "circle", "../outside/secret", str(outside / "secret")):
        with pytest.raises(ConsisIDError, match="There is no identity"):
            find_identity([folder], name)


def test_links_inside_and_a_linked_identities_folder_work(face, tmp_path):
    (tmp_path / "disk").mkdir()
    folder = tmp_path / "identities"
    folder.symlink_to(tmp_path / "disk")
    path = write_identity(face, folder, "family/anna")
    (folder / "same").symlink_to(folder / "family")
    assert identity_name(write_identity(face, folder, "same/anna"), folder) == "family/anna_2"
    (folder / "ben.safetensors").symlink_to(path)
    assert list(list_identities([folder])) == ["ben", "family/anna", "family/anna_2"]
    assert_same(face, read_identity(find_identity([folder], "ben")))


# The list


def test_list(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for path in ("first/b.safetensors", "first/deep/a.SAFETENSORS", "second/b.safetensors", "second/c.safetensors",
                 "first/.hidden.safetensors", "first/.cache/x.safetensors", "first/note.txt"):  # fmt: skip
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    found = list_identities([first, second, tmp_path / "missing"])
    assert list(found) == ["b", "c", "deep/a"]
    assert found["b"] == first / "b.safetensors"


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


# Faces and files that are not as documented


@pytest.mark.parametrize("field", FIELDS)
def test_invalid_faces_are_not_saved(field, face, tmp_path):
    good = getattr(face, field)
    wrong = [good.double(), good.half(), good[:0], torch.cat((good, good)), good[0], good.unsqueeze(-1)]
    for value in (float("nan"), float("inf"), -float("inf")):
        wrong.append(good.clone())
        wrong[-1].view(-1)[-1] = value
    if field in ("score", "image", "gray_image"):
        wrong += [good + 1.1, good - 1.1]
    for tensor in wrong:
        with pytest.raises(ConsisIDError, match=rf"FACE .*{field}|FACE holds 0 photos|FACE is not a valid"):
            write_identity(dataclasses.replace(face, **{field: tensor}), tmp_path, "anna")
    assert not tree(tmp_path)


def test_rounding_is_tolerated(face, tmp_path):
    rounded = dataclasses.replace(face, image=face.image + 1e-6)
    assert_same(rounded, read_identity(write_identity(rounded, tmp_path, "anna")))


def test_too_many_photos(face, tmp_path):
    many = Face(*(getattr(face, field).expand(MAX_PHOTOS + 1, *getattr(face, field).shape[1:]) for field in FIELDS))
    with pytest.raises(ConsisIDError, match="FACE holds 601 photos; 1 to 600 can be kept"):
        write_identity(many, tmp_path, "many")
    assert MAX_PHOTOS * sum(getattr(face, field).numel() * 4 for field in FIELDS) < identity_file.MAX_BYTES


def refuse(path, reason):
    with pytest.raises(ConsisIDError, match=reason) as caught:
        read_identity(path)
    assert str(path) in str(caught.value) and re.search("Choose another|Update the pack|fewer", str(caught.value))


def test_files_of_other_kinds(tmp_path):
    path = tmp_path / "x.safetensors"
    refuse(path, "does not exist")
    refuse(tmp_path, "is not a file")
    for content in (b"", b"hello", b"x" * 10000, b"\xff" * 100, b"\x00" * 100, b"PK\x03\x04" + b"\x00" * 100):
        path.write_bytes(content)
        refuse(path, "cannot be read as an identity")
    torch.save({"embedding": torch.zeros(1, 512)}, path)
    refuse(path, "cannot be read as an identity")
    save_file({"weight": torch.zeros(3)}, path)
    refuse(path, "is a safetensors file, but not a ConsisID identity")
    save_file({"weight": torch.zeros(3)}, path, {"format": "pt"})
    refuse(path, "is a safetensors file, but not a ConsisID identity")
    with open(path, "wb") as file:
        file.truncate(identity_file.MAX_BYTES + 1)  # Sparse.
    refuse(path, "larger than 4 GB")


@pytest.mark.parametrize(
    ("version", "reason"),
    [("2", "has version 2 of the identity format, this pack reads 1. Update the pack"), ("10", "Update the pack"),
     *((text, "damaged: its version is") for text in ("", "0", "-1", "1.0", "one", "٢", "1" * 5000))],
)  # fmt: skip
def test_versions(version, reason, tmp_path):
    # A newer file may hold anything else.
    save_file({"unknown": torch.zeros(3)}, tmp_path / "x.safetensors", {**METADATA, "version": version})
    refuse(tmp_path / "x.safetensors", reason)


def mutate(content, tensors, rng, path):
    """Write one damaged copy of an identity file; what is wrong with it is drawn by rng."""
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    kind = rng.randrange(8)
    if kind == 0:  # Bytes anywhere, most of them in the pictures.
        changed = bytearray(content)
        for _ in range(rng.randint(1, 20)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        path.write_bytes(changed)
    elif kind == 1:  # Bytes of the header.
        changed = bytearray(content)
        for _ in range(rng.randint(1, 5)):
            changed[rng.randrange(8 + length)] = rng.randrange(256)
        path.write_bytes(changed)
    elif kind == 2:
        path.write_bytes(content[: rng.choice([rng.randrange(len(content)), rng.randrange(8 + length)])])
    elif kind == 3:  # Parts of the header swapped.
        one, other = rng.sample([name for name in header if name != "__metadata__"], 2)
        key = rng.choice(["shape", "data_offsets", "dtype", None])
        if key is None:
            header[one], header[other] = header[other], header[one]
        else:
            header[one][key], header[other][key] = header[other][key], header[one][key]
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    elif kind == 4:  # Header with values that no writer makes.
        name = rng.choice([name for name in header if name != "__metadata__"])
        key, value = rng.choice([
            ("shape", [-1]), ("shape", [2**63]), ("shape", None), ("dtype", "Q4"), ("dtype", 7), ("dtype", "I32"),
            ("data_offsets", [0, 2**64 - 1]), ("data_offsets", [8, 0]), ("shape", [1] * 5000), ("shape", []),
        ])  # fmt: skip
        header[name][key] = value
        if rng.random() < 0.3:
            header["__metadata__"] = rng.choice([{}, {"format": "consisid-identity"}, [], {"format": 1}])
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    else:
        changed = dict(tensors)
        name = rng.choice(FIELDS)
        if kind == 5:
            changed[name] = rng.choice([
                changed[name].to(rng.choice([torch.float16, torch.float64, torch.int32, torch.bool, torch.bfloat16])),
                changed[name][..., :1].contiguous(), changed[name].flatten(), changed[name].repeat(2, *[1] * 9)[0][0],
                torch.zeros(()), torch.zeros(0), torch.zeros(1000, 1),
            ]) if changed[name].dim() > 1 else torch.zeros(2, 2)  # fmt: skip
        elif kind == 6:
            rng.choice([lambda: changed.pop(name), lambda: changed.update(extra=torch.zeros(2)),
                        lambda: changed.update({"../x": torch.zeros(1)})])()  # fmt: skip
        else:
            changed[name] = changed[name].clone()
            changed[name].view(-1)[rng.randrange(changed[name].numel())] = rng.choice(
                [float("nan"), float("inf"), -float("inf"), 1e38, -5.0]
            )
        save_file(changed, path, METADATA)


def test_damaged_files_give_an_error_or_a_face(face, file_bytes, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(file_bytes)
    tensors = load_file(path)
    rng = random.Random(7)
    refused = 0
    for number in range(500):
        path.unlink()  # safetensors' files may still be mapped.
        mutate(file_bytes, tensors, rng, path)
        try:
            loaded = read_identity(path)
        except ConsisIDError as error:
            refused += 1
            assert str(path) in str(error), number
            continue
        for field in FIELDS:
            tensor = getattr(loaded, field)
            assert tensor.shape == getattr(face, field).shape and tensor.dtype == torch.float32
            assert tensor.isfinite().all()
        assert -0.01 < loaded.image.min() and loaded.image.max() < 1.01
    assert 350 < refused < 500


# Blend


def test_blend_is_the_formula_and_its_ends_are_exact(run_node):
    one, other = (torch.randn(1, 32, 2048, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    for ratio in (0.0, 0.25, 0.5, 0.9, 1.0):
        (local_id,) = run_node("ConsisIDBlendLocalID", local_id_1=LocalID(one), local_id_2=LocalID(other), ratio=ratio)
        assert torch.equal(local_id.tokens, one * (1 - ratio) + other * ratio)
        if ratio in (0, 1):
            assert torch.equal(local_id.tokens, other if ratio else one)


@pytest.mark.parametrize("shape", [(1, 32, 64), (1, 16, 128), (2, 32, 128)])
def test_blend_refuses_tokens_of_another_shape(shape):
    one, other = LocalID(torch.zeros(1, 32, 128)), LocalID(torch.zeros(shape))
    with pytest.raises(ConsisIDError, match=r"\[1, 32, 128\].*Connect the same MODEL"):
        blend_local_ids(one, other, 0.5)


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_blend_refuses_a_ratio_outside_its_range(ratio):
    with pytest.raises(ConsisIDError, match=r"outside 0\.\.1"):
        blend_local_ids(LocalID(torch.zeros(1, 2, 3)), LocalID(torch.ones(1, 2, 3)), ratio)


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
