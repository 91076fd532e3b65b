"""The policy that ships is in the paper's regime: the figures that the world was tuned on."""

from __future__ import annotations

import pytest

from prmbench.data.prompts import find_prompt
from prmbench.miniature.build import PROMPT, Build, train_policy
from prmbench.miniature.split_data import sample_split
from prmbench.miniature.targets import CANDIDATES, EXCESS, PASS_RATE, measure_regime
from prmbench.policies.policy import load_policy


@pytest.fixture(scope="module")
def regime(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        build = Build()
        policy = train_policy(build)
        _, rollouts = sample_split(build, policy, "test", 600, 4)
        yield measure_regime(build, load_policy(str(policy), find_prompt(PROMPT)), rollouts)


@pytest.mark.slow
def test_the_policy_is_where_the_paper_is(regime):
    assert PASS_RATE[0] <= regime.pass_rate <= PASS_RATE[1]
    for p_min, size in CANDIDATES.items():
        assert regime.candidates[p_min] == pytest.approx(size, abs=0.1)
    assert 30 <= regime.length <= 80
    assert regime.malformed < 0.05
    assert -0.005 <= regime.excess < EXCESS


@pytest.mark.slow
def test_choices_and_results_have_value_and_synonyms_have_none(regime):
    assert regime.spread["strategy"] > 0.03
    assert regime.spread["result"] > 0.1
    assert regime.spread["synonym"] == 0.0
