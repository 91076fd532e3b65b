from __future__ import annotations

import subprocess
import sys

import pytest

from prmbench.errors import UserError
from prmbench.results.schema import Subject
from prmbench.reward_models.card import make_card
from prmbench.reward_models.objectives import OBJECTIVES, Convention, meaning_of


def convention(**fields: object) -> Convention:
    return Convention.of(Subject(name="n", source=None, **{"kind": "implicit", **fields}))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"objective": "ipvrm", "margin": 5.0}, ("token_mean", 5.0)),
        ({"objective": "ipvrm_early", "margin": 0.0}, ("token_mean", 0.0)),
        ({"objective": "ipvrm_late"}, ("token_mean", None)),  # the link needs a margin that nothing says
        ({"objective": "implicit_prm", "margin": 3.0}, ("sum", 0.0)),  # the equation has no margin
        ({"objective": "dpo"}, ("sum", None)),
        ({}, ("sum", None)),
        ({"kind": "q_rm"}, ("token_mean", None)),
        ({"kind": "endo", "scoring": {"decay": 0.95, "decay_floor": 0.0}}, ("decayed_sum", None)),
        ({"kind": "endo", "discount": 0.95}, ("token_mean", None)),  # an entry from before
        ({"kind": "classifier", "step_valued": True}, ("product", None)),
        ({"kind": "classifier", "step_valued": True, "objective": "beta_binomial"}, ("product", None)),
        ({"kind": "classifier", "step_valued": True, "objective": "prefix_gain"}, ("last", None)),
    ],
)
def test_how_a_whole_response_is_scored(fields, expected):
    found = convention(**fields)
    assert (found.own, found.margin) == expected


def test_it_needs_no_torch():
    code = "import sys, prmbench.reward_models.objectives; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_package_brings_an_objective(tmp_path, monkeypatch):
    (tmp_path / "brought.py").write_text(
        "from prmbench.reward_models.objectives import Objective\n"
        "MINE = Objective('mine', 'implicit', 3.0, None, 'sum', is_logit=True)\n"
    )
    info = tmp_path / "brought-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brought\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[prmbench.objectives]\nmine = brought:MINE\nbroken = brought:NOTHING\ndpo = brought:MINE\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert meaning_of("dpo").beta == 0.05, "a package changes no objective of ours"
    assert make_card({"kind": "implicit", "objective": "mine"}, "card").scale() == 3.0
    assert convention(objective="mine") == Convention("sum", 1.0, 0.0)
    with pytest.raises(UserError, match=r"objective 'broken': its package cannot be imported from brought:NOTHING"):
        meaning_of("broken")
    with pytest.raises(UserError, match=r"'min' is not known \(did you mean 'mine'"):
        OBJECTIVES.find("min")
    OBJECTIVES._found.pop("mine")
