from __future__ import annotations

import pytest
from support_studies import row

from prmbench.studies.runs import StudyRun
from prmbench.studies.settings import SEARCHED_POLICIES, SEARCHED_REWARD_MODELS
from prmbench.studies.settings_page import chosen_gae_weight, chosen_policy_rate, chosen_rates, paragraphs

MODELS = [StudyRun("reward model", name) for name in SEARCHED_REWARD_MODELS]
TRAINED = [StudyRun("policy", name) for name in SEARCHED_POLICIES]


@pytest.fixture
def searched():
    return {run: [row(run, 100)] for run in (*MODELS, *TRAINED)}


def test_what_is_chosen(searched):
    """By hand: 1e-3 has the highest AUC, or one within a standard error of it; GRPO leaves room at two rates; 0.3 is best."""
    for run in MODELS:
        rate = SEARCHED_REWARD_MODELS[run.name].learning_rate
        searched[run][0]["auc_final"] = {3e-4: 0.894, 1e-3: 0.9, 3e-3: 0.904}.get(rate, 0.5)
    for run, right in zip(TRAINED, (3, 5, 6, 7, 5, 6, 4), strict=True):
        searched[run][0]["right"] = [right] * 20
    assert chosen_rates(searched) == dict.fromkeys(("ipvrm", "implicit_prm", "dpo", "q_rm"), 1e-3)
    assert chosen_policy_rate(searched) == 2e-4
    assert chosen_gae_weight(searched) == 0.3
    text = "\n".join(paragraphs(searched))
    assert text.count("| chosen |") == 6
    assert "| GRPO w/ VR | 0.0002 |  | 75.0 | chosen |" in text
    assert "| GRPO w/ IPVRM | 0.0001 | 0.3 | 75.0 | chosen |" in text
