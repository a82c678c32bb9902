"""Validation cases of random numbers in a cache, for tests that train."""

import json

import torch
from consisid_pack.consisid_core.training.cases import FOLDER
from safetensors.torch import save_file


def write_random_cases(cache, net, geometry, vae, score_pack, names=("anna", "bob")):
    """As the command `cases` leaves them; nobody's face, so that no frame is like it."""
    folder = cache / FOLDER
    folder.mkdir()
    frames, h, w = geometry.latent_size
    face = net.facial_extractor
    for seed, name in enumerate(names):
        generator = torch.Generator().manual_seed(seed)

        def randn(*shape, generator=generator):
            return torch.randn(shape, generator=generator)

        tensors = {
            "photo": (torch.rand(40, 30, 3, generator=generator) * 255).to(torch.uint8),
            "arc": torch.nn.functional.normalize(randn(512).double(), dim=0),
            "id_embedding": randn(face.id_dim),
            "hidden_states": randn(face.num_scales, 10, face.vit_dim).half(),
            "face_latents": randn(16, h, w).half(),
            "keypoint_latents": randn(16, h, w).half(),
            "text": randn(net.max_text_length, net.text_embed_dim).half(),
        }
        save_file(tensors, folder / f"{name}.safetensors", {"name": name, "prompt": f"{name} smiles."})
    index = {"vae": str(vae), "score_pack": str(score_pack), "cases": list(names)}
    (folder / "index.json").write_text(json.dumps(index))
