from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prmbench.training.model import logprobs
from prmbench.training.model.logprobs import token_logprobs

MAPS = {"none": None, "cap": lambda x: torch.tanh(x / 3) * 3, "scale": lambda x: x * 0.3}


def plain(states, weight, bias, targets, finish):
    """Full logits, autograd's own gradient."""
    logits = states @ weight.T if bias is None else states @ weight.T + bias
    logits = logits if finish is None else finish(logits)
    return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]


@pytest.mark.parametrize("finish", MAPS)
@pytest.mark.parametrize("biased", [False, True])
@given(n=st.integers(1, 9), rows=st.integers(1, 4), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_values_and_gradients_equal_autograd(finish, biased, n, rows, seed):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(n, 6, generator=generator, requires_grad=True)
    weight = torch.randn(11, 6, generator=generator, requires_grad=True)
    bias = torch.randn(11, generator=generator, requires_grad=True) if biased else None
    targets = torch.randint(11, (n,), generator=generator)
    outer = torch.randn(n, generator=generator)
    inputs = [x for x in (states, weight, bias) if x is not None]
    found = token_logprobs(states, weight, bias, targets, MAPS[finish], block=11 * rows)
    wanted = plain(states, weight, bias, targets, MAPS[finish])
    torch.testing.assert_close(found, wanted, atol=2e-6, rtol=1e-5)
    for mine, theirs in zip(
        torch.autograd.grad(found, inputs, outer), torch.autograd.grad(wanted, inputs, outer), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=5e-6, rtol=1e-4)


def test_a_frozen_output_layer_gets_no_gradient():
    states, weight = torch.randn(3, 4, requires_grad=True), torch.randn(7, 4)
    token_logprobs(states, weight, None, torch.tensor([1, 2, 3])).sum().backward()
    assert states.grad is not None
    assert weight.grad is None


def test_half_weights_give_float32():
    states, weight = torch.randn(5, 4).bfloat16().requires_grad_(), torch.randn(7, 4).bfloat16().requires_grad_()
    targets = torch.tensor([0, 1, 2, 3, 4])
    found = token_logprobs(states, weight, None, targets)
    found.sum().backward()
    assert found.dtype == torch.float32
    assert states.grad.dtype == weight.grad.dtype == torch.bfloat16
    wanted = plain(states.detach().double(), weight.detach().double(), None, targets, None)
    torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-5)


def test_no_tokens():
    states = torch.zeros(0, 4, requires_grad=True)
    found = token_logprobs(states, torch.randn(7, 4, requires_grad=True), None, torch.zeros(0, dtype=torch.long))
    assert found.shape == (0,)
    found.sum().backward()


def test_the_whole_logits_never_exist(monkeypatch):
    seen = []
    real = logprobs.head_logits
    monkeypatch.setattr(logprobs, "head_logits", lambda *a: seen.append(len(a[0])) or real(*a))
    states = torch.randn(100, 4, requires_grad=True)
    token_logprobs(states, torch.randn(50, 4), None, torch.zeros(100, dtype=torch.long), block=500).sum().backward()
    assert seen == [10] * 20  # ten blocks forward, ten again backward


@given(n=st.integers(1, 9), m=st.integers(0, 20), rows=st.integers(1, 4), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_any_tokens_at_any_states(n, m, rows, seed):
    """States repeated, left out and in any order; values and gradients are those of the full log-softmax."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(n, 6, generator=generator, requires_grad=True)
    weight = torch.randn(11, 6, generator=generator, requires_grad=True)
    where, tokens = torch.randint(n, (m,), generator=generator), torch.randint(11, (m,), generator=generator)
    found = logprobs.select_logprobs(states, weight, None, where, tokens, block=11 * rows)
    wanted = (states @ weight.T).log_softmax(-1)[where, tokens]
    torch.testing.assert_close(found, wanted, atol=2e-6, rtol=1e-5)
    outer = torch.randn(m, generator=generator)
    for mine, theirs in zip(
        torch.autograd.grad(found, (states, weight), outer),
        torch.autograd.grad(wanted, (states, weight), outer),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, atol=5e-6, rtol=1e-4)


@given(n=st.integers(1, 9), rows=st.integers(1, 4), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_found_tokens_and_entropy(n, rows, seed):
    generator = torch.Generator().manual_seed(seed)
    states, weight = torch.randn(n, 6, generator=generator), torch.randn(11, 6, generator=generator)
    targets = torch.randint(11, (n,), generator=generator)

    def find(values, sampled):
        chosen = values > -1.5
        chosen[torch.arange(len(sampled)), sampled] = False  # what it is given is really the block's
        return chosen.nonzero().unbind(1)

    found = logprobs.find_logprobs(states, weight, None, targets, find, block=11 * rows)
    plain_logprobs = (states.double() @ weight.double().T).log_softmax(-1)
    wanted = plain_logprobs > -1.5
    wanted[torch.arange(n), targets] = False
    where, tokens = wanted.nonzero().unbind(1)
    assert (found.where.tolist(), found.tokens.tolist()) == (where.tolist(), tokens.tolist())
    torch.testing.assert_close(found.picked.double(), plain_logprobs[where, tokens], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.logprobs.double(), plain_logprobs[torch.arange(n), targets], atol=1e-5, rtol=1e-5)
    entropy = -(plain_logprobs.exp() * plain_logprobs).sum(-1)
    torch.testing.assert_close(found.entropy.double(), entropy, atol=1e-5, rtol=1e-5)


def test_entropy_of_a_certain_state():
    weight = torch.tensor([[1e4], [0.0], [-1e4]])
    found = logprobs.find_logprobs(torch.ones(1, 1), weight, None, torch.tensor([0]), lambda p, s: (s[:0], s[:0]))
    assert found.entropy.tolist() == [0.0]
