"""Fixtures of policy optimisation."""

from __future__ import annotations

import pytest
import rl_driver


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """(policy folder, problems file): a random policy asked for numbers it hits now and then."""
    return rl_driver.save_world(tmp_path_factory.mktemp("rl"))


@pytest.fixture
def chosen_outcomes(monkeypatch):
    """Rollouts as sampled, but with the driver's outcomes."""
    from prmbench.training.rl.trainer import PolicyTrainer

    monkeypatch.setattr(PolicyTrainer, "_sample", rl_driver.patched(PolicyTrainer._sample))
