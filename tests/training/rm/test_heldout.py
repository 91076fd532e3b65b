from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support_training import TRAINED

from prmbench.reward_models.objectives import OBJECTIVES
from prmbench.training.rm.heldout import final_values, held_out_metrics
from prmbench.training.rm.losses import find_loss

VALUES = [np.array(v) for v in ([0.3, -0.1], [-0.2], [0.1, 0.1, 0.1], [0.2, 0.2])]


def test_final_values_by_convention():
    assert final_values(VALUES, OBJECTIVES.find("ipvrm"), 10.0) == pytest.approx([1.0, -2.0, 1.0, 2.0])
    assert final_values(VALUES, OBJECTIVES.find("dpo"), 10.0) == pytest.approx([2.0, -2.0, 3.0, 4.0])
    assert final_values(VALUES, OBJECTIVES.find("q_rm"), 2.0) == pytest.approx([0.2, -0.4, 0.2, 0.4])


def test_hand_worked():
    found = held_out_metrics(VALUES, OBJECTIVES.find("ipvrm"), 10.0, 0.0)
    assert found["pair_accuracy"] == 0.5  # 1 > -2, but 1 < 2
    assert found["auc"] == 0.5  # 1 against -2 and 2, twice
    # Prefixes on the right side of 0: both of row 0, row 1's, all of row 2, none of row 3.
    assert found["prefix_accuracy"] == pytest.approx(3 / 4)
    sequences = [10 * np.cumsum(v) / np.arange(1, len(v) + 1) for v in VALUES]
    p = [1 / (1 + np.exp(-v)) for v in sequences]
    per_row = [np.mean((q - (i % 2 == 0)) ** 2) for i, q in enumerate(p)]
    assert found["prefix_brier"] == pytest.approx(np.mean(per_row))
    assert found["prefix_brier"] == found["prefix_brier_naive"]  # no margin, one link
    assert found["final_brier"] == pytest.approx(np.mean([(q[-1] - (i % 2 == 0)) ** 2 for i, q in enumerate(p)]))


@pytest.mark.parametrize("name", TRAINED)
def test_loss_is_the_objectives(name):
    spec = OBJECTIVES.find(name)
    margin = spec.margin or 0.0
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0]]).bool()
    values = torch.zeros(4, 3, dtype=torch.float64)
    for i, v in enumerate(VALUES):
        values[i, : len(v)] = torch.from_numpy(v)
    wanted = find_loss(spec)(values, mask, torch.tensor([True, False, True, False]), 3.0, margin).mean()
    found = held_out_metrics(VALUES, spec, 3.0, margin)
    assert found["loss"] == pytest.approx(float(wanted))
    assert ("final_ece" in found) == ("prefix_accuracy" in found) == spec.is_logit


def test_a_margin_moves_the_link():
    # Every response at the optimum of p = 0.6 for m = 5: calibrated by its own link, far off by the plain sigmoid.
    v = np.log(0.987 / 0.013) / 10
    found = held_out_metrics([np.array([v])] * 2, OBJECTIVES.find("ipvrm"), 10.0, 5.0)
    assert found["final_ece"] == pytest.approx(abs(0.6 - 0.5), abs=3e-3)
    assert found["final_ece_naive"] == pytest.approx(0.487, abs=1e-3)
    assert found["loss"] > math.log(2)
