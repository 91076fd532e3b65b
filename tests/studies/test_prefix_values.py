from __future__ import annotations

import numpy as np
import pytest

from prmbench.data.prompts import find_prompt
from prmbench.data.verdicts import Verdict
from prmbench.engines.sampling import Request, SamplingParams
from prmbench.miniature.build import MAX_NEW_TOKENS, PROMPT, Build, train_policy
from prmbench.miniature.split_data import sample_split
from prmbench.policies.policy import load_policy
from prmbench.studies import prefix_values
from prmbench.studies.prefix_values import Beginning, count_right, sample_prefix_values
from prmbench.verify import verify

STYLE = find_prompt(PROMPT).style


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    """The policy that ships and rollouts of six problems."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        folder = train_policy(Build())
        rollouts = sample_split(Build(), folder, "test", 6, 2)[1]
        yield load_policy(str(folder), find_prompt(PROMPT)), rollouts


def prefix_of(policy, rollout, t: int) -> Beginning:
    prompt = policy.encoder.prompt_ids(find_prompt(PROMPT).render(rollout.problem))
    return Beginning(prompt, rollout.ids[:t], rollout.answer, f"{rollout.id}:{t}")


def test_right_continuations_are_counted_as_one_by_one(sampled, monkeypatch):
    policy, rollouts = sampled
    monkeypatch.setattr(prefix_values, "CONTINUATIONS", 3)
    prefixes = [prefix_of(policy, one, 3) for one in rollouts]
    counted = []
    for one in prefixes:
        right = 0
        for k in range(3):
            request = Request(np.concatenate([one.prompt, one.start]), one.key, k)
            params = SamplingParams(max_new_tokens=MAX_NEW_TOKENS)
            [end] = policy.engine.generate([request], policy.stop, params, 5)
            text = policy.encoder.tokenizer.decode([*one.start, *end.ids], skip_special_tokens=True)
            right += verify([text], [one.answer], style=STYLE) == [Verdict.CORRECT]
        counted.append(right)
    assert count_right(policy, prefixes, 5).tolist() == counted
    assert 0 < sum(counted) < 3 * len(prefixes)  # both outcomes are seen


def test_a_whole_solution_is_worth_what_it_says(sampled):
    policy, rollouts = sampled
    found = count_right(policy, [prefix_of(policy, one, len(one.ids) - 1) for one in rollouts], 0)
    outcomes = [one.verdict == Verdict.CORRECT for one in rollouts]
    assert {*outcomes} == {True, False}
    for right, outcome in zip(found, outcomes, strict=True):
        assert right >= 31 if outcome else right <= 1


def test_a_continuation_that_is_cut_off_is_wrong(sampled, monkeypatch):
    policy, rollouts = sampled
    right = next(one for one in rollouts if one.verdict == Verdict.CORRECT)
    monkeypatch.setattr(prefix_values, "MAX_NEW_TOKENS", 1)
    whole, all_but_one = len(right.ids) - 1, len(right.ids) - 2
    found = count_right(policy, [prefix_of(policy, right, t) for t in (whole, all_but_one)], 0)
    assert found[0] >= 31  # the end of turn is the one token
    assert found[1] == 0  # the answer is there, its end is not


def test_prefixes_are_of_different_problems_and_inside_the_solution(sampled, monkeypatch):
    policy, rollouts = sampled
    monkeypatch.setattr(prefix_values, "CONTINUATIONS", 1)
    found = sample_prefix_values(policy, rollouts, seed=1, name="test")
    firsts = [i for i, one in enumerate(rollouts) if one.sample == 0]
    assert sorted({one.rollout for one in found}) == firsts
    assert len(found) == prefix_values.PREFIXES_EACH * len(firsts)
    assert all(1 <= one.t < len(rollouts[one.rollout].ids) for one in found)
    assert {(one.rollout, one.t) for one in found} != {
        (one.rollout, one.t) for one in sample_prefix_values(policy, rollouts, seed=1, name="other")
    }
