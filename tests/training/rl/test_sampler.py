"""vLLM's options reach TRL, and its log-probs are compared with the trainer's and corrected as TRL corrects them."""

from __future__ import annotations

import functools
import inspect
import math
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest
import support
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from rl_driver import make_recipe, same_weights
from safetensors.torch import load_file
from trl import GRPOConfig, GRPOTrainer

from prmbench.errors import UserError
from prmbench.training.recipes.optimisation import checkpointing_argument
from prmbench.training.rl.loss import Tokens, policy_loss
from prmbench.training.rl.run import train_rl
from prmbench.training.rl.sampler import VLLMOptions, importance_weights, mismatch
from prmbench.training.rl.trainer import _config

MODES = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
NAN = math.nan


@functools.cache
def trl_lines():
    """TRL's own lines that make the factors, cut out of its trainer."""
    source = inspect.getsource(GRPOTrainer)
    start = source.index(
        "                per_token_logps_diff = (old_per_token_logps - sampling_per_token_logps) * mask"
    )
    end = source.index("            # Compute the per-token log probabilities for the reference model", start)
    return compile(textwrap.dedent(source[start:end]), "trl", "exec")


def trl_weights(old, sampled, mask, options):
    """The factors by TRL's own lines."""
    names = {
        "torch": torch,
        "math": math,
        "old_per_token_logps": old,
        "sampling_per_token_logps": sampled,
        "mask": mask.to(old.dtype),
        "self": SimpleNamespace(**options.arguments(8)),
    }
    exec(trl_lines(), names)
    return names["vllm_importance_sampling_ratio"].expand(mask.shape)


CRAFTED = [
    ([0.0, -1.0, -2.0], [0.0, -1.0, -2.0]),  # the same
    ([-1.0, -1.0, -1.0], [-3.0, -0.5, NAN]),  # one that vLLM did not give
    ([-0.1, -0.1, 0.0], [-9.0, -9.0, -9.0]),  # far too likely here
    ([-9.0, -9.0, -9.0], [-0.1, -0.2, 0.0]),  # far too unlikely
    ([-1.0, -1.0, -1.0], [-1.0 - math.log(3), -1.0, -1.0]),  # at the bound
]
BOUNDS = [(None, 3.0), (0.5, 2.0), (0.5, None), (0.0, 1.0)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bounds", BOUNDS)
def test_factors_are_those_of_trl(mode, bounds):
    low, high = bounds
    options = VLLMOptions(
        importance_sampling_mode=mode, importance_sampling_clip_min=low, importance_sampling_clip_max=high
    )
    old, sampled = (torch.tensor([row[i] for row in CRAFTED], dtype=torch.float64) for i in (0, 1))
    mask = torch.ones(old.shape, dtype=torch.bool)
    mask[1:3, 2] = False
    ours, theirs = importance_weights(old, sampled, mask, options), trl_weights(old, sampled, mask, options)
    torch.testing.assert_close(ours[mask], theirs[mask], rtol=1e-12, atol=0)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_factors_are_those_of_trl_on_random_log_probs(data):
    seed = data.draw(st.integers(0, 2**31))
    rng = torch.Generator().manual_seed(seed)
    old = -torch.rand(4, 6, generator=rng, dtype=torch.float64) * 3
    sampled = old + torch.randn(4, 6, generator=rng, dtype=torch.float64) * data.draw(st.sampled_from([0.01, 0.3, 2.0]))
    sampled[torch.rand(4, 6, generator=rng) < 0.1] = NAN
    mask = torch.arange(6)[None] < torch.randint(1, 7, (4, 1), generator=rng)
    low, high = data.draw(st.sampled_from(BOUNDS))
    options = VLLMOptions(
        importance_sampling_mode=data.draw(st.sampled_from(MODES)),
        importance_sampling_clip_min=low,
        importance_sampling_clip_max=high,
    )
    ours, theirs = importance_weights(old, sampled, mask, options), trl_weights(old, sampled, mask, options)
    torch.testing.assert_close(ours[mask], theirs[mask], rtol=1e-12, atol=0)


def test_factors_worked_by_hand():
    """Ratios of tokens 2, 1/2 and 4, of the rollout 4."""
    old = torch.log(torch.tensor([[0.4, 0.2, 0.8, 1.0]], dtype=torch.float64))
    sampled = torch.log(torch.tensor([[0.2, 0.4, 0.2, 0.1]], dtype=torch.float64))
    mask = torch.tensor([[True, True, True, False]])

    def factors(mode, **bounds):
        found = importance_weights(old, sampled, mask, VLLMOptions(importance_sampling_mode=mode, **bounds))
        return found[mask].tolist()

    assert factors("token_truncate") == pytest.approx([2, 0.5, 3])
    assert factors("token_mask") == pytest.approx([2, 0.5, 0])
    assert factors("token_mask", importance_sampling_clip_min=0.6) == pytest.approx([2, 0, 0])
    assert factors("sequence_truncate") == pytest.approx([3, 3, 3])
    assert factors("sequence_mask") == pytest.approx([0, 0, 0])
    assert factors("sequence_mask", importance_sampling_clip_max=None) == pytest.approx([4, 4, 4])


def test_the_defaults_are_those_of_trl():
    theirs = GRPOConfig(
        output_dir="unused", use_cpu=True, bf16=False, report_to=[], **{checkpointing_argument(): False}
    )
    for name, value in VLLMOptions().arguments(8).items():
        if name != "vllm_max_model_length":  # TRL takes the model's, for which there may be no memory
            assert getattr(theirs, name) == value, name


def test_the_mismatch_is_that_of_numpy():
    rng = np.random.default_rng(0)
    old, mask = torch.from_numpy(-rng.random((5, 40))), torch.from_numpy(rng.random((5, 40)) < 0.8)
    sampled = old + torch.from_numpy(rng.normal(0, 0.05, (5, 40)))
    sampled[0, :3] = NAN
    difference = (old - sampled)[mask].abs().numpy()
    difference = difference[~np.isnan(difference)]
    found = mismatch(old, sampled, mask)
    assert found.mean == pytest.approx(difference.mean(), rel=1e-12)
    assert found.p99 == pytest.approx(np.percentile(difference, 99), rel=1e-12)
    assert found.beyond == np.mean(np.exp(difference) > 1.05)
    assert 0 < found.beyond < 1
    none = mismatch(old, torch.full_like(old, NAN), mask)
    assert math.isnan(none.mean)
    assert math.isnan(none.beyond)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "server"}, "set vllm.server_base_url"),
        ({"server_base_url": "http://a:1"}, "is for mode server"),
        ({"mode": "server", "server_base_url": "a:1"}, "expected http://HOST:PORT"),
        (
            {"mode": "server", "server_base_url": "http://a:1", "tensor_parallel_size": 2},
            "vllm.tensor_parallel_size is for mode colocate",
        ),
        ({"importance_sampling_clip_min": 3.0}, "is not below"),
        ({"importance_sampling_mode": "token_truncate", "importance_sampling_clip_max": None}, "cuts nothing"),
        ({"importance_sampling_mode": "none"}, "token_truncate"),
        ({"gpu_memory_utilisation": 0.5}, "Extra inputs"),
    ],
)
def test_options_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        VLLMOptions(**change)


def test_every_key_reaches_trl(world, tmp_path, monkeypatch):
    """One call of GRPOConfig holds them all, by TRL's own names."""
    asked = {
        "mode": "colocate",
        "tensor_parallel_size": 2,
        "gpu_memory_utilization": 0.45,
        "enable_sleep_mode": True,
        "max_model_length": 77,
        "importance_sampling_correction": False,
        "importance_sampling_mode": "token_mask",
        "importance_sampling_clip_max": 5.0,
        "importance_sampling_clip_min": 0.1,
    }
    recipe = make_recipe(world, tmp_path / "out", engine="vllm", vllm=asked)
    setup = SimpleNamespace(
        recipe=recipe, processes=1, states=tmp_path / "states", problems=[None] * 12, stop=frozenset({1})
    )
    config = _config(setup)
    assert config.use_vllm
    assert {name: getattr(config, f"vllm_{name}") for name in asked} == asked
    server = {"mode": "server", "server_base_url": "http://node2:8000", "server_timeout": 9.0, "group_port": 5000}
    setup.recipe = make_recipe(world, tmp_path / "out", engine="vllm", vllm=server)
    config = _config(setup)
    assert {name: getattr(config, f"vllm_{name}") for name in server} == server
    setup.recipe = make_recipe(world, tmp_path / "out", engine="vllm", max_length=99)
    assert _config(setup).vllm_max_model_length == 99


def test_groups_of_devices_must_divide_the_processes(world, tmp_path, monkeypatch):
    import sys

    monkeypatch.setattr(sys.modules["trl.import_utils"], "is_vllm_available", lambda: True)
    with pytest.raises(UserError, match="tensor_parallel_size 2: 1 processes cannot be dealt to groups"):
        train_rl(make_recipe(world, tmp_path / "out", engine="vllm", vllm={"tensor_parallel_size": 2}))


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_named(world, tmp_path):
    server = {"mode": "server", "server_base_url": "http://127.0.0.1:9", "server_timeout": 0.1}
    with pytest.raises(UserError, match="vllm.server_base_url http://127.0.0.1:9: .*can't be reached .*cluster.md"):
        train_rl(make_recipe(world, tmp_path / "out", engine="vllm", vllm=server))


def test_the_loss_is_multiplied_and_the_figures_are_not(world, tmp_path):
    recipe = make_recipe(world, tmp_path / "out", method="distrl", reward_model={"model": "x", "kind": "implicit"})
    rng = torch.Generator().manual_seed(0)
    logprobs, old, advantages = (torch.randn(6, generator=rng) for _ in range(3))
    weights, factors = torch.full((6,), 1 / 6), torch.tensor([0.0, 1.0, 2.0, 0.5, 3.0, 0.0])
    picked, old_picked, td = (torch.randn(4, generator=rng) - 2 for _ in range(3))
    plain = policy_loss(
        recipe, logprobs, Tokens(old, advantages, weights), picked, Tokens(old_picked, td, torch.ones(4))
    )
    found = policy_loss(
        recipe,
        logprobs,
        Tokens(old, advantages, weights, factors),
        picked,
        Tokens(old_picked, td, torch.ones(4), torch.tensor([2.0, 2.0, 0.0, 1.0])),
    )
    ratio = (logprobs - old).exp()
    clip = recipe.details.clip
    each = -torch.minimum(ratio * advantages, ratio.clamp(1 - clip.low, 1 + clip.high) * advantages)
    assert float(found.sampled) == pytest.approx(float((each * factors).mean()), rel=1e-5)
    assert float(plain.sampled) == pytest.approx(float(each.mean()), rel=1e-5)
    assert float(found.candidates) != pytest.approx(float(plain.candidates))
    for name in ("kl", "clipped", "clipped_candidates"):
        assert float(getattr(found, name)) == float(getattr(plain, name))


def sampler_of(monkeypatch, offset):
    """A stand-in for vLLM whose log-probs are all `offset`. Of a prompt's four rollouts two are right."""
    from prmbench.training.rl.trainer import PolicyTrainer

    tokenizer = support.wrap(support.byte_level())
    end = tokenizer.convert_tokens_to_ids("<|end|>")

    def generate(self, prompt_ids, images, multimodal_fields, num_generations):
        numbers = [tokenizer.decode(ids).split("Say ")[1].split(".")[0] for ids in prompt_ids]
        texts = [f"\\boxed{{{n}}}" if k % 2 else "\\boxed{99}" for k, n in enumerate(numbers)]
        ids = [[*tokenizer(t).input_ids, end] for t in texts]
        return ids, [[None, *[offset] * (len(one) - 1)] for one in ids]

    make_inputs = PolicyTrainer._make_inputs

    def with_vllm(self, batch):
        self.use_vllm = True
        self.preparation.vllm = self.setup.recipe.vllm
        return make_inputs(self, batch)

    monkeypatch.setattr(PolicyTrainer, "_generate_single_turn", generate)
    monkeypatch.setattr(PolicyTrainer, "_make_inputs", with_vllm)


def test_rollouts_of_another_policy_teach_nothing_unless_that_is_off(world, tmp_path, monkeypatch):
    """Log-probs of -1000 put every ratio out of bounds: the default leaves all rollouts out, and AdamW moves nothing."""
    sampler_of(monkeypatch, -1000.0)
    masked = train_rl(make_recipe(world, tmp_path / "masked"))
    row = masked.history[0]
    assert row["sampling/importance_sampling_ratio/mean"] == 0
    assert row["sampling/sampling_logp_difference/mean"] == pytest.approx(994, abs=10)
    assert row["sampling/sampling_logp_difference/p99"] <= 1000
    assert row["sampling/ratio_beyond_1.05"] == 1
    same_weights(world[0] / "model.safetensors", masked.output / "model.safetensors", 0)
    off = train_rl(make_recipe(world, tmp_path / "off", vllm={"importance_sampling_correction": False}))
    assert "sampling/importance_sampling_ratio/mean" not in off.history[0]
    assert off.history[0]["sampling/ratio_beyond_1.05"] == 1  # it is logged all the same
    before, after = load_file(world[0] / "model.safetensors"), load_file(off.output / "model.safetensors")
    assert any(not torch.equal(w, before[name]) for name, w in after.items())
    assert off.history[0]["rollouts/accuracy"] == 0.5  # so that they could teach
