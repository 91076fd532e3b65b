"""Losses of counts and of pairs, against scipy, slow loops and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import betabinom, binom

from prmbench.training.prm.losses import COUNT_EPS, beta_binomial_losses, overconfidence, pair_losses
from prmbench.training.prm.metrics import count_metrics, pair_metrics

counted = st.integers(0, 24).flatmap(
    lambda n: st.tuples(st.floats(-12, 12), st.floats(-7, 9), st.integers(0, n), st.just(n))
)


def columns(rows, dtype=torch.float64):
    """Logits, concentrations (from their logarithms), successes and trials."""
    logits, logs, k, n = (torch.tensor([row[i] for row in rows], dtype=torch.float64) for i in range(4))
    return tuple(one.to(dtype) for one in (logits, logs.exp(), k, n))


def scipy_losses(logits, concentrations, successes, trials):
    mean, c = expit(logits.numpy()), concentrations.numpy()
    a, b = mean * c + COUNT_EPS, expit(-logits.numpy()) * c + COUNT_EPS
    return -betabinom.logpmf(successes.numpy(), trials.numpy(), a, b)


@given(st.lists(counted, min_size=1, max_size=8))
def test_counts_have_the_likelihood_of_scipy(rows):
    arguments = columns(rows)
    wanted = scipy_losses(*arguments)
    assert np.allclose(beta_binomial_losses(*arguments).numpy(), wanted, rtol=1e-7, atol=1e-7)
    single = tuple(one.float() for one in arguments)
    assert np.allclose(beta_binomial_losses(*single).numpy(), wanted, rtol=1e-4, atol=1e-4)


@given(st.floats(-8, 8), st.floats(-5, 8), st.integers(1, 20))
def test_the_likelihoods_of_all_counts_sum_to_one(logit, log_c, n):
    arguments = columns([(logit, log_c, k, n) for k in range(n + 1)])
    assert float(torch.exp(-beta_binomial_losses(*arguments)).sum()) == pytest.approx(1, abs=1e-9)


@given(st.floats(-6, 6), st.integers(1, 30), st.data())
def test_a_boundless_concentration_is_the_binomial_distribution(logit, n, data):
    k = data.draw(st.integers(0, n))
    (z, _, right, trials) = columns([(logit, 0, k, n)])
    z.requires_grad_()
    loss = beta_binomial_losses(z, torch.tensor([1e15], dtype=torch.float64), right, trials)
    assert float(loss.detach()) == pytest.approx(-binom.logpmf(k, n, expit(logit)), abs=1e-9)
    loss.sum().backward()
    assert float(z.grad) == pytest.approx(n * expit(logit) - k, abs=1e-8)  # of n cross-entropies with the target k / n


def test_cases_by_hand():
    # A Beta(1, 1) belief is flat, so that each of n + 1 counts is as likely.
    arguments = columns([(0, math.log(2), k, 4) for k in range(5)])
    assert beta_binomial_losses(*arguments).tolist() == pytest.approx([math.log(5)] * 5, abs=1e-5)
    # One trial is a label: whatever the concentration, the cross-entropy.
    for log_c in (-3, 0, 5):
        one = beta_binomial_losses(*columns([(1.5, log_c, 1, 1)]))
        assert float(one) == pytest.approx(-math.log(expit(1.5)), abs=1e-4)
    assert beta_binomial_losses(*columns([(1.5, 0, 0, 0)])).tolist() == [0]
    assert len(beta_binomial_losses(*(torch.zeros(0),) * 4)) == 0
    # |3/4 - 1/2| * 8
    assert float(overconfidence(*columns([(math.log(3), math.log(8), 1, 2)]))) == pytest.approx(2)
    assert float(pair_losses(torch.tensor([0, math.log(3)]), torch.tensor([1]), torch.tensor([0]))) == pytest.approx(
        math.log(4 / 3)
    )


def test_saturated_means_give_finite_losses_and_gradients():
    for z, k in ((200.0, 0.0), (-200.0, 8.0), (1e4, 3.0)):
        logits, c = torch.tensor([z], requires_grad=True), torch.tensor([1e-3], requires_grad=True)
        loss = beta_binomial_losses(logits, c, torch.tensor([k]), torch.tensor([8.0]))
        loss.sum().backward()
        assert bool(loss.isfinite().all() and logits.grad.isfinite().all() and c.grad.isfinite().all())


def test_gradients_equal_finite_differences():
    logits, c, k, n = columns([(0.3, 1, 2, 5), (-2, -2, 0, 3), (4, 3, 7, 8), (0, 0, 0, 0)])
    assert torch.autograd.gradcheck(
        lambda z, x: beta_binomial_losses(z, x, k, n), (logits.requires_grad_(), c.requires_grad_())
    )
    assert torch.autograd.gradcheck(
        lambda x: overconfidence(logits[:3], x, k[:3], n[:3]), (c[:3].detach().requires_grad_(),)
    )
    assert not overconfidence(logits, c.detach(), k, n).requires_grad  # nothing reaches the mean
    values = torch.randn(5, dtype=torch.float64, requires_grad=True)
    better, worse = torch.tensor([0, 1, 4, 0]), torch.tensor([1, 2, 3, 3])
    assert torch.autograd.gradcheck(lambda v: pair_losses(v, better, worse), (values,))


@given(st.lists(st.floats(-40, 40), min_size=2, max_size=8), st.floats(-5, 5), st.data())
def test_pairs_have_the_loss_of_a_slow_loop_and_no_level(values, level, data):
    index = st.integers(0, len(values) - 1)
    pairs = data.draw(st.lists(st.tuples(index, index), min_size=1, max_size=12))
    better, worse = (torch.tensor([pair[i] for pair in pairs]) for i in (0, 1))
    v = torch.tensor(values, dtype=torch.float64)
    slow = [float(np.logaddexp(0, values[j] - values[i])) for i, j in pairs]
    assert pair_losses(v, better, worse).tolist() == pytest.approx(slow, abs=1e-12)
    assert pair_losses(v + level, better, worse).tolist() == pytest.approx(slow, abs=1e-9)
    found = pair_metrics(v.numpy(), better.numpy(), worse.numpy())
    order = [1 if values[i] > values[j] else 0.5 if values[i] == values[j] else 0 for i, j in pairs]
    assert found == pytest.approx({"loss": np.mean(slow), "pair_accuracy": np.mean(order)})


def test_what_is_measured_of_counts():
    arguments = columns([(2, 0, 3, 4), (-1, 1, 1, 4), (0.5, 2, 0, 2)])
    found = count_metrics(*(one.numpy() for one in arguments))
    assert found["loss"] == pytest.approx(scipy_losses(*arguments).mean())
    assert found["concentration"] == pytest.approx(np.mean(np.exp([0, 1, 2])))
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["brier"] == pytest.approx(np.mean((expit([2, -1, 0.5]) - [0.75, 0.25, 0]) ** 2))
