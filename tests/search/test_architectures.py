"""Searches with many architectures: whether or not the state of prefixes is kept, the results are those of whole runs."""

from __future__ import annotations

import numpy as np
import pytest
import zoo

from prmbench.data.prompts import find_prompt
from prmbench.data.tokens import EncodedTrace
from prmbench.engines.sampling import Request, SamplingParams
from prmbench.policies.policy import load_policy
from prmbench.reward_models.loading import load_reward_model
from prmbench.reward_models.objectives import Convention
from prmbench.reward_models.subject import describe
from prmbench.search.drive import run_searches
from prmbench.search.methods import METHODS, Setting
from prmbench.search.paths import Task
from prmbench.search.sampler import PolicySampler
from prmbench.search.scorer import ModelScorer
from prmbench.search.step_ends import StepEnds

PARAMS = SamplingParams(max_new_tokens=14)
KEPT = ("qwen3", "qwen3 moe", "granite", "olmo2", "glm4")
"""Architectures whose prefixes are kept."""
WHOLE = ("mistral", "gemma2", "gpt oss", "qwen3 next")
"""Those with sliding windows or recurrent states, which are run whole."""


@pytest.mark.parametrize("architecture", [*KEPT, *WHOLE])
def test_a_search_with_an_architecture(architecture, tmp_path):
    folder = zoo.save(tmp_path / "model", architecture)
    prompt = find_prompt("number")
    policy, model = load_policy(str(folder), prompt), load_reward_model(folder, kind="endo")
    policy.stop |= frozenset(range(7, policy.engine.vocabulary, 25))
    texts = ("What is 2 + 3?", "Name it.")
    tasks = [Task(f"p{i}", text, policy.encoder.prompt_ids(prompt.render(text))) for i, text in enumerate(texts)]
    ends = StepEnds(policy.encoder.tokenizer, (" ", "e", "a"))

    def search(method, n):
        sampler = PolicySampler(policy, ends, PARAMS, 0)
        scorer = ModelScorer(model, policy, prompt, "own", Convention.of(describe(model, "m", "m")))
        searches = [(task, METHODS[method](Setting(n, width=2, key=task.key))) for task in tasks]
        with scorer.keeping():
            found = run_searches(searches, sampler, scorer)
            return found, sampler, all(store.works for store in scorer.stores)

    found, sampler, works = search("beam", 4)
    assert works == sampler.store.works == (architecture in KEPT)
    # The score of each path is that of the whole sequence, run by itself.
    for task, one in zip(tasks, found, strict=True):
        for path in one.candidates:
            ids = np.concatenate([task.prompt, path.ids])
            trace = EncodedTrace(ids, len(task.prompt), np.zeros(len(path.ids), dtype=np.int64), 1)
            (values,) = model.token_values([trace])
            assert path.score == pytest.approx(model.weighted_total(values), abs=2e-3)
    # One path is plain sampling, where states are kept.
    plain = policy.engine.generate([Request(task.prompt, task.key, 0) for task in tasks], policy.stop, PARAMS, 0)
    one, _, _ = search("beam", 1)
    if architecture in KEPT:
        assert [a.candidates[0].ids.tolist() for a in one] == [b.ids.tolist() for b in plain]
    else:
        # Without them a token of a path costs as much as all before it.
        assert sum(c.policy_flops for a in one for c in a.costs) > 2 * sum(
            sampler.shape.forward(0, len(task.prompt) + len(b.ids), len(b.ids))
            for task, b in zip(tasks, plain, strict=True)
            if len(b.ids) > 6
        )
