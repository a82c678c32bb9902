"""The cache's files: what is written is read, by several processes, lazily, and damage is told in a sentence."""

import pickle
import resource
from dataclasses import fields, replace

import pytest
import torch
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.training import cache as module
from consisid_pack.consisid_core.training.cache import ClipCache, Geometry, check_nets, read_index, write_clip
from helpers.training import GEOMETRY, random_clip, write_random_cache


@pytest.fixture
def clips():
    return [random_clip(0), random_clip(1, outside=0), random_clip(2, person="ben")]


@pytest.fixture
def folder(tmp_path, clips):
    return write_random_cache(tmp_path / "cache", clips)


def assert_same(one, other):
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, torch.Tensor):
            assert a.dtype == b.dtype and torch.equal(a, b), field.name
        elif isinstance(a, list):
            assert len(a) == len(b)
            for pair in zip(a, b, strict=True):
                assert_same(*pair)
        else:
            assert a == b


def test_what_is_written_is_read(folder, clips):
    cache = ClipCache(folder)
    assert len(cache) == 3 and cache.geometry == GEOMETRY and cache.index.is_demo
    for read, clip in zip(cache, clips, strict=True):
        assert_same(read, clip)
    assert cache.people() == {"anna": [0, 1], "ben": [2]}
    assert cache.empty_text.shape == clips[0].text.shape and not cache.empty_text.any()


def test_latent_sizes():
    assert Geometry().latent_size == (13, 60, 90)
    assert Geometry(frames=1).latent_size[0] == 1
    assert GEOMETRY.latent_size == (3, 4, 6)


def test_a_clip_is_mapped_not_read(tmp_path):
    """A clip of 400 MB takes no memory until it is used."""
    large = random_clip(0)
    large = replace(large, latent_mean=torch.ones(200_000_000, dtype=torch.float16))
    folder = write_random_cache(tmp_path, [large])
    del large

    def resident():
        with open("/proc/self/smaps_rollup") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("Rss")) * 1024

    before = resident()
    clip = ClipCache(folder)[0]
    assert resident() - before < 50e6
    assert clip.latent_mean[-1] == 1


def name_and_sum(clip):
    return clip.name, clip.inside[0].latent_mean.float().sum().item()


def test_workers_of_a_data_loader_read_it(folder, clips):
    loader = torch.utils.data.DataLoader(ClipCache(folder), batch_size=None, num_workers=2)
    assert [name_and_sum(clip) for clip in loader] == [name_and_sum(clip) for clip in clips]


def test_other_processes_get_it_without_its_tensors(folder, clips):
    sent = pickle.dumps(ClipCache(folder))
    assert len(sent) < 2000
    assert_same(pickle.loads(sent)[2], clips[2])


def test_no_numbers_that_are_not_finite(tmp_path):
    clip = random_clip(0)
    clip.latent_mean[3, 1, 2, 2] = torch.inf
    with pytest.raises(ConsisIDError, match="latent_mean would hold values that are no finite numbers"):
        write_clip(tmp_path, "0000", clip)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_full_disk_leaves_the_old_file(folder, clips):
    """The limit on the size of a file that a process may write stands for the disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_clip(folder, "0000", clips[1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_same(ClipCache(folder)[0], clips[0])
    assert len(list((folder / module.CLIPS).iterdir())) == 3


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "index.json").unlink(), "holds no prepared cache"),
        (lambda folder: (folder / "index.json").write_text("{"), "is no index of a cache .* run prepare again"),
        (lambda folder: (folder / "index.json").write_text('{"format": 0}'), "has format 0, and this version reads 1"),
        (lambda folder: (folder / "index.json").write_text('{"format": 1}'), "is no index of a cache"),
    ],
)
def test_a_damaged_index_is_told(folder, damage, message):
    damage(folder)
    with pytest.raises(ConsisIDError, match=message):
        ClipCache(folder)


@pytest.mark.parametrize(
    "damage", [lambda file: file.unlink(), lambda file: file.write_bytes(file.read_bytes()[:-100])]
)
def test_a_damaged_clip_is_told(folder, damage):
    damage(folder / "clips/0001.safetensors")
    cache = ClipCache(folder)
    assert cache[0].person == "anna"
    with pytest.raises(ConsisIDError, match="0001.safetensors of the cache cannot be read .* run prepare again"):
        cache[1]


def test_nets_of_another_cache_are_told(folder):
    nets = read_index(folder).nets
    check_nets(nets, nets, folder)
    check_nets(nets, {"vae": nets["vae"], "unknown": "x"}, folder)
    with pytest.raises(ConsisIDError, match="made with other weights: eva, vae differ"):
        check_nets(nets, {**nets, "vae": "x", "eva": "y"}, folder)
