"""Sampling with a step cache: which forwards are saved, and that nothing else changes what comes out."""

import gc
import json
import random

import comfy.context_windows
import comfy.model_management
import comfy.samplers
import pytest
import torch
from comfy.ldm.modules.attention import attention_pytorch
from comfy.patcher_extension import WrappersMP
from comfy_extras import nodes_custom_sampler
from consisid_pack.consisid_core.checkpoint.step_cache_fit import fit_path
from consisid_pack.consisid_core.comfyui.step_cache import fit_of
from consisid_pack.consisid_core.comfyui.transformer import load_transformer
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.model.config import TransformerConfig
from consisid_pack.consisid_core.model.step_cache import PUBLISHED_FIT, ResidualCache
from consisid_pack.consisid_core.types import GlobalID, LocalID
from helpers.oracle import build_reference, relative_error

import nodes as comfyui_nodes

STEPS = 10  # Divide 1000, so that all samplers have the same timesteps.
THRESHOLD = 1.2
"""Skips half of the steps of this net, whose embedding changes a lot."""


class Net:
    """A small random model with text and identity, and a fit that takes its embedding's change for the output's."""

    def __init__(self, folder):
        build_reference(
            num_attention_heads=3, attention_head_dim=16, num_layers=4, in_channels=32, out_channels=16,
            sample_height=6, sample_width=8, sample_frames=9,
        ).save_pretrained(folder)  # fmt: skip
        self.path = folder / "diffusion_pytorch_model.safetensors"
        fit = {"coefficients": [1.0, 0.0], "lowest": 1e-6, "highest": 1e3}
        fit_path(self.path).write_text(json.dumps(fit), encoding="utf-8")
        self.model = load_transformer(self.path)
        self.generator = torch.Generator().manual_seed(3)
        self.positive, self.negative = self.randn(1, 11, 16), self.randn(1, 11, 16)
        self.tokens = self.randn(1, 3, 32)
        self.face = self.randn(1, 16, 1, 6, 8)

    def randn(self, *shape):
        return torch.randn(shape, generator=self.generator)

    def schedule(self, threshold=THRESHOLD, steps=STEPS, start=0.0, end=1.0):
        """Which steps are skipped, written out plainly: from the times that the steps have in sampling."""
        sampling = self.model.get_model_object("model_sampling")
        sigmas = comfy.samplers.simple_scheduler(sampling, steps)[:-1]
        times = sampling.timestep(sigmas).float()
        with torch.no_grad():
            embeddings = self.model.model.diffusion_model.embed_time(times, torch.float32)
        skipped, change = [], 0.0
        for i, time in enumerate(times.tolist()):
            if i:
                change += ((embeddings[i] - embeddings[i - 1]).abs().mean() / embeddings[i - 1].abs().mean()).item()
            inside = start <= 1 - time / 999 <= end
            skipped.append(0 < i < steps - 1 and inside and change < threshold)
            if not skipped[-1]:
                change = 0.0
        return skipped


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    return Net(tmp_path_factory.mktemp("net"))


@pytest.fixture
def cached(net, run_node):
    def run(model=None, **inputs):
        return run_node("ConsisIDStepCache", model=model or net.model, **{"threshold": THRESHOLD, **inputs})[0]

    return run


@pytest.fixture
def conditioned(net, run_node):
    def condition(frames=3, **options):
        image = torch.cat((net.face, net.face.new_zeros(1, 16, frames - 1, 6, 8)), dim=2)
        return run_node(
            "ConsisIDConditioning", positive=[[net.positive, {}]], negative=[[net.negative, {}]],
            global_id=GlobalID(image), local_id=LocalID(net.tokens), **options,
        )  # fmt: skip

    return condition


@pytest.fixture
def ksampler(net, conditioned):
    def run(model, steps=STEPS, seed=5, sampler="euler", batch_index=None, frames=3, **options):
        positive, negative, latent = conditioned(frames, **options)
        if batch_index is not None:
            latent["batch_index"] = batch_index
        with torch.inference_mode():
            (out,) = comfyui_nodes.common_ksampler(
                model, seed, steps, 6.0, sampler, "simple", positive, negative, latent
            )
        return out["samples"]

    return run


@pytest.fixture
def consisid_sampler(net, conditioned, run_node):
    def run(model, steps=STEPS, seed=5, frames=3, cfg=6.0, **options):
        positive, negative, latent = conditioned(frames, **options)
        (out,) = run_node(
            "ConsisIDSampler", model=model, positive=positive, negative=negative, latent_image=latent, seed=seed,
            steps=steps, cfg=cfg,
        )  # fmt: skip
        return out["samples"]

    return run


@pytest.fixture
def guider(net, conditioned):
    def run(model, steps=STEPS, seed=5, frames=3):
        positive, negative, latent = conditioned(frames)
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(positive, negative)
        guider.set_cfg(6.0)
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
        noise = nodes_custom_sampler.Noise_RandomNoise(seed)
        with torch.inference_mode():
            return nodes_custom_sampler.SamplerCustomAdvanced.execute(
                noise, guider, comfy.samplers.sampler_object("euler"), sigmas, latent
            ).args[0]["samples"]

    return run


@pytest.fixture(params=["ksampler", "consisid_sampler", "guider"])
def sample(request):
    return request.getfixturevalue(request.param)


class Forwards:
    """How often each step's blocks were run, by the first block itself, and how many prompts went through them."""

    def __init__(self, model, steps=STEPS):
        self.model, self.by_step, self.prompts = model.clone(), [0] * steps, 0
        sigmas = comfy.samplers.simple_scheduler(self.model.get_model_object("model_sampling"), steps)

        def count(args, extra):
            options = args["transformer_options"]
            step = (sigmas - options["sigmas"][0].cpu()).abs().argmin()
            self.by_step[step] += len(options["uuids"])
            return extra["original_block"](args)

        self.model.set_model_patch_replace(count, "dit", "double_block", 0)


def test_what_is_off_is_as_if_it_were_not_there(net, cached, sample):
    plain = sample(net.model)
    assert torch.equal(sample(cached(threshold=0.0)), plain)
    assert torch.equal(sample(cached(cached(), threshold=0.0)), plain), "the last node counts"
    assert torch.equal(sample(cached(threshold=1e-5)), plain), "nothing is skipped"
    assert relative_error(sample(cached()), plain) > 1e-3
    assert torch.equal(sample(net.model), plain), "the model that came in is as it was"


@pytest.mark.parametrize("range_", [(0.0, 1.0), (0.3, 0.7)])
def test_forwards_are_those_of_the_schedule(net, cached, sample, caplog, range_):
    skipped = net.schedule(start=range_[0], end=range_[1])
    assert sum(skipped) in (3, 5)
    forwards = Forwards(cached(start_percent=range_[0], end_percent=range_[1]))
    with caplog.at_level("INFO", "consisid"):
        result = sample(forwards.model)
    assert forwards.by_step == [0 if skips else 2 for skips in skipped]
    assert f"Step cache: {2 * sum(skipped)} of {2 * STEPS} forwards saved." in caplog.messages
    assert 1e-4 < relative_error(result, sample(net.model)) < 0.3


def test_one_prompt_alone(net, cached, consisid_sampler, caplog):
    forwards, skipped = Forwards(cached()), net.schedule()
    with caplog.at_level("INFO", "consisid"):
        consisid_sampler(forwards.model, cfg=1.0)
    assert forwards.by_step == [0 if skips else 1 for skips in skipped]
    assert f"Step cache: {sum(skipped)} of {STEPS} forwards saved." in caplog.messages


def test_two_videos_of_one_process_equal_those_of_two(net, cached, ksampler, conditioned, tmp_path, run_python):
    model = cached()
    first, second = ksampler(model, seed=1), ksampler(model, seed=2)
    torch.save((conditioned(), THRESHOLD), tmp_path / "inputs.pt")
    run_python(f"""
import torch
from pathlib import Path
load_pack()
from custom_nodes_consisid.consisid_core.comfyui.step_cache import with_step_cache
from custom_nodes_consisid.consisid_core.comfyui.transformer import load_transformer
(positive, negative, latent), threshold = torch.load({str(tmp_path / "inputs.pt")!r}, weights_only=False)
model = with_step_cache(load_transformer(Path({str(net.path)!r})), threshold)
torch.set_num_threads({torch.get_num_threads()})
with torch.inference_mode():
    (out,) = nodes.common_ksampler(model, 2, {STEPS}, 6.0, "euler", "simple", positive, negative, latent)
torch.save(out["samples"], {str(tmp_path / "second.pt")!r})
""")
    assert torch.equal(torch.load(tmp_path / "second.pt"), second)
    assert torch.equal(ksampler(model, seed=1), first) and relative_error(first, second) > 0.1


def test_a_batch_equals_single_videos(net, cached, ksampler):
    both = ksampler(cached(), batch_size=2)
    for index in range(2):
        single = ksampler(cached(), batch_index=[index])
        assert relative_error(both[index : index + 1], single) < 1e-5


def test_prompts_apart_equal_prompts_together_whatever_the_memory_allows(net, cached, ksampler, monkeypatch):
    """Where memory is short ComfyUI evaluates one prompt after the other, and decides so at each step anew."""
    together = ksampler(cached())
    chance, batches = random.Random(2), []

    def count(args, extra):
        batches.append(len(args["transformer_options"]["uuids"]))
        return extra["original_block"](args)

    def required(*args, **kwargs):
        return chance.choice((0, 1e18))

    model = cached()
    model.set_model_patch_replace(count, "dit", "double_block", 0)
    monkeypatch.setattr(type(net.model.model), "memory_required", required)
    assert relative_error(ksampler(model), together) < 1e-5
    assert set(batches) == {1, 2} and sum(batches) == 2 * (STEPS - sum(net.schedule()))


def test_interrupted_and_started_again_equals_fresh(net, cached, ksampler, monkeypatch):
    model = cached()
    expected = ksampler(model)
    original, steps = ResidualCache.begin_step, []

    def interrupts(self, step):
        steps.append(step)
        original(self, step)
        if step == 7:
            raise comfy.model_management.InterruptProcessingException

    with monkeypatch.context() as patch:
        patch.setattr(ResidualCache, "begin_step", interrupts)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            ksampler(model)
    assert steps[-1] == 7
    assert torch.equal(ksampler(model), expected)


def test_nothing_is_kept_after_a_run(net, cached, ksampler):
    model = cached()
    ksampler(model)
    gc.collect()
    assert not [item for item in gc.get_objects() if isinstance(item, ResidualCache) and item._residuals]


def test_the_edges_of_the_identity_s_range_are_computed(net, cached, ksampler):
    """Neither a residual with the face serves a step without it, nor one without it a step with it."""
    skipped = net.schedule(threshold=100.0)
    assert skipped == [False, *[True] * (STEPS - 2), False]
    sampling = net.model.get_model_object("model_sampling")
    times = sampling.timestep(comfy.samplers.simple_scheduler(sampling, STEPS)[:-1]).tolist()
    acts = [0.3 <= 1 - time / 999 <= 0.6 for time in times]
    edges = [i > 0 and acts[i] != acts[i - 1] for i in range(STEPS)]
    assert sum(edges) == 2
    forwards = Forwards(cached(threshold=100.0))
    # The second edge finds the residual of the part before the first one, which is without the face as well.
    first = edges.index(True)
    ksampler(forwards.model, start_percent=0.3, end_percent=0.6)
    assert [i for i, count in enumerate(forwards.by_step) if count] == [0, first, STEPS - 1]


def test_every_sampler_is_at_the_step_that_the_cache_takes_it_for(net, cached, ksampler, monkeypatch, caplog):
    steps, seen, now, sigmas = 4, [], [0], {}
    begin_step = ResidualCache.begin_step
    monkeypatch.setattr(
        ResidualCache, "begin_step", lambda self, step: (now.__setitem__(0, step), begin_step(self, step))
    )

    def look(run, x, timestep, context, transformer_options, **kwargs):
        sigmas.update(enumerate(transformer_options["sample_sigmas"].tolist()))
        seen.append((now[0], float(transformer_options["sigmas"][0])))
        return run(x, timestep, context, transformer_options, **kwargs)

    model = cached()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", look)
    tried = 0
    for name in comfy.samplers.SAMPLER_NAMES:
        seen.clear(), caplog.clear()
        if name in ("dpm_fast", "dpm_adaptive"):
            plain = ksampler(net.model, steps=steps, sampler=name)
            assert torch.equal(ksampler(model, steps=steps, sampler=name), plain)
            assert any("noise levels of its own" in message for message in caplog.messages)
            continue
        try:
            ksampler(model, steps=steps, sampler=name)
        except ModuleNotFoundError:  # Some need torchsde.
            continue
        tried += 1
        for step in range(steps):
            at = [sigma for number, sigma in seen if number == step]
            # Besides at the step's own noise level, some evaluate it at what follows the step before.
            assert min(abs(sigma / sigmas[step] - 1) for sigma in at) < 1e-3, (name, step)
            assert step == 0 or max(at) <= sigmas[step - 1], (name, step)
    assert tried > 25


def windows_cut_the_face():
    import inspect

    return "cond_retain_index_list" in inspect.signature(comfy.context_windows.IndexListContextHandler).parameters


@pytest.mark.skipif(not windows_cut_the_face(), reason="this ComfyUI's windows leave the face's latents whole")
@pytest.mark.parametrize("schedule", ["standard_static", "standard_uniform"])
def test_context_windows_have_residuals_of_their_own(net, cached, sample, schedule):
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode

    def windowed(model):
        return ContextWindowsManualNode.execute(
            model, context_length=3, context_overlap=1, context_schedule=schedule, context_stride=1, closed_loop=False,
            fuse_method="pyramid", dim=2, freenoise=False, cond_retain_index_list="0", split_conds_to_windows=False,
        ).args[0]  # fmt: skip

    skipped = net.schedule()
    plain, forwards = sample(windowed(net.model), frames=8), Forwards(cached())
    result = sample(windowed(forwards.model), frames=8)
    assert 1e-4 < relative_error(result, plain) < 0.3
    every = Forwards(net.model)
    sample(windowed(every.model), frames=8)
    assert min(every.by_step) >= 6, "several windows a step"
    if schedule == "standard_static":
        assert forwards.by_step == [0 if skips else count for skips, count in zip(skipped, every.by_step, strict=True)]
    else:  # Windows move from step to step, and those that were not there before are computed.
        assert sum(every.by_step[i] for i in range(STEPS) if not skipped[i]) <= sum(forwards.by_step)


def test_a_guider_that_evaluates_a_prompt_twice_does_not_mix_them(net, cached, ksampler):
    """Skip Layer Guidance evaluates the prompt again with blocks left out."""
    from comfy_extras.nodes_slg import SkipLayerGuidanceDiT

    node = SkipLayerGuidanceDiT
    settings = {"double_layers": "1,2", "single_layers": "", "scale": 3.0, "start_percent": 0.0, "end_percent": 1.0,
                "rescaling_scale": 0.0}  # fmt: skip

    def guided(model):
        if hasattr(node, "define_schema"):
            return node.execute(model, **settings).args[0]
        return node().skip_guidance(model, **settings)[0]

    plain, unguided = ksampler(guided(net.model)), ksampler(net.model)
    result = ksampler(guided(cached()))
    assert relative_error(plain, unguided) > 3 * relative_error(result, plain) > 0


# Which fit


def test_released_sizes_have_the_published_fit_unless_a_file_is_there(tmp_path):
    class Model:
        weights, config = tmp_path / "released.safetensors", TransformerConfig()

    assert fit_of(Model) is PUBLISHED_FIT
    fit_path(Model.weights).write_text('{"coefficients": [2, 0], "lowest": 0.1, "highest": 0.2}', encoding="utf-8")
    assert fit_of(Model).coefficients == (2.0, 0.0)


def test_weights_without_a_fit_are_told_what_to_do(net, cached, tmp_path):
    path = tmp_path / "other.safetensors"
    path.write_bytes(net.path.read_bytes())
    path.with_name("config.json").write_bytes(net.path.with_name("config.json").read_bytes())
    other = tmp_path / "diffusion_pytorch_model.safetensors"
    path.rename(other)
    model = load_transformer(other)
    with pytest.raises(
        ConsisIDError, match=r"no diffusion_pytorch_model\.step_cache\.json .* fit_step_cache.*EasyCache"
    ):
        cached(model)
    assert cached(model, threshold=0.0)
    fit_path(other).write_text("{}", encoding="utf-8")
    with pytest.raises(ConsisIDError, match=r"step_cache\.json cannot be read .* fit again"):
        cached(model)


def test_wrong_inputs_are_named(net, cached):
    with pytest.raises(ConsisIDError, match="start_percent 0.6 lies after end_percent 0.5; swap them"):
        cached(start_percent=0.6, end_percent=0.5)

    class Other:
        model = torch.nn.Linear(1, 1)

    with pytest.raises(ConsisIDError, match="MODEL is a Linear, not ConsisID"):
        cached(Other())


def test_it_survives_copies_of_model(net, cached, ksampler):
    expected = ksampler(cached())
    assert torch.equal(ksampler(cached().clone()), expected)


def test_compiled_nets_are_not_compiled_anew_at_each_step(net, cached, ksampler):
    """The blocks stay compiled; what the cache does between them is not."""
    import torch._dynamo
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    model = net.model.clone()
    model.model_options.setdefault("transformer_options", {})["optimized_attention_override"] = (
        lambda _, *args, **kwargs: attention_pytorch(*args, **kwargs)
    )
    node = TorchCompileModel
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    if hasattr(node, "define_schema"):
        compiled = node.execute(cached(model, threshold=100.0), backend="eager").args[0]
    else:
        compiled = node().patch(cached(model, threshold=100.0), backend="eager")[0]
    stats = torch._dynamo.utils.counters["stats"]
    first = ksampler(compiled, steps=4)
    graphs = stats["unique_graphs"]
    assert relative_error(first, ksampler(cached(model, threshold=100.0), steps=4)) < 1e-5
    assert graphs <= 6, "before, through and after the blocks, and what is between them"
    assert graphs == 3, "nothing is between them"
    ksampler(compiled, steps=4, seed=6)
    assert stats["unique_graphs"] == graphs, "a second video is not compiled"
    ksampler(compiled, steps=6, frames=2)
    assert stats["unique_graphs"] == 2 * graphs, "another size is compiled once, whatever the steps"
