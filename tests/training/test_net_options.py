"""Options that several commands share."""

import argparse

import torch
from consisid_pack.consisid_core.training.net_options import add_net_options, chosen_device, chosen_paths


def test_what_is_given_counts_and_the_device_is_found(tmp_path):
    parser = argparse.ArgumentParser()
    add_net_options(parser)
    names = ("vae", "text_encoder", "tokenizer", "eva", "parser", "pack")
    arguments = []
    for name in names:
        (tmp_path / name).mkdir()
        arguments += [f"--{name.replace('_', '-')}", str(tmp_path / name)]
    options = parser.parse_args(arguments)
    paths = chosen_paths(options)
    assert all(getattr(paths, name) == tmp_path / name for name in names)
    assert chosen_device(options) == ("cuda" if torch.cuda.is_available() else "cpu")
    assert chosen_device(parser.parse_args(["--device", "cuda:1"])) == "cuda:1" and options.provider == "auto"
