"""An objective from another package: one file with its meaning and its loss, one line that registers it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_rm import held_out_responses, recipe, token_values  # noqa: F401  (a fixture)

from prmbench.errors import UserError
from prmbench.reward_models.loading import load_reward_model
from prmbench.reward_models.objectives import OBJECTIVES
from prmbench.training.rm.recipe import RMRecipe
from prmbench.training.rm.run import train_rm

PACKAGE = '''
from prmbench.reward_models.objectives import Objective

SQUARES = Objective("squares", "implicit", 2.0, None, "sum", is_logit=False, loss="toy_objective:squares")
LOST = Objective("lost", "implicit", 2.0, None, "sum", is_logit=False, loss="toy_nowhere:squares")


def squares(values, mask, correct, beta, margin, shift=None):
    """(beta * sum r - 1)^2 of a correct response, (beta * sum r + 1)^2 of an incorrect one."""
    total = beta * values.masked_fill(~mask, 0.0).sum(dim=1)
    return (total - (2.0 * correct - 1)) ** 2
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "toy_objective.py").write_text(PACKAGE)
    info = tmp_path / "toy_objective-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy_objective\nVersion: 1.0\n")
    points = "[prmbench.objectives]\nsquares = toy_objective:SQUARES\nlost = toy_objective:LOST\n"
    (info / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("squares", "lost"):
        OBJECTIVES._found.pop(name, None)


@pytest.mark.usefixtures("package")
def test_it_trains_two_steps_and_its_checkpoint_scores(recipe, tiny):  # noqa: F811
    fields = {**recipe.model_dump(), "objective": "squares", "max_steps": 2, "learning_rate": 2e-5}
    result = train_rm(RMRecipe(**fields))
    assert result.steps == 2
    # Every log-ratio is 0 at the start, so every loss is 1; then they are what the checkpoint gives.
    assert next(row["loss"] for row in result.history if "loss" in row) == pytest.approx(1.0)
    sums = [values.sum() for values in token_values(recipe, result.output, held_out_responses(recipe))]
    wanted = [(2 * total - (1 if i % 2 == 0 else -1)) ** 2 for i, total in enumerate(sums)]
    assert result.metrics["loss"] == pytest.approx(np.mean(wanted), abs=1e-3)
    assert json.loads((result.output / "rm.json").read_text())["beta"] == 2.0
    assert not torch.equal(*(load_file(f / "model.safetensors")["lm_head.weight"] for f in (tiny, result.output)))
    model = load_reward_model(result.output)
    assert (model.card.objective, model.card.scale()) == ("squares", 2.0)
    assert model.score([model.encode("What is 1 + 2?", ["1 + 2 = 3."])])[0].sums.any()


@pytest.mark.usefixtures("package")
def test_a_loss_that_is_not_there_is_said():
    fields = {"model": "m", "data": "d", "output": "o"}
    with pytest.raises(UserError, match=r"objective 'lost': its loss cannot be imported from toy_nowhere:squares"):
        RMRecipe(objective="lost", **fields)
    with pytest.raises(ValueError, match="margin 1.0: squares has none"):
        RMRecipe(objective="squares", margin=1.0, **fields)
