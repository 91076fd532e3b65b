from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import support
import zoo

from prmbench.benchmarks.policy.run import evaluate_policy
from prmbench.data.problems import Problem
from prmbench.data.prompts import find_prompt
from prmbench.data.rollouts import Rollout, parse_rollout, read_rollouts, summarise
from prmbench.data.tokens import TokenOptions
from prmbench.data.verdicts import Verdict
from prmbench.engines.hf.engine import HFEngine
from prmbench.engines.load import LoadOptions
from prmbench.engines.sampling import Request, SamplingParams
from prmbench.engines.tokenizer import load_tokenizer
from prmbench.errors import UserError
from prmbench.policies.policy import load_policy
from prmbench.policies.rollout import prompt_rules, rollout
from prmbench.reward_models.generation import write
from prmbench.reward_models.loading import load_reward_model
from prmbench.verify import VerifierOptions

PARAMS = SamplingParams(max_new_tokens=12)
PROBLEMS = [Problem(f"p{i}", f"What is {i} + {i}?{' Think.' * i}", str(2 * i)) for i in range(5)]


@pytest.fixture(scope="module")
def policy(tiny):
    return load_policy(str(tiny), find_prompt("boxed"))


def run(policy, output, **changes):
    settings = {"n": 3, "params": PARAMS, "seed": 4, "batch_tokens": 400, **changes}
    return rollout(policy, PROBLEMS, output, **settings)


def contents(folder):
    return (folder / "rollouts.jsonl").read_bytes()


def test_every_completion_once_in_order_with_its_text(policy, tmp_path):
    found = run(policy, tmp_path / "out")
    assert [r.key for r in found] == [(p.id, str(k)) for p in PROBLEMS for k in range(3)]
    again = read_rollouts(tmp_path / "out")
    assert [r.line() for r in again] == [r.line() for r in found]
    for one in found:
        assert one.completion == policy.encoder.tokenizer.decode(one.ids, skip_special_tokens=True)
        assert (one.finish_reason == "length") == (int(one.ids[-1]) not in policy.stop)
        assert len(one.ids) <= 12
    assert len({r.ids.tobytes() for r in found}) > 10


def test_the_same_whatever_the_batches(policy, tmp_path):
    first, second = (run(policy, tmp_path / str(n), batch_tokens=n) for n in (1, 5000))
    assert [r.ids.tolist() for r in first] == [r.ids.tolist() for r in second]
    other = run(policy, tmp_path / "seed", seed=5)
    assert [r.ids.tolist() for r in first] != [r.ids.tolist() for r in other]


def test_interrupted_and_run_again(policy, tmp_path, monkeypatch):
    whole = run(policy, tmp_path / "whole")
    score, calls = policy.engine.trunk.forward, 0

    def stop(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == 30:
            raise KeyboardInterrupt
        return score(*args, **kwargs)

    monkeypatch.setattr(policy.engine.trunk, "forward", stop)
    with pytest.raises(KeyboardInterrupt, match=r"of 15 rollouts are kept in .*: the same command goes on from there"):
        run(policy, tmp_path / "cut")
    monkeypatch.setattr(policy.engine.trunk, "forward", score)
    kept = contents(tmp_path / "cut").count(b"\n")
    assert 0 < kept < 15
    again = run(policy, tmp_path / "cut")
    assert [r.line() for r in again] == [r.line() for r in whole]
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_other_settings_are_refused(policy, tmp_path):
    run(policy, tmp_path / "out")
    with pytest.raises(UserError, match=r"other settings \(seed: 4 there, 5 now\)"):
        run(policy, tmp_path / "out", seed=5)


def test_golds_are_looked_at_before_anything_is_sampled(policy, tmp_path, capsys):
    empty = [PROBLEMS[0], Problem("p1", "What?", "a solution\n#### ")]
    with pytest.raises(UserError, match="1 of 2 gold answers is empty, for example that of problem 'p1'"):
        rollout(policy, empty, tmp_path / "out", n=1, params=PARAMS)
    assert not (tmp_path / "out").exists()
    odd = [Problem("p0", "What?", r"\frac{63}{400"), PROBLEMS[1]]
    rollout(policy, odd, tmp_path / "out", n=1, params=PARAMS)
    assert capsys.readouterr().err.count("1 of 2 gold answers is no mathematics that can be read") == 1


def test_another_convention_is_another_run(policy, tmp_path):
    run(policy, tmp_path / "out")
    with pytest.raises(
        UserError, match=r'other settings \(verifier: "prmbench \d+ strict.* there, "prmbench \d+ paper'
    ):
        run(policy, tmp_path / "out", verifier=VerifierOptions("paper"))


def test_a_template_that_changes_by_itself_is_another_run(tmp_path):
    folder = support.save_checkpoint(tmp_path / "m", template="{{ range(99999) | random }}" + support.TEMPLATE)
    policy = load_policy(str(folder), find_prompt("boxed"))
    run(policy, tmp_path / "out")
    with pytest.raises(UserError, match=r"other settings \(tokens"):
        run(policy, tmp_path / "out")


def test_truncated_is_wrong_even_with_the_right_answer(tmp_path):
    """A model that always writes the same boxed answer and never stops."""
    folder = support.save_checkpoint(tmp_path / "m")
    policy = load_policy(str(folder), find_prompt("bare"))
    ids = policy.encoder.text_ids(" \\boxed{4}")
    answer = Problem("a", "What is 2 + 2?", "4")
    policy.engine.logits = _speaker(policy, ids)
    policy.engine.cached_ways.add((False, False, False))  # such logits would not be those of the sequence run again
    found = rollout(
        policy, [answer], tmp_path / "out", n=1, prompt="bare", params=SamplingParams(max_new_tokens=len(ids))
    )
    assert (found[0].completion, found[0].finish_reason, found[0].verdict) == (" \\boxed{4}", "length", Verdict.WRONG)
    policy.engine.logits = _speaker(policy, [*ids, policy.encoder.end_of_turn])
    found = rollout(policy, [answer], tmp_path / "out2", n=1, prompt="bare", params=SamplingParams(max_new_tokens=40))
    assert (found[0].finish_reason, found[0].verdict) == ("stop", Verdict.CORRECT)


def _speaker(policy, ids):
    """Logits that leave one choice: the next of `ids`."""
    import torch

    position = iter(ids)

    def logits(states):
        out = torch.full((len(states), policy.engine.vocabulary), -1e9)
        out[:, int(next(position))] = 0.0
        return out

    return logits


def test_prompts_without_room_are_counted_as_wrong(tmp_path):
    policy = load_policy(str(support.save_checkpoint(tmp_path / "m", max_position_embeddings=60)), find_prompt("bare"))
    problems = [Problem("short", "1 + 1?", "2"), Problem("long", "1 + 1? " * 40, "2")]
    params = SamplingParams(max_new_tokens=5)
    found = rollout(policy, problems, tmp_path / "out", n=2, prompt="bare", params=params)
    assert [(r.id, r.finish_reason, len(r.ids) > 0) for r in found[2:]] == [("long", "prompt", False)] * 2
    assert {r.verdict for r in found[2:]} == {Verdict.WRONG}
    assert all(len(r.ids) for r in found[:2])
    assert "2 whose prompt leaves no room (counted as wrong)" in summarise(found).sentence()
    again = rollout(policy, problems, tmp_path / "out", n=2, prompt="bare", params=params)
    assert [r.line() for r in again] == [r.line() for r in found]


def make(verdict, reason="stop", tokens=4):
    return Rollout("p", 0, "q", "1", "t", np.zeros(tokens, dtype=np.int64), reason, Verdict(verdict))


def test_summary():
    found = [make("correct"), make("wrong", "length", 8), make("unparsed"), make("timeout")]
    summary = summarise(found)
    assert summary.verdicts == {"correct": 1, "wrong": 1, "unparsed": 1, "timeout": 1}
    assert (summary.pass_rate, summary.truncated, summary.mean_tokens) == (0.25, 1, 5.0)
    assert "1 truncated (25.0%, counted as wrong)" in summary.sentence()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"verdict": "maybe"}, "'verdict' is \"maybe\""),
        ({"ids": "x"}, "'ids'"),
        ({"finish_reason": None}, "expected stop, length, prompt"),
        ({"verdict": []}, "'verdict'"),
        ({"ids": ["x"]}, "whole numbers"),
    ],
)
def test_mistakes_in_a_rollouts_file(change, message):
    fields = {**json.loads(make("correct").line()), **change}
    with pytest.raises(UserError, match=message):
        parse_rollout("x, line 1", fields)


def test_missing_rollouts_file(tmp_path):
    with pytest.raises(UserError, match=r"rollouts.jsonl: no such file"):
        read_rollouts(tmp_path)


def test_a_run_says_how_its_prompts_were_rendered(tiny, policy, tmp_path):
    run(policy, tmp_path / "own")
    recorded = json.loads((tmp_path / "own" / "run.json").read_text())["conversation"]
    template = hashlib.sha256(support.TEMPLATE.encode()).hexdigest()
    assert recorded == {"system": None, "template_args": {}, "chat_template": template, "own_template": True}
    assert prompt_rules(recorded) == prompt_rules({}) == {}
    asked = load_policy(
        str(tiny),
        find_prompt("boxed"),
        chat_template=support.THINKING_TEMPLATE,
        tokens=TokenOptions(template_args={"enable_thinking": False}),
    )
    assert prompt_rules(asked.encoder.conversation()) == {
        "template_args": {"enable_thinking": False},
        "chat_template": hashlib.sha256(support.THINKING_TEMPLATE.encode()).hexdigest(),
    }
    with pytest.raises(UserError, match="holds a run with other settings"):
        run(asked, tmp_path / "own")


# --- what a policy samples and how it is asked ---


@pytest.fixture(scope="module")
def padded(tmp_path_factory):
    """A policy with more logits than its tokenizer has tokens, which it would often sample."""
    folder = zoo.save(tmp_path_factory.mktemp("padded") / "m", "llama", padded=40)
    size = len(load_tokenizer(folder, LoadOptions()))
    support.change_weights(folder, lambda weights: weights["lm_head.weight"][size:].mul_(4))
    return folder, size


def test_ids_past_the_tokenizer_are_never_sampled(padded, tmp_path):
    folder, size = padded
    policy = load_policy(str(folder), find_prompt("bare"))
    assert policy.engine.vocabulary == size + 40
    found = run(policy, tmp_path / "out", prompt="bare", n=6)
    assert max(int(one.ids.max()) for one in found) < size
    free = HFEngine(policy.engine.model)
    requests = [Request(policy.encoder.prompt_ids(p.problem), p.id, 0) for p in PROBLEMS]
    assert max(one.ids.max() for one in free.generate(requests, frozenset(), PARAMS, 0)) >= size


def test_a_critic_samples_no_such_ids_either(padded):
    folder, size = padded
    model = load_reward_model(folder, kind="critic", generation={"max_new_tokens": 20, "temperature": 1.0})
    texts = write(model.model, [np.arange(6, 20)] * 4, [20] * 4, model.stop, model.generation, 0)
    assert max(int(ids.max()) for ids in texts) < size


SEVERAL = {"default": support.TEMPLATE, "rag": "[RAG]" + support.TEMPLATE}


def test_system_template_arguments_and_named_templates(tiny, tmp_path):
    folder = zoo.save(tmp_path / "m", "llama")
    thinking = support.THINKING_TEMPLATE
    fields = {"chat_template": [{"name": n, "template": t} for n, t in (SEVERAL | {"think": thinking}).items()]}
    support.change_json(folder / "tokenizer_config.json", **fields)

    def prompt(**loading):
        policy = load_policy(str(folder), find_prompt("bare"), **loading)
        return policy.encoder.render_prompt("2 + 2?"), policy.encoder.template_hash()

    plain = prompt()
    system = prompt(tokens=TokenOptions(system="Be brief."))
    off = prompt(chat_template="think", tokens=TokenOptions(template_args={"enable_thinking": False}))
    rag = prompt(chat_template="rag")
    assert plain[0] == "<|user|>2 + 2?<|end|>\n<|assistant|>"
    assert system[0] == "<|system|>Be brief.<|end|>\n" + plain[0]
    assert off[0] == plain[0] + "<think>\n\n</think>\n\n"
    assert rag[0] == "[RAG]" + plain[0]
    assert len({one for _, one in (plain, system, off, rag)}) == 4
    with pytest.raises(
        UserError, match=r"`chat_template=rga`: no such file, nor a chat template of .*default, rag, think"
    ):
        prompt(chat_template="rga")


def test_two_prompts_never_share_a_fingerprint(tiny, tmp_path):
    found = []
    for number, tokens in enumerate((None, TokenOptions(system="Be brief."), TokenOptions(template_args={"x": 1}))):
        policy = load_policy(str(tiny), find_prompt("bare"), tokens=tokens)
        sets = {"s": [Problem("a", "1 + 1?", "2")]}
        entry, _ = evaluate_policy(
            policy,
            sets,
            name="t",
            source="t",
            output=tmp_path / str(number),
            n=1,
            params=PARAMS,
            prompt="bare",
            n_resamples=10,
        )
        found.append(entry.benchmark.fingerprint)
    assert len(set(found)) == 3
