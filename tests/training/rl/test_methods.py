"""A method is one object, and a package from outside adds one with a file and a line."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from rl_driver import make_recipe
from safetensors.torch import load_file

from prmbench.errors import UserError
from prmbench.training.rl.methods import METHODS, Advantages, Algorithm, Method, ScoredBatch, compute_advantages
from prmbench.training.rl.run import train_rl

TOY = '''
import torch
from prmbench.training.rl.methods import Advantages, Method

SEEN = []

def advantages(batch, algorithm):
    """Shorter is better, whatever the answer."""
    SEEN.append(batch)
    length = batch.mask.sum(dim=1).double()
    shorter = (length.mean() - length) / length.std(correction=0).clamp(min=1)
    return Advantages(shorter[:, None] * batch.mask)

SHORT = Method("short", advantages, keep=(0.2, 0.6))
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """An installed package that brings the method ``short``, and one that cannot be imported."""
    package = tmp_path / "site"
    (package / "toy-0.1.dist-info").mkdir(parents=True)
    (package / "toy_method.py").write_text(TOY)
    (package / "toy-0.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 0.1\n")
    (package / "toy-0.1.dist-info" / "entry_points.txt").write_text(
        "[prmbench.rl_methods]\nshort = toy_method:SHORT\nbroken = toy_nothing:X\n"
    )
    monkeypatch.syspath_prepend(str(package))


def test_a_package_adds_a_method_and_trains_with_it(toy, world, tmp_path, chosen_outcomes):
    result = train_rl(make_recipe(world, tmp_path / "out", method="short", max_steps=2))
    import toy_method

    assert len(result.history) == 2
    assert len(toy_method.SEEN) == 2
    for batch, row in zip(toy_method.SEEN, result.history, strict=True):
        # Of the outcomes that the driver gives, 1/4 and 2/4 are within `keep`; 3/4 is not.
        shares = {float(batch.rewards[batch.groups == g].mean()) for g in batch.groups.unique()}
        assert shares <= {0.25, 0.5}
        assert row["rollouts/kept_prompts"] == len(batch.groups.unique())
        assert batch.values is None
        assert "candidates/size" not in row
    before, after = load_file(world[0] / "model.safetensors"), load_file(result.output / "model.safetensors")
    assert any(not torch.equal(w, before[name]) for name, w in after.items())


def test_what_a_method_from_outside_says_is_refused(toy, world, tmp_path):
    with pytest.raises(UserError, match="method short: takes no reward_model"):
        train_rl(
            make_recipe(world, tmp_path / "out", method="short", reward_model={"model": str(world[0]), "kind": "endo"})
        )
    with pytest.raises(ValidationError, match="its package cannot be imported from toy_nothing:X"):
        Algorithm(method="broken")
    with pytest.raises(
        ValidationError, match=r"method 'shrt' is not known \(did you mean 'short'\?\); known: grpo, distrl"
    ):
        Algorithm(method="shrt")


def test_an_object_is_enough():
    """Without a package: the registry takes an object."""
    METHODS.add("half", Method("half", lambda batch, _: Advantages(0.5 * batch.mask), rewards=("implicit",)))
    mask = torch.ones(2, 3, dtype=torch.bool)
    batch = ScoredBatch(torch.ones(2), torch.tensor([0, 0]), mask, torch.zeros(2, 3), 1.0)
    assert compute_advantages(Algorithm(method="half"), batch).total.tolist() == [[0.5] * 3] * 2
    with pytest.raises(ValueError, match="half needs token values"):
        compute_advantages(Algorithm(method="half"), ScoredBatch(torch.ones(2), batch.groups, mask, None, 1.0))
    with pytest.raises(UserError, match=r"method half: needs a reward_model \(implicit\)"):
        METHODS.find("half").check_reward(None, None)


def test_our_own_methods():
    """What each needs; a row a method."""
    table = {
        name: (one.rewards, one.optional, one.keep, one.candidates, one.from_start, one.ratio)
        for name in ("grpo", "distrl", "prime", "spro", "reinforce")
        for one in (METHODS.find(name),)
    }
    assert table == {
        "grpo": (("implicit", "q_rm", "endo"), True, (0.0, 1.0), False, False, True),
        "distrl": (("implicit",), False, (0.0, 1.0), True, False, True),
        "prime": (("implicit",), False, (0.2, 0.8), False, False, True),
        "spro": ((), False, (0.0, 1.0), False, True, True),
        "reinforce": (("q_rm",), False, (0.0, 1.0), False, False, False),
    }
