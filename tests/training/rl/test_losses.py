"""Surrogates, candidate sets, balancing: slow loops, properties, finite differences."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prmbench.errors import UserError
from prmbench.reward_models.card import Card
from prmbench.reward_models.objectives import OBJECTIVES
from prmbench.training.data.pairs import Response
from prmbench.training.rl.balance import (
    OnlineObjective,
    check_update,
    clamped_accuracy,
    minibatch_rows,
    outcome_pairs,
    zipped_pairs,
)
from prmbench.training.rl.candidates import likely_tokens, released_candidates
from prmbench.training.rl.loss import Tokens, candidate_weights, is_clipped, policy_loss, surrogate, token_weights
from prmbench.training.rl.methods import Algorithm, Clip
from prmbench.training.rl.micro import make_micro

DOUBLE = torch.float64
number = st.floats(-3, 3, allow_nan=False).map(lambda x: round(x, 4))


def vector(values):
    return torch.tensor(values, dtype=DOUBLE)


@settings(deadline=None)
@given(st.lists(st.tuples(number, number, number), min_size=1, max_size=8), st.sampled_from([None, 3.0]))
def test_surrogate_is_the_equation(rows, dual):
    """-min(rho A, clip(rho) A), in floats; with a dual clip no less than c A for A < 0."""
    clip = Clip(0.2, 0.28, dual)
    new, old, advantage = (vector(column) for column in zip(*rows, strict=True))
    wanted = []
    for n, o, a in rows:
        rho = math.exp(n - o)
        gain = min(rho * a, min(max(rho, 0.8), 1.28) * a)
        wanted.append(-(max(gain, dual * a) if dual is not None and a < 0 else gain))
    assert surrogate(new, old, advantage, clip).tolist() == pytest.approx(wanted, rel=1e-12)
    if dual is None:  # a candidate's term is weighted by its pi_old
        weighted = math.fsum(math.exp(o) * x for (_, o, _), x in zip(rows, wanted, strict=True))
        one = torch.ones_like(new)
        tokens = Tokens(old, advantage, one)
        found = policy_loss(Algorithm(method="distrl"), new, tokens, new, tokens)
        assert float(found.candidates) == pytest.approx(weighted, rel=1e-12, abs=1e-12)
        assert float(found.sampled) == pytest.approx(math.fsum(wanted), rel=1e-12, abs=1e-12)


@settings(deadline=None)
@given(st.lists(st.tuples(number, number, number), min_size=1, max_size=8), st.sampled_from([None, 3.0]))
def test_clipped_means_no_gradient(rows, dual):
    clip = Clip(dual=dual)
    new, old, advantage = (vector(column) for column in zip(*rows, strict=True))
    new.requires_grad_()
    (gradient,) = torch.autograd.grad(surrogate(new, old, advantage, clip).sum(), new)
    held = is_clipped(new, old, advantage, clip)
    assert (gradient[held] == 0).all()
    assert (gradient[~held & (advantage != 0)] != 0).all()


def test_gradients_are_those_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    old, advantage = (torch.randn(6, generator=generator, dtype=DOUBLE) for _ in range(2))
    new = (old + 0.1 * torch.randn(6, generator=generator, dtype=DOUBLE)).requires_grad_()
    weights = torch.rand(6, generator=generator, dtype=DOUBLE)
    for method in ("grpo", "reinforce"):
        algorithm = Algorithm(method=method)

        def of_sampled(x, algorithm=algorithm):
            return policy_loss(algorithm, x, Tokens(old, advantage, weights), None, None).loss

        assert torch.autograd.gradcheck(of_sampled, (new,))
    algorithm = Algorithm(method="distrl", alpha=0.3)

    def both(x, y):
        tokens = Tokens(old, advantage, weights)
        return policy_loss(algorithm, x, tokens, y, Tokens(old[:4], advantage[:4], weights[:4])).loss

    assert torch.autograd.gradcheck(both, (new, new[:4].detach().clone().requires_grad_()))


def test_candidates_that_cover_the_vocabulary_are_the_exact_expectation():
    """Dist-PPO over all tokens equals the expectation of Tok-PPO with TD advantages over what could have been sampled."""
    generator = torch.Generator().manual_seed(1)
    states, vocabulary = 3, 5
    log_old = torch.randn(states, vocabulary, generator=generator, dtype=DOUBLE).log_softmax(-1)
    log_new = torch.randn(states, vocabulary, generator=generator, dtype=DOUBLE).log_softmax(-1)
    td = torch.randn(states, vocabulary, generator=generator, dtype=DOUBLE)
    where, tokens = likely_tokens(log_old, 1e-9)
    assert len(where) == states * vocabulary
    weights = token_weights(torch.ones(1, states, dtype=torch.bool), "sequence", DOUBLE)[0]
    candidates = Tokens(log_old[where, tokens], td[where, tokens], weights[where])
    nothing = Tokens(log_old[:, 0], torch.zeros(states, dtype=DOUBLE), weights)
    found = policy_loss(
        Algorithm(method="distrl", alpha=1.0), log_new[:, 0], nothing, log_new[where, tokens], candidates
    )
    expected = 0.0
    for t in range(states):
        for y in range(vocabulary):
            rho, a = math.exp(log_new[t, y] - log_old[t, y]), float(td[t, y])
            one_sample = -min(rho * a, min(max(rho, 0.8), 1.28) * a)
            expected += math.exp(log_old[t, y]) * one_sample / states
    assert float(found.loss) == pytest.approx(expected, rel=1e-12)
    assert float(found.candidates) == float(found.loss)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.05, 0.1, 0.2, 0.5]))
def test_candidate_set_is_over_the_whole_vocabulary(seed, p_min):
    logits = 3 * torch.randn(4, 12, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    p = logits.softmax(-1)
    where, tokens = likely_tokens(logits.log_softmax(-1), p_min)
    wanted = {(s, y) for s in range(4) for y in range(12) if p[s, y] >= p_min}
    assert set(zip(where.tolist(), tokens.tolist(), strict=True)) == wanted
    assert all((where == s).sum() <= 1 / p_min for s in range(4))
    assert where.tolist() == sorted(where.tolist())


def test_no_token_is_likely_enough():
    where, tokens = likely_tokens(torch.full((2, 20), math.log(1 / 20)), 0.1)
    assert len(where) == len(tokens) == 0


@settings(deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.05, 0.1]))
def test_released_candidates(seed, p_min):
    """The five likeliest tokens with the sampled one forced among them in the place of the last.

    Of these, the sampled one and those strictly above P_min.
    """
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(4, 12, generator=generator, dtype=DOUBLE)
    sampled = torch.randint(12, (4,), generator=generator)
    p = logits.softmax(-1)
    found = list(zip(*(x.tolist() for x in released_candidates(logits.log_softmax(-1), sampled, p_min)), strict=True))
    wanted = set()
    for s in range(4):
        best = sorted(range(12), key=lambda y, s=s: -p[s, y])[:5]
        if int(sampled[s]) not in best:
            best = [int(sampled[s]), *best[:4]]
        wanted |= {(s, y) for y in best if p[s, y] > p_min or y == int(sampled[s])}
    assert set(found) == wanted
    assert len(found) == len(wanted)


@pytest.mark.parametrize(("preset", "without"), [("paper", [2]), ("released", [2, 4])])
def test_where_there_are_no_candidates(preset, without):
    """The paper's rule leaves out the end of turn (token 7); the released code every rollout's last token, of a cut one too."""
    rows = [Response(np.array([1, 3, 4, 7]), 1), Response(np.array([1, 5, 6]), 1)]
    micro = make_micro([0, 1], rows, teaches=True, dist=True, device="cpu")
    ends = micro.ends(Algorithm(method="distrl", preset=preset), torch.tensor([7]))
    assert ends.nonzero()[:, 0].tolist() == without


def test_weights():
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert token_weights(mask, "sequence").tolist() == [[0.25, 0.25, 0], [0.5, 0, 0]]
    assert token_weights(mask, "token").flatten().tolist() == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3, 0, 0])
    of_token, where = torch.tensor([0.1, 0.2]), torch.tensor([0, 0, 1])
    assert candidate_weights(Algorithm(), of_token, where, torch.tensor(1.6)).tolist() == pytest.approx([0.1, 0.1, 0.2])
    released = candidate_weights(Algorithm(preset="released"), of_token, where, torch.tensor(1.6))
    assert released.tolist() == pytest.approx([1 / 1.6] * 3)


BATCH = {
    "values": [[0.3, -0.2, 0.5], [0.1], [-0.4, 0.2], [0.6, 0.1, -0.3], [0.2, 0.2], [-0.1]],
    "correct": [True, False, False, True, True, False],
    "groups": [0, 0, 0, 1, 1, 1],
}


def online(objective, update, batch=None, **options):
    rows, correct, groups = batch or (BATCH["values"], BATCH["correct"], BATCH["groups"])
    values = torch.full((len(rows), 3), float("nan"), dtype=DOUBLE)
    mask = torch.zeros(len(rows), 3, dtype=torch.bool)
    for i, row in enumerate(rows):
        values[i, : len(row)], mask[i, : len(row)] = vector(row), True
    spec = OBJECTIVES.find(objective)
    made = OnlineObjective(spec, 2.0, 0.0 if spec.margin is None else 0.5, update, **options)
    return made.loss(values, mask, torch.tensor(correct), torch.tensor(groups))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("update", ["naive", "dlw", "adb", "dlw+adb"])
@pytest.mark.parametrize("objective", ["ipvrm", "implicit_prm"])
def test_online_loss_is_eq_15(objective, update):
    total = 0.0
    for row, right, group in zip(BATCH["values"], BATCH["correct"], BATCH["groups"], strict=True):
        mu = {0: 1 / 3, 1: 2 / 3}[group]
        shift = math.log(mu / (1 - mu)) if "adb" in update else 0.0
        weight = ((1 - mu) if right else mu) if "dlw" in update else 1.0
        if objective == "ipvrm":
            v = [2.0 * sum(row[: t + 1]) / (t + 1) + shift for t in range(len(row))]
            terms = [math.log(sigmoid(x - 0.5)) if right else math.log(1 - sigmoid(x + 0.5)) for x in v]
        else:
            x = 2.0 * sum(row) + shift
            terms = [math.log(sigmoid(x)) if right else math.log(1 - sigmoid(x))]
        total -= weight * sum(terms) / len(terms)
    assert float(online(objective, update)) == pytest.approx(total / 6, rel=1e-12)


def test_online_dpo_is_over_every_pair_of_a_prompt():
    sums = [2.0 * sum(row) for row in BATCH["values"]]
    first = [-math.log(sigmoid(sums[0] - sums[j])) for j in (1, 2)]
    second = [-math.log(sigmoid(sums[i] - sums[5])) for i in (3, 4)]
    wanted = (sum(first) / 2 + sum(second) / 2) / 2
    assert float(online("dpo", "naive")) == pytest.approx(wanted, rel=1e-12)
    pairs = outcome_pairs(torch.tensor(BATCH["correct"]), torch.tensor(BATCH["groups"]))
    assert pairs.tolist() == [[0, 1], [0, 2], [3, 5], [4, 5]]


@pytest.mark.parametrize("update", ["naive", "dlw", "adb", "dlw+adb"])
@pytest.mark.parametrize("objective", ["ipvrm", "implicit_prm"])
def test_released_online_loss(objective, update):
    """Weights of DLW over their mean in the prompt; a prompt that is all right or all wrong weighs nothing, but is counted."""
    rows = [*BATCH["values"], [0.4, 0.3], [0.2], [-0.2], [0.7, 0.1]]
    outcomes = [*BATCH["correct"], True, True, False, False]
    groups = [*BATCH["groups"], 2, 2, 3, 3]
    total = 0.0
    for row, right, group in zip(rows, outcomes, groups, strict=True):
        if group > 1:
            continue
        mu = {0: 1 / 3, 1: 2 / 3}[group]
        weights = [(1 - mu) if o else mu for o, g in zip(outcomes, groups, strict=True) if g == group]
        weight = ((1 - mu) if right else mu) * len(weights) / sum(weights) if "dlw" in update else 1.0
        # The released code moves the margin instead of the value: by -logit(mu) for a right response, +logit(mu) for a wrong one.
        shift = math.log(mu / (1 - mu)) if "adb" in update else 0.0
        sign = 1 if right else -1
        margin = (0.5 if objective == "ipvrm" else 0.0) - sign * shift
        v = [2.0 * sum(row[: t + 1]) / (t + 1) for t in range(len(row))] if objective == "ipvrm" else [2.0 * sum(row)]
        total -= weight * sum(math.log(sigmoid(sign * x - margin)) for x in v) / len(v)
    found = online(objective, update, batch=(rows, outcomes, groups), released=True)
    assert float(found) == pytest.approx(total / len(rows), rel=1e-12)


def test_released_online_dpo_pairs_the_first_with_the_first():
    """As many pairs as there are of the rarer outcome, and one mean over all of them."""
    rows, outcomes = [[0.3], [0.1], [-0.4], [0.6], [0.2]], [True, True, False, True, False]
    groups = [0, 0, 0, 1, 1]
    sums = [2.0 * sum(row) for row in rows]
    wanted = statistics.fmean(-math.log(sigmoid(sums[i] - sums[j])) for i, j in ((0, 2), (3, 4)))
    found = online("dpo", "naive", batch=(rows, outcomes, groups), released=True)
    assert float(found) == pytest.approx(wanted, rel=1e-12)
    assert zipped_pairs(torch.tensor(outcomes), torch.tensor(groups)).tolist() == [[0, 2], [3, 4]]
    assert float(online("dpo", "naive", batch=(rows[:2], [True, True], [0, 0]), released=True)) == 0


def test_minibatches_of_a_reward_model_are_whole_prompts():
    groups = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    assert minibatch_rows(groups, None) == [list(range(9))]
    assert minibatch_rows(groups, 7) == [[0, 1, 2, 3, 4, 5], [6, 7, 8]]
    assert minibatch_rows(groups, 1) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_accuracy_is_kept_away_from_0_and_1():
    found = clamped_accuracy(torch.tensor([True] * 4 + [False] * 2), torch.tensor([0] * 4 + [1] * 2), DOUBLE)
    assert found.tolist() == [0.875] * 4 + [0.25] * 2


def test_what_cannot_be_updated():
    with pytest.raises(UserError, match="balanced as it is"):
        OnlineObjective.of_card(Card(kind="implicit", objective="dpo"), "adb")
    with pytest.raises(UserError, match="set frozen"):
        check_update("naive", kind="q_rm")
    with pytest.raises(UserError, match="makes no implicit reward model"):
        OnlineObjective.of_card(Card(kind="implicit", objective="q_rm"), "naive")
    with pytest.raises(UserError, match="names no objective"):
        OnlineObjective.of_card(Card(kind="implicit"), "frozen")
    assert OnlineObjective.of_card(Card(kind="implicit", objective="dpo"), "naive").beta == 0.05
