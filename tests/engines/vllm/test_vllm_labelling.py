"""Labels by rollouts with real vLLM: counts equal in distribution to those of the hf engine, and shared prefixes cached."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import chi2

from prmbench.data.prompts import find_prompt
from prmbench.engines.load import LoadOptions
from prmbench.engines.sampling import SamplingParams
from prmbench.policies.labelling import label
from prmbench.policies.policy import load_policy
from prmbench.policies.state_counts import LabelOptions
from prmbench.policies.states import load_marked

pytestmark = pytest.mark.slow

PROMPT, K = "number", 64
STEPS = ["Tom has 3.", "He has no more.", "So 3."]
LONG = "Tom has 3 apples, and he says so again and again, because nobody listens to him, which makes him sad. " * 4
RECORDS = [
    {"id": "a", "problem": "How many has Tom?", "answer": "3", "steps": STEPS},
    {"id": "b", "problem": "How many has Tom?", "answer": "3", "steps": [*STEPS[:2], "So 4."]},
    {"id": "c", "problem": LONG, "answer": "3", "steps": STEPS},
]


@pytest.fixture(scope="module")
def runs(one_process, tiny, tmp_path_factory):
    """The counts of a run with each engine, and what vLLM was asked for and had in its cache."""
    folder = tmp_path_factory.mktemp("labels")
    (folder / "x.jsonl").write_text("".join(json.dumps(one) + "\n" for one in RECORDS))
    found, asked, cached = {}, 0, 0
    for name in ("hf", "vllm"):
        policy = load_policy(str(tiny), find_prompt(PROMPT), LoadOptions(device="cpu", dtype="float32"), engine=name)
        policy.stop |= frozenset(range(3, policy.engine.vocabulary, 24))  # or a random model would hardly ever end
        marked, _ = load_marked(folder / "x.jsonl", policy.encoder, PROMPT)
        if name == "vllm":
            generate = policy.engine.llm.generate

            def counted(prompts, *rest, generate=generate, **more):
                nonlocal asked, cached
                outputs = generate(prompts, *rest, **more)
                asked += len(prompts)
                cached += sum(one.num_cached_tokens or 0 for one in outputs)
                return outputs

            policy.engine.llm.generate = counted
        found[name] = label(
            policy,
            marked,
            folder / name,
            prompt=PROMPT,
            options=LabelOptions(k=K),
            params=SamplingParams(max_new_tokens=48),
        )
        if name == "vllm":
            policy.engine.close()
    return found, asked, cached, folder


def test_counts_are_equal_in_distribution(runs):
    found, *_ = runs
    assert found["hf"].keys() == found["vllm"].keys()
    statistic, freedom = 0.0, 0
    for key, one in found["hf"].items():
        other = found["vllm"][key]
        assert one.trials == other.trials == K
        if one.tokens == 0:  # finished: the same verdict
            assert one == other
            continue
        for name in ("successes", "cut"):
            a, b = getattr(one, name), getattr(other, name)
            share = (a + b) / (2 * K)
            if 0.03 < share < 0.97:
                statistic += (a - b) ** 2 / (2 * K * share * (1 - share))
                freedom += 1
    assert freedom >= 8
    assert chi2.sf(statistic, freedom) > 1e-3
    tokens = [sum(one.tokens for one in found[name].values()) for name in ("hf", "vllm")]
    assert tokens[0] == pytest.approx(tokens[1], rel=0.1)


def test_a_shared_state_is_sampled_once_and_its_prefix_computed_once(runs):
    found, asked, cached, folder = runs
    states = [one for one in found["vllm"].values() if one.tokens]
    assert asked == K * len(states) == K * 6  # a and b share the start and two steps; c has three of its own
    assert cached > K * 100  # blocks of 128 tokens, of c's long prompt
    records = [json.loads(line) for line in (folder / "vllm" / "labels.jsonl").read_text().splitlines()]
    assert records[0]["successes"][:2] == records[1]["successes"][:2]
    assert np.array_equal(records[0]["start"], records[1]["start"])
