"""What the processes of a parallel run do, which come of `helpers.processes.forkserver`."""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

ROOT = Path(__file__).resolve().parents[2]
TEXT, LATENTS, ROWS = 19, (3, 8, 8), 5
"""67 tokens and 5 rows of latents, which neither 2, 3 nor 4 divide; of four shares the first is text alone."""
STEPS = 2


def net_config():
    from consisid_core.model.config import FacialExtractorConfig, TransformerConfig

    frames, height, width = LATENTS
    return TransformerConfig(
        num_layers=4, num_heads=12, head_dim=16, text_embed_dim=24, time_embed_dim=16, ff_dim=192, max_text_length=TEXT,
        sample_width=width, sample_height=height, sample_frames=frames, cross_attn_heads=2, cross_attn_head_dim=8,
        facial_extractor=FacialExtractorConfig(
            id_dim=40, vit_dim=64, depth=5, heads=2, head_dim=8, num_id_tokens=2, num_queries=6, output_dim=32
        ),
    )  # fmt: skip


def build(module_class, *arguments, **options):
    from consisid_core.dev.random_weights import randomize

    net = module_class(*arguments, **options)
    net.load_state_dict(randomize(net.state_dict(), seed=1))
    return net.requires_grad_(False).eval()


def randn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_latents(attention, transformer_options, **options):
    """[16, T, h, w] as the command samples them."""
    from consisid_core.model.transformer import ConsisIDTransformer
    from consisid_core.training.sample import Sampling, sample_latents

    config = net_config()
    net = build(ConsisIDTransformer, config, attention=attention)
    tokens = randn(3, 1, config.facial_extractor.num_queries, config.facial_extractor.output_dim)

    def predict(latents, timestep, text):
        return net(latents, timestep, text, tokens, transformer_options=transformer_options)

    return sample_latents(
        predict, randn(1, TEXT, 24), randn(2, TEXT, 24), randn(4, 16, *LATENTS), Sampling(STEPS, 6.0, 5), **options
    )


def make_video(decode):
    """decode(VAE, latents [1, 16, 5, 5, 4])."""
    from consisid_core.dev.tiny import VAE
    from consisid_core.model import vae

    vae.CHUNK_VALUES = 2**15  # Strips of rows and groups of channels, as at full size.
    with torch.no_grad():
        return decode(build(vae.CogVideoXVAE, VAE["block_out_channels"], 1, 16), randn(6, 1, 16, 5, ROWS, 4))


def count_bytes(sent):
    """Let torch.distributed add what this process sends to sent[0]."""
    all_to_all, exchange, all_gather = dist.all_to_all_single, dist.batch_isend_irecv, dist.all_gather

    def counted_all_to_all(received, own, received_sizes, sizes, group):
        rest = sum(sizes) - sizes[dist.get_rank(group)]
        sent[0] += own.nbytes * rest // len(own)
        return all_to_all(received, own, received_sizes, sizes, group)

    def counted_exchange(transfers):
        sent[0] += sum(transfer.tensor.nbytes for transfer in transfers if transfer.op is dist.isend)
        return exchange(transfers)

    def counted_all_gather(parts, own, group=None):
        sent[0] += own.nbytes * (len(parts) - 1)
        return all_gather(parts, own, group)

    dist.all_to_all_single, dist.batch_isend_irecv, dist.all_gather = (
        counted_all_to_all, counted_exchange, counted_all_gather
    )  # fmt: skip


def compare(rank, folder, layouts):
    """Run layouts of 2, 3 and 4 processes, and write what they make of latents and video beside those of one.

    Args:
        layouts: number of processes -> (cfg, ring, ulysses) of each.
    """
    sys.path.insert(0, str(ROOT))
    torch.set_num_threads(1)
    from consisid_core.batch.parallel.layout import Layout
    from consisid_core.batch.parallel.processes import join_mesh
    from consisid_core.batch.parallel.rows import decode_rows
    from consisid_core.batch.parallel.sequence import SequenceParallel, split_guidance
    from consisid_core.model.attention import scaled_dot_product_attention

    def relative_error(a, b):
        return ((a - b).norm() / b.norm()).item()

    latents = make_latents(scaled_dot_product_attention, {})
    video = make_video(lambda vae, latents: vae.decode(latents))
    sent, found = [0], {}
    count_bytes(sent)
    for processes, numbers in layouts.items():
        if rank >= processes:
            continue
        dist.init_process_group("gloo", f"file://{folder}/{processes}", rank=rank, world_size=processes)
        for cfg, ring, ulysses in numbers:
            mesh = join_mesh(Layout(cfg, ring, ulysses), torch.device("cpu"))
            sequence = SequenceParallel(mesh)
            sent[0] = 0
            actual = make_latents(sequence.attention, sequence.transformer_options, branches=split_guidance(mesh))
            found[f"{cfg} {ring} {ulysses}"] = relative_error(actual, latents), sent[0] / STEPS
        found[f"video of {processes}"] = relative_error(make_video(decode_rows), video), 0
        dist.destroy_process_group()
    Path(folder, f"{rank}.json").write_text(json.dumps(found))


def run_as(rank, count, port, printed, arguments):
    """One process of the command, told who it is as torchrun tells it. What it prints goes into a file."""
    sys.path.insert(0, str(ROOT))
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(printed, "w", buffering=1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    from consisid_core.batch.parallel.__main__ import main

    sys.exit(main(arguments))
