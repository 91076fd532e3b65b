"""Models to serve, and a server."""

from __future__ import annotations

from pathlib import Path

import pytest
import support
from support_serving import running

from prmbench.data.solutions import Solution
from prmbench.reward_models.loading import load_reward_model


@pytest.fixture(scope="session")
def solutions():
    """Thirty made solutions of unequal lengths, with unicode and a blank step."""
    made = [Solution(str(t["id"]), str(t["problem"]), tuple(t["steps"])) for t in support.make_traces(28, seed=3)]
    odd = Solution("odd", "Was ist 答案 + 2? <extra_0>", ("", "Lösung: 三 ist 3.\n\nJa.", " x " * 60))
    return [*made, odd, Solution("one", "1?", ("1",))]


@pytest.fixture(scope="session")
def implicit(tiny, tiny_tuned):
    return load_reward_model(tiny_tuned, reference=tiny, objective="ipvrm")


@pytest.fixture(scope="session")
def marked(tmp_path_factory):
    """A reward model that gives one score a step."""
    import support_prm

    folder: Path = tmp_path_factory.mktemp("marked") / "model"
    tokenizer = support.wrap(support.byte_level())
    tokenizer.add_tokens(["<extra_0>"], special_tokens=True)
    support_prm.save_linear_classifier(folder, tokenizer)
    return load_reward_model(folder, kind="classifier")


@pytest.fixture(scope="module")
def server(implicit):
    """A server of an implicit model."""
    with running(implicit) as one:
        yield one
