"""Labels by rollouts: counts against one continuation at a time, shared states, resuming, and what is written."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from typer.testing import CliRunner

from prmbench.cli.app import app
from prmbench.data.prompts import find_prompt
from prmbench.data.solutions import load_solutions
from prmbench.data.traces import load_traces
from prmbench.engines.sampling import Completion, Request, SamplingParams
from prmbench.errors import UserError
from prmbench.policies.labelling import budget, label
from prmbench.policies.policy import load_policy
from prmbench.policies.rollout import rollout
from prmbench.policies.state_counts import LabelOptions, parse_count
from prmbench.policies.states import load_marked
from prmbench.stats.rollout_labels import share_intervals
from prmbench.verify import Verdict, Verifier

PROMPT = "number"
PARAMS = SamplingParams(max_new_tokens=40)
STEPS = ["Tom has 3.", "He buys 4.", "So 7."]
RECORDS = [
    {"id": "a", "problem": "3 + 4?", "answer": "7", "steps": STEPS},
    {"id": "b", "problem": "3 + 4?", "answer": "7", "steps": [*STEPS[:2], "So 8."]},
    {"id": "c", "problem": "1 + 3?", "answer": "4", "solution": "It is 4.\n\nThe answer is 4."},
]


@pytest.fixture(scope="module")
def policy(tiny):
    return load_policy(str(tiny), find_prompt(PROMPT))


@pytest.fixture(scope="module")
def solutions(tmp_path_factory):
    path = tmp_path_factory.mktemp("solutions") / "mine.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in RECORDS))
    return path


def run(policy, marked, output, **more):
    return label(policy, marked, output, prompt=PROMPT, params=PARAMS, **more)


def marked_of(path, policy):
    return load_marked(path, policy.encoder, PROMPT)[0]


def by_hand(policy, one, k, seed=0):
    """Counts of the states of a solution, one continuation at a time."""
    found = []
    with Verifier() as verifier:
        for state in one.states():
            texts, ended = [], []
            for sample in range(k if state.whole is None else 0):
                request = Request(
                    np.concatenate([state.prompt, state.ids]),
                    ":".join(state.key),
                    sample,
                    PARAMS.max_new_tokens - len(state.ids),
                )
                (got,) = policy.engine.generate([request], policy.stop, PARAMS, seed)
                ids = np.concatenate([state.ids, got.ids])
                texts.append(policy.encoder.tokenizer.decode(ids, skip_special_tokens=True))
                ended.append(got.finish_reason == "stop")
            if state.whole is not None:
                texts, ended = [state.whole] * k, [True] * k
            verdicts = verifier.verify(texts, [one.problem.answer] * k, style=find_prompt(PROMPT).style)
            found.append(sum(v == Verdict.CORRECT and e for v, e in zip(verdicts, ended, strict=True)))
    return found


def test_counts_are_those_of_one_continuation_at_a_time(policy, solutions, tmp_path):
    marked = marked_of(solutions, policy)
    run(policy, marked, tmp_path, options=LabelOptions(k=3))
    records = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    for one, record in zip(marked, records, strict=True):
        first, *rest = by_hand(policy, one, 3)
        assert (record["start"], record["successes"], record["trials"]) == ([first, 3], rest, [3] * len(rest))
        assert record["values"] == pytest.approx([k / 3 for k in rest])
        assert record["labels"] == ["right" if k else "wrong" for k in rest]
    # What is finished has its own verdict, and no doubt.
    assert [r["values"][-1] for r in records] == [1.0, 0.0, 1.0]
    assert [(r["low"][-1], r["high"][-1]) for r in records] == [(1.0, 1.0), (0.0, 0.0), (1.0, 1.0)]
    assert all(r["low"][0] <= r["values"][0] <= r["high"][0] < 1 or r["values"][0] == 1 for r in records)
    traces = load_traces(tmp_path / "labels.jsonl")
    assert [(t.id, list(t.labels), t.label) for t in traces] == [(r["id"], r["labels"], r["label"]) for r in records]


def test_states_end_where_steps_end(policy, solutions):
    for one in marked_of(solutions, policy):
        states = one.states()
        assert len(states) == len(one.steps) + 1
        decoded = [policy.encoder.tokenizer.decode(state.ids) for state in states]
        assert decoded[0] == ""
        assert decoded[-1] == one.text == "\n\n".join(one.steps)
        for i in range(1, len(one.steps)):
            assert decoded[i] == "\n\n".join(one.steps[:i]) + "\n\n"


def test_a_shared_state_is_sampled_once(policy, solutions, tmp_path):
    marked = marked_of(solutions, policy)
    planned = budget(marked, LabelOptions(k=2), PARAMS.max_new_tokens)
    # a and b share the start and two steps: 4 + 4 + 3 states, of which 3 are there twice; three are finished.
    assert (planned.states, planned.different, planned.finished, planned.continuations) == (11, 8, 3, 10)
    found = run(policy, marked, tmp_path, options=LabelOptions(k=2))
    assert len(found) == 8
    assert sum(one.tokens for one in found.values()) <= planned.tokens
    assert planned.likely <= planned.tokens
    records = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    assert records[0]["successes"][:2] == records[1]["successes"][:2]


def test_an_interrupted_run_goes_on_with_the_same_numbers(policy, solutions, tmp_path):
    marked = marked_of(solutions, policy)
    run(policy, marked, tmp_path / "whole", options=LabelOptions(k=3), batch_tokens=300)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    lines = (tmp_path / "cut" / "states.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "cut" / "states.jsonl").write_text("".join(lines[:3]) + lines[3][:20])
    (tmp_path / "cut" / "labels.jsonl").unlink()
    asked = []
    generate = policy.engine.generate

    def counted(requests, *rest):
        asked.extend(requests)
        return generate(requests, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy.engine, "generate", counted)
        run(policy, marked, tmp_path / "cut", options=LabelOptions(k=3), batch_tokens=300)
        some = len(asked)
        for name in ("states.jsonl", "labels.jsonl"):
            assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
        # Other labels of the same continuations: nothing is sampled.
        run(
            policy,
            marked,
            tmp_path / "cut",
            options=LabelOptions(k=3, rule="threshold", threshold=1.0),
            batch_tokens=300,
        )
        assert 0 < some == len(asked) < 15
    assert (tmp_path / "cut" / "states.jsonl").read_bytes() == (tmp_path / "whole" / "states.jsonl").read_bytes()
    with pytest.raises(UserError, match="holds a run with other settings"):
        run(policy, marked, tmp_path / "cut", options=LabelOptions(k=4), batch_tokens=300)


def test_batches_change_nothing(policy, solutions, tmp_path):
    marked = marked_of(solutions, policy)
    found = [run(policy, marked, tmp_path / str(n), options=LabelOptions(k=4), batch_tokens=n) for n in (1, 100_000)]
    assert found[0] == found[1]


def test_an_adaptive_run_stops_where_the_label_is_decided(policy, solutions, tmp_path):
    marked = marked_of(solutions, policy)
    whole = run(policy, marked, tmp_path / "a", options=LabelOptions(k=8))
    some = run(policy, marked, tmp_path / "b", options=LabelOptions(k=8, adaptive=True))
    for key, one in some.items():
        assert (one.successes > 0) == (whole[key].successes > 0)
        assert one.trials in (2, 4, 6, 8)
        if one.trials < 8 and whole[key].successes not in (0, 8):
            assert one.successes > 0
    assert sum(one.trials for one in some.values()) < sum(one.trials for one in whole.values())
    with pytest.raises(UserError, match="the rule gain is decided by no single state"):
        run(policy, marked, tmp_path / "c", options=LabelOptions(k=8, rule="gain", adaptive=True))


def test_rollouts_keep_their_own_tokens(policy, tmp_path):
    from prmbench.data.problems import Problem

    rollouts = rollout(policy, [Problem("p", "3 + 4?", "7")], tmp_path / "r", prompt=PROMPT, n=4, params=PARAMS)
    marked, name = load_marked(tmp_path / "r", policy.encoder)
    assert name == PROMPT
    assert [one.id for one in marked] == [f"p/{k}" for k in range(4)]
    for one, of in zip(marked, rollouts, strict=True):
        sampled = of.ids[: -1 if of.finish_reason == "stop" else None]
        assert one.ids.tolist() == sampled.tolist()
        assert one.finished == (of.finish_reason == "stop")
    found = run(policy, marked, tmp_path / "labels", options=LabelOptions(k=2))
    for one, of in zip(marked, rollouts, strict=True):
        last = found[one.states()[-1].key]
        if of.finish_reason == "length":  # no room is left
            assert (last.successes, last.trials, last.cut, last.tokens) == (0, 2, 2, 0)
        else:
            assert (last.successes, last.trials) == (2 * of.correct, 2)
    with pytest.raises(UserError, match="were sampled with 'number'"):
        load_marked(tmp_path / "r", policy.encoder, "boxed")


def test_mistakes(policy, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"problem": "1?", "steps": ["a"]}) + "\n")
    with pytest.raises(UserError, match="solution '1' has no field 'answer'"):
        load_marked(path, policy.encoder, PROMPT)
    path.write_text(json.dumps({"problem": "1?", "answer": " ", "steps": ["a"]}) + "\n")
    with pytest.raises(UserError, match="line 1: field 'answer' is blank"):
        load_solutions(path)
    with pytest.raises(UserError, match="field 'trials' is \"x\""):
        parse_count("here", {"problem": "p", "state": "s", "successes": 0, "trials": "x", "cut": 0, "tokens": 0})


def test_the_command(tiny, solutions, tmp_path):
    command = (
        f"label {solutions} --policy {tiny} --prompt {PROMPT} --k 2 --max-new-tokens 40 --output {tmp_path / 'run'}"
    )
    planned = CliRunner().invoke(app, [*command.split(), "--dry-run"])
    assert planned.exit_code == 0, planned.output
    assert planned.stdout.startswith("3 solutions, 11 states, 8 different, 3 finished: 10 continuations at most")
    assert not (tmp_path / "run").exists()
    done = CliRunner().invoke(app, command.split())
    assert done.exit_code == 0, done.output
    assert "3 solutions, 8 states:" in done.stdout
    assert len(load_traces(tmp_path / "run" / "labels.jsonl")) == 3
    again = CliRunner().invoke(app, [*command.split(), "--rule", "thresold"])
    assert "did you mean 'threshold'" in str(again.exception)


def test_blank_steps_share_the_state_before_them(policy, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"problem": "1 + 1?", "answer": "2", "steps": ["It is 2.", "", "2"]}) + "\n")
    (one,) = marked_of(path, policy)
    assert len(one.states()) == 4
    run(policy, [one], tmp_path / "run", options=LabelOptions(k=1))
    assert len(load_traces(tmp_path / "run" / "labels.jsonl")[0].labels) == 3


@pytest.mark.parametrize("adaptive", [False, True])
def test_intervals_of_a_run_cover_the_known_rates(policy, tmp_path, monkeypatch, adaptive):
    """Continuations that are right with a known chance, through the whole run: 300 states, at most 16 continuations each."""
    records = [{"id": f"{i}", "problem": f"{i} + 7?", "answer": "7", "steps": ["We add.", "So 7."]} for i in range(150)]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    marked = marked_of(path, policy)
    right, wrong = (policy.encoder.tokenizer.encode(f"So {n}.", add_special_tokens=False) for n in (7, 8))
    end = min(policy.stop)

    def chance(key):
        return np.random.default_rng(list(key.encode())).uniform(0.02, 0.98)

    def generate(requests, stop, params, seed):
        toss = [np.random.default_rng([*one.key.encode(), one.sample, 9]).random() for one in requests]
        return [
            Completion(np.array([*(right if x < chance(one.key) else wrong), end]), "stop")
            for one, x in zip(requests, toss, strict=True)
        ]

    monkeypatch.setattr(policy.engine, "generate", generate)
    options = LabelOptions(k=16, rule="threshold", adaptive=adaptive)
    found = run(policy, marked, tmp_path / "run", options=options)
    written = [json.loads(line) for line in (tmp_path / "run" / "labels.jsonl").read_text().splitlines()]
    states = [state for one in marked for state in one.states() if state.whole is None]
    rates = np.array([chance(":".join(state.key)) for state in states])
    counts = [found[state.key] for state in states]
    successes, trials = np.array([one.successes for one in counts]), np.array([one.trials for one in counts])
    assert (trials.min() < 16) == adaptive
    places = {state.key: i for i, state in enumerate(states)}
    low, high = share_intervals(successes, trials, options.looks)
    inside = (low <= rates) & (rates <= high)
    assert len(rates) == 300
    assert inside.mean() >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 300)
    # The intervals that are written are those, and labels of states that were left early are seldom wrong.
    for one, record in zip(marked, written, strict=True):
        i = places[one.states()[1].key]
        assert (record["low"][0], record["high"][0]) == (low[i], high[i])
    early = trials < 16
    assert np.mean((successes / trials >= 0.5)[early] == (rates >= 0.5)[early]) >= 0.98 if adaptive else not early.any()


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_bytes(tiny, solutions, tmp_path):
    """Real processes: one that is killed by SIGKILL while it samples, the same command again, and one that nothing stops."""
    command = f"label {solutions} --policy {tiny} --prompt {PROMPT} --k 24 --max-new-tokens 40 --batch-tokens 300"

    def start(output):
        line = [sys.executable, "-m", "prmbench", *command.split(), "--output", str(output)]
        return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    states = tmp_path / "cut" / "states.jsonl"
    process = start(tmp_path / "cut")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (states.exists() and states.read_bytes().count(b"\n") >= 2):
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert 2 <= states.read_bytes().count(b"\n") < 8
    assert not (tmp_path / "cut" / "labels.jsonl").exists()
    assert [start(tmp_path / name).wait() for name in ("cut", "whole")] == [0, 0]
    for name in ("states.jsonl", "labels.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
