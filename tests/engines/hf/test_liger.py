"""Liger's kernels run on CUDA alone. Here it is seen what is refused, and what Liger is asked to change, by a stand-in for it."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import support
import torch
from transformers.models.llama import modeling_llama

from prmbench.engines.hf.liger import apply_liger
from prmbench.engines.load import LoadOptions, load_causal_lm
from prmbench.errors import UserError
from prmbench.training.model.start import load_start
from prmbench.training.sft.recipe import SFTRecipe


class PatchedNorm(torch.nn.Module):
    """What the stand-in puts in the place of a norm."""


@pytest.fixture
def on_cuda(monkeypatch):
    """Has models say that they are on CUDA."""
    monkeypatch.setattr(modeling_llama.LlamaForCausalLM, "device", property(lambda model: torch.device("cuda")))


@pytest.fixture
def liger(monkeypatch):
    """A package of Liger's name, which does to a model and to its module what Liger does. The calls that were made."""
    calls = []

    def apply(*, model, **asked):
        calls.append((model, asked))
        modeling_llama.LlamaRMSNorm = PatchedNorm
        modeling_llama.apply_rotary_pos_emb = None
        model.model.norm.patched = True

    package, transformers, patches = (
        ModuleType(name)
        for name in ("liger_kernel", "liger_kernel.transformers", "liger_kernel.transformers.monkey_patch")
    )
    transformers._apply_liger_kernel_to_instance = apply
    patches.MODEL_TYPE_TO_APPLY_LIGER_FN = {"llama": apply}
    for module in (package, transformers, patches):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


def test_without_cuda_it_is_refused(tiny):
    with pytest.raises(UserError, match=r"^liger: its kernels need a CUDA device, not cpu; leave it out$"):
        load_causal_lm(tiny, LoadOptions("cpu", liger=True))


def test_without_the_package_it_is_refused(on_cuda, monkeypatch):
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    with pytest.raises(
        UserError, match=r"^liger: needs the package liger-kernel, .*\(pip install liger-kernel\); or leave it out$"
    ):
        apply_liger(support.tiny_llama(97), "m")


def test_an_architecture_that_it_has_nothing_for_is_refused(on_cuda, liger):
    model = support.tiny_llama(97)
    model.config.model_type = "other"
    with pytest.raises(UserError, match=r"^m: liger: has no kernels for a other model; leave it out$"):
        apply_liger(model, "m")
    assert liger == []


def test_only_the_model_itself_is_changed_and_its_losses_are_not(on_cuda, liger):
    model, norm, rotary = support.tiny_llama(97), modeling_llama.LlamaRMSNorm, modeling_llama.apply_rotary_pos_emb
    apply_liger(model, "m")
    ((changed, asked),) = liger
    assert changed is model
    assert model.model.norm.patched
    assert asked == {"rope": False, "cross_entropy": False, "fused_linear_cross_entropy": False}
    assert modeling_llama.LlamaRMSNorm is norm
    assert modeling_llama.apply_rotary_pos_emb is rotary
    assert not hasattr(support.tiny_llama(97).model.norm, "patched")


def test_what_is_trained_has_it_and_what_is_read_back_has_not(tiny, on_cuda, liger):
    recipe = SFTRecipe(
        model=str(tiny), output="o", data="d", liger=True, padding_free=True, attn_implementation="eager"
    )
    trained, written = load_start(recipe, tiny), load_start(recipe, tiny, train=False)
    assert [model for model, _ in liger] == [trained]
    assert (trained.config._attn_implementation, written.config._attn_implementation) == ("eager", "sdpa")
    assert trained.model.without_padding
    assert not hasattr(written.model, "without_padding")
