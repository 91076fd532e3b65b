"""docs/checkpoints.md as a new user would try it: its kind as a file, and its kind and objective as an installed package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prmbench.reward_models.card import Card
from prmbench.reward_models.loading import load_reward_model
from prmbench.reward_models.objectives import OBJECTIVES, meaning_of
from prmbench.reward_models.registry import KINDS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "checkpoints.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture
def forget():
    """What a test brings is gone after it."""
    yield
    for registry, name in ((KINDS, "short"), (OBJECTIVES, "my_loss")):
        registry._found.pop(name, None)


def scores_short_steps(model):
    found = model.score([model.encode("What is 2 + 2?", ["2 + 2 = 4.", "So \\boxed{4}, as asked."])])[0]
    return (found.scores == -found.n_tokens).all() and model.kind == "short"


def test_a_kind_in_a_file(tiny, tmp_path, forget):
    (tmp_path / "short.py").write_text(blocks("python")[0])
    assert scores_short_steps(load_reward_model(tiny, kind="short", plugin=tmp_path / "short.py"))


def test_a_kind_and_an_objective_in_a_package(tiny, tmp_path, monkeypatch, forget):
    package = tmp_path / "my_package"
    package.mkdir()
    kind, objective = blocks("python")
    (package / "__init__.py").write_text("")
    (package / "short.py").write_text(kind.replace('@register("short")\n', ""))
    (package / "objectives.py").write_text(objective)
    info = tmp_path / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    named = re.sub(r'\[project.entry-points."(.*?)"\]', r"[\1]", blocks("toml")[0]).replace('"', "")
    (info / "entry_points.txt").write_text(named)
    monkeypatch.syspath_prepend(tmp_path)
    assert scores_short_steps(load_reward_model(tiny, kind="short"))
    assert meaning_of("my_loss").beta == 0.1
    assert Card(kind="implicit", objective="my_loss").scale() == 0.1
    assert load_reward_model(tiny, reference=tiny, objective="my_loss").fixed_thresholds() == {"prefix": 0.0}
