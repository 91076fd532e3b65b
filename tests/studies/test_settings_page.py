from __future__ import annotations

import pytest
from support_studies import row

from prmbench.studies.runs import StudyRun
from prmbench.studies.settings import SEARCHED_POLICIES, SEARCHED_REWARD_MODELS
from prmbench.studies.settings_page import chosen_policy_rate, chosen_rates, paragraphs

MODELS = [StudyRun("reward model", name) for name in SEARCHED_REWARD_MODELS]
TRAINED = [StudyRun("policy", name) for name in SEARCHED_POLICIES]


@pytest.fixture
def searched():
    return {run: [row(run, 100)] for run in (*MODELS, *TRAINED)}


def test_the_highest_auc_and_the_highest_average_are_chosen(searched):
    """By hand: every objective's second rate, and the policies' third, are made the best."""
    for i, run in enumerate(MODELS):
        searched[run][0]["auc_final"] = 0.9 if i % 3 == 1 else 0.5
    for i, run in enumerate(TRAINED):
        searched[run][0]["right"] = [6] * 20 if i == 3 else [3] * 20
    searched[TRAINED[0]][0]["right"] = [8] * 20  # the SFT policy has no rate, so it is never chosen
    assert chosen_rates(searched) == dict.fromkeys(("ipvrm", "implicit_prm", "dpo", "q_rm"), 3e-4)
    assert chosen_policy_rate(searched) == SEARCHED_POLICIES[TRAINED[3].name].learning_rate
    text = "\n".join(paragraphs(searched))
    assert text.count("| chosen |") == 5
    assert "| GRPO w/ VR | 0.0004 | 75.0 | chosen |" in text
