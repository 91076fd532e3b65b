"""Advantages against slow loops of the printed equations, in plain Python floats, and by properties."""

from __future__ import annotations

import itertools
import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prmbench.training.rl.advantages import (
    gae,
    gae_size,
    leave_one_out,
    normalise_by_group,
    outcome_advantage,
    prefix_values,
    prime_advantage,
    reinforce_reward,
    scaled_td,
    spro_advantage,
    value_spread,
    whiten,
)
from prmbench.training.rl.methods import Algorithm, ScoredBatch, compute_advantages

DOUBLE = torch.float64


@st.composite
def batches(draw, min_groups=1):
    """(values of each row, rewards, groups): rows of different lengths, 1 to 4 prompts of 1 to 4 rollouts, prompts interleaved."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=min_groups, max_size=4))
    groups = draw(st.permutations([g for g, size in enumerate(sizes) for _ in range(size)]))
    number = st.floats(-5, 5, allow_nan=False).map(lambda x: round(x, 3))
    rows = [draw(st.lists(number, min_size=1, max_size=6)) for _ in groups]
    rewards = [float(draw(st.booleans())) for _ in groups]
    return rows, rewards, list(groups)


def pad(rows, filler=float("nan")):
    """(values, mask), with something in the padding that must not leak."""
    width = max(map(len, rows)) + 1
    values = torch.full((len(rows), width), filler, dtype=DOUBLE)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, row in enumerate(rows):
        values[i, : len(row)] = torch.tensor(row, dtype=DOUBLE)
        mask[i, : len(row)] = True
    return values, mask


def unpad(found, rows):
    assert torch.isfinite(found).all()
    for i, row in enumerate(rows):
        assert (found[i, len(row) :] == 0).all()
    return [found[i, : len(row)].tolist() for i, row in enumerate(rows)]


def tensors(rewards, groups):
    return torch.tensor(rewards, dtype=DOUBLE), torch.tensor(groups)


def close(found, wanted):
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-9, abs=1e-9)


def of_group(groups, g):
    return [i for i, other in enumerate(groups) if other == g]


def slow_outcome(rewards, groups):
    out = []
    for reward, g in zip(rewards, groups, strict=True):
        mine = [rewards[i] for i in of_group(groups, g)]
        std = statistics.pstdev(mine)
        out.append((reward - statistics.fmean(mine)) / std if std else 0.0)
    return out


def slow_standardise(rows, groups):
    out = []
    for row, g in zip(rows, groups, strict=True):
        tokens = list(itertools.chain.from_iterable(rows[i] for i in of_group(groups, g)))
        mean, std = statistics.fmean(tokens), statistics.pstdev(tokens)
        out.append([(x - mean) / std if len(set(tokens)) > 1 else 0.0 for x in row])
    return out


def slow_gae(row, gamma, lam):
    return [sum((gamma * lam) ** (i - t) * row[i] for i in range(t, len(row))) for t in range(len(row))]


@settings(deadline=None)
@given(batches())
def test_outcome_advantage_is_the_equation(batch):
    _, rewards, groups = batch
    close([outcome_advantage(*tensors(rewards, groups)).tolist()], [slow_outcome(rewards, groups)])


def test_outcome_advantage_by_hand():
    found = outcome_advantage(*tensors([1, 0, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1]))
    third = 1 / math.sqrt(3)
    assert found.tolist() == pytest.approx([3 * third, -third, -third, -third, 0, 0])


@settings(deadline=None)
@given(batches())
def test_leave_one_out_is_the_mean_of_the_others(batch):
    _, rewards, groups = batch
    wanted = []
    for i, g in enumerate(groups):
        others = [rewards[j] for j in of_group(groups, g) if j != i]
        wanted.append(rewards[i] - statistics.fmean(others) if others else 0.0)
    close([leave_one_out(*tensors(rewards, groups)).tolist()], [wanted])


@settings(deadline=None)
@given(batches())
def test_td_standardised_over_the_tokens_of_a_prompt(batch):
    rows, _, groups = batch
    values, mask = pad(rows)
    close(unpad(normalise_by_group(values, mask, torch.tensor(groups)), rows), slow_standardise(rows, groups))


@settings(deadline=None)
@given(batches(), st.sampled_from([(1.0, 1.0), (0.9, 0.8), (0.0, 1.0)]))
def test_gae_is_the_discounted_sum(batch, discounts):
    rows, _, _ = batch
    values, mask = pad(rows)
    close(unpad(gae(values, mask, *discounts), rows), [slow_gae(row, *discounts) for row in rows])


def test_the_size_of_gae_at_a_real_length():
    """At 900 tokens |GAE| is some 16 times the outcome advantage, if token values are noise."""
    values = torch.randn(256, 900, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    mask, groups = torch.ones(256, 900, dtype=torch.bool), torch.arange(64).repeat_interleave(4)
    rewards = torch.tensor([1.0, 0, 0, 0] * 64, dtype=DOUBLE)
    found = compute_advantages(Algorithm(), ScoredBatch(rewards, groups, mask, values, 10.0))
    assert float(found.gae.abs().mean()) == pytest.approx(gae_size(900), rel=0.1)
    assert gae_size(900) == pytest.approx(16, abs=0.1)
    assert float(found.outcome.abs().mean()) == pytest.approx(math.sqrt(3) / 2)


def test_gae_without_discount_is_the_suffix_sum():
    values, mask = pad([[1.0, 2.0, 3.0], [5.0]])
    assert unpad(gae(values, mask, 1.0, 1.0), [[0] * 3, [0]]) == [[6.0, 5.0, 3.0], [5.0]]


@settings(deadline=None)
@given(batches())
def test_value_spread_and_prefix_values(batch):
    rows, _, _ = batch
    values, mask = pad(rows)
    v = [[0.7 * sum(row[: t + 1]) for t in range(len(row))] for row in rows]
    close(unpad(prefix_values(values, mask, 0.7), rows), v)
    every = list(itertools.chain.from_iterable(v))
    wanted = statistics.pstdev(every) if max(every) - min(every) > 1e-9 else 0.0
    assert float(value_spread(values, mask, 0.7)) == pytest.approx(wanted, abs=1e-9)


@settings(deadline=None)
@given(batches(), st.sampled_from([0.05, 1.0, 10.0]))
def test_grpo_with_a_reward_model_is_eq_13(batch, beta):
    rows, rewards, groups = batch
    values, mask = pad(rows)
    found = compute_advantages(Algorithm(gae_weight=0.5), ScoredBatch(*tensors(rewards, groups), mask, values, beta))
    scaled = normalise_or_zero(rows, groups, beta)
    outcome = slow_outcome(rewards, groups)
    wanted = [[o + 0.5 * x for x in slow_gae(row, 1, 1)] for o, row in zip(outcome, scaled, strict=True)]
    close(unpad(found.total, rows), wanted)


def normalise_or_zero(rows, groups, beta):
    every = [beta * sum(row[: t + 1]) for row in rows for t in range(len(row))]
    if max(every) == min(every):
        return [[0.0] * len(row) for row in rows]
    sigma = statistics.pstdev(every)
    return slow_standardise([[beta * x / sigma for x in row] for row in rows], groups)


@settings(deadline=None)
@given(batches(min_groups=2))
def test_beta_cancels_in_both_branches(batch):
    rows, rewards, groups = batch
    values, mask = pad(rows)
    found = [
        compute_advantages(Algorithm(method="distrl"), ScoredBatch(*tensors(rewards, groups), mask, values, beta))
        for beta in (0.05, 10.0)
    ]
    torch.testing.assert_close(found[0].total, found[1].total, rtol=1e-7, atol=1e-7)
    candidates = torch.tensor([-2.0, 0.1, 3.0], dtype=DOUBLE)
    scaled = [scaled_td(candidates, one.sigma, beta) for one, beta in zip(found, (0.05, 10.0), strict=True)]
    torch.testing.assert_close(scaled[0], scaled[1], rtol=1e-9, atol=1e-9)


def test_a_model_that_equals_its_reference_adds_nothing():
    values, mask = pad([[0.0, 0.0], [0.0]])
    found = compute_advantages(Algorithm(method="distrl"), ScoredBatch(*tensors([1, 0], [0, 0]), mask, values, 10.0))
    assert unpad(found.total, [[0, 0], [0]]) == [[1.0, 1.0], [-1.0]]
    assert float(found.sigma) == 0
    assert scaled_td(torch.tensor([3.0]), found.sigma, 10.0).tolist() == [0.0]


def slow_released(rows, rewards, groups, beta):
    """(advantages, sigma_V, GAE before it is whitened) of the released code, in floats."""
    td = [[beta * x for x in row[:-1]] + [0.0] for row in rows]  # the last token has no reward
    values = [sum(row[: t + 1]) for row in td for t in range(len(row))]
    if max(values) == min(values):
        return None
    sigma = statistics.pstdev(values)
    mean = statistics.fmean(itertools.chain.from_iterable(td))
    sums = [slow_gae([(x - mean) / sigma for x in row], 1, 1) for row in td]
    white = slow_standardise(sums, [0] * len(sums))
    outcome = slow_outcome(rewards, groups)
    return [[o + 0.05 * x for x in row] for o, row in zip(outcome, white, strict=True)], sigma, sums


@settings(deadline=None)
@given(batches())
def test_released_preset(batch):
    """The last token's TD is 0 before sigma_V and the mean are taken; centred, scaled, summed, whitened, times 0.05."""
    rows, rewards, groups = batch
    values, mask = pad(rows)
    scored = ScoredBatch(*tensors(rewards, groups), mask, values, 2.0)
    found = compute_advantages(Algorithm(method="distrl", preset="released"), scored)
    slow = slow_released(rows, rewards, groups, 2.0)
    if slow is None:
        assert float(found.sigma) == 0
        return
    wanted, sigma, sums = slow
    assert float(found.sigma) == pytest.approx(sigma, rel=1e-9)
    spread = list(itertools.chain.from_iterable(sums))
    if max(spread) - min(spread) > 1e-6:
        close(unpad(found.total, rows), wanted)


def test_released_preset_does_not_see_the_last_token():
    """A log-ratio at the end of turn is never learnt from, and must move nothing."""
    rows = [[0.2, -0.1, 0.4], [0.3, 0.1]]
    found = []
    for end in (0.0, 1.0):
        values, mask = pad([[*row[:-1], row[-1] + end] for row in rows])
        scored = ScoredBatch(*tensors([1, 0], [0, 0]), mask, values, 10.0)
        found.append(compute_advantages(Algorithm(method="distrl", preset="released"), scored))
    assert torch.equal(found[0].total, found[1].total)
    assert torch.equal(found[0].sigma, found[1].sigma)


def slow_prime(rows, rewards, groups, beta):
    scores = [[beta * x for x in row[:-1]] + [0.0] for row in rows]
    largest = max(abs(sum(row[t:])) for row in scores for t in range(len(row)))
    scores = [[x / largest if largest else x for x in row] for row in scores]
    means = [statistics.fmean(row) for row in scores]
    totals = []
    for i, (row, g) in enumerate(zip(scores, groups, strict=True)):
        mine = of_group(groups, g)
        n = len(mine)
        if n == 1:
            totals.append([0.0] * len(row))
            continue
        baseline = sum(means[j] for j in mine) / (n - 1)
        process = [x * n / (n - 1) - baseline for x in row]
        outcome = rewards[i] - statistics.fmean(rewards[j] for j in mine if j != i)
        reward = [5 * x for x in process]
        reward[-1] += 5 * outcome
        totals.append(slow_gae(reward, 1, 1))
    return slow_standardise(totals, [0] * len(totals)), totals


@settings(deadline=None)
@given(batches())
def test_prime(batch):
    rows, rewards, groups = batch
    values, mask = pad(rows)
    wanted, raw = slow_prime(rows, rewards, groups, 0.05)
    spread = list(itertools.chain.from_iterable(raw))
    found = prime_advantage(values, mask, *tensors(rewards, groups), 0.05)
    if max(spread) - min(spread) > 1e-6:
        close(unpad(found, rows), wanted)


def test_prime_by_hand():
    """Two rollouts of one prompt, no process reward: outcomes against each other, +5 and -5, whitened."""
    values, mask = pad([[0.0, 0.0], [0.0, 0.0]])
    found = prime_advantage(values, mask, *tensors([1, 0], [0, 0]), 0.05)
    assert unpad(found, [[0, 0], [0, 0]]) == [pytest.approx([1, 1]), pytest.approx([-1, -1])]


@settings(deadline=None)
@given(batches())
def test_spro(batch):
    rows, rewards, groups = batch
    values, mask = pad(rows)
    sums = [[0.3 * sum(row[: t + 1]) for t in range(len(row))] for row in rows]
    outcome = slow_outcome(rewards, groups)
    wanted = []
    for i, row in enumerate(sums):
        alive = [[sums[j][t] for j in of_group(groups, groups[i]) if len(sums[j]) > t] for t in range(len(row))]
        wanted.append([outcome[i] + x - statistics.fmean(alive[t]) for t, x in enumerate(row)])
    close(unpad(spro_advantage(values, mask, *tensors(rewards, groups), 0.3), rows), wanted)


@settings(deadline=None)
@given(batches())
def test_reinforce_rewards(batch):
    rows, _, _ = batch
    values, mask = pad(rows)
    raw = [[*row[:-1], statistics.fmean(row)] for row in rows]
    every = list(itertools.chain.from_iterable(rows))  # the last token's own value counts in the standard deviation
    found = unpad(reinforce_reward(values, mask), rows)
    if max(every) - min(every) > 1e-6:
        std = statistics.pstdev(every)
        close(found, [[x / std for x in row] for row in raw])


def test_whitening_a_constant_gives_nothing():
    values, mask = pad([[0.1, 0.1, 0.1], [0.1]])
    assert (whiten(values, mask) == 0).all()


def test_values_that_are_missing():
    rewards, groups = tensors([1, 0], [0, 0])
    mask = torch.ones(2, 3, dtype=torch.bool)
    for method in ("distrl", "prime", "spro", "reinforce"):
        with pytest.raises(ValueError, match="needs token values"):
            compute_advantages(Algorithm(method=method), ScoredBatch(rewards, groups, mask, None, 1.0))
    plain = compute_advantages(Algorithm(), ScoredBatch(rewards, groups, mask, None, 1.0))
    assert plain.total.tolist() == [[1.0] * 3, [-1.0] * 3]
