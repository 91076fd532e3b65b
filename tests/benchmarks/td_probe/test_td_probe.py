from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from prmbench.benchmarks.registry import recompute
from prmbench.benchmarks.td_probe.benchmark import TD_PROBE, TDProbeOptions
from prmbench.benchmarks.td_probe.metrics import columns_of, compute_td_probe
from prmbench.benchmarks.td_probe.plot import draw_td_probe
from prmbench.benchmarks.td_probe.run import evaluate_td_probe
from prmbench.benchmarks.td_probe.schema import BranchItem
from prmbench.cli.app import app
from prmbench.data.problems import Problem
from prmbench.data.prompts import find_prompt
from prmbench.data.verdicts import Verdict
from prmbench.engines.hf.token_choice import choose
from prmbench.engines.sampling import Request, SamplingParams, uniforms
from prmbench.errors import UserError
from prmbench.policies.policy import load_policy
from prmbench.results.schema import Estimate, Subject, read_entry
from prmbench.reward_models.branch_values import branch_values, branching_model
from prmbench.reward_models.loading import load_reward_model
from prmbench.stats.calibration import margin_logit, sigmoid
from prmbench.verify import verify

PROBLEMS = {
    "a": [Problem(f"p{i}", f"What is {i} + 1?", str(i % 3)) for i in range(5)],
    "b": [Problem("q", "Name a digit.", "7")],
}
TDProbeEntry, read_branches = TD_PROBE.entry_type, TD_PROBE.read_items
OPTIONS = TDProbeOptions(branches=40, top=4, rollouts_per_branch=3)
RUN = {"params": SamplingParams(max_new_tokens=14), "prompt": "number", "n_resamples": 50, "batch_tokens": 1_500}
IPVRM = Subject(name="x", source=None, kind="implicit", objective="ipvrm", beta=10.0, margin=5.0)


@pytest.fixture(scope="module")
def pair(tiny, tiny_tuned):
    policy = load_policy(str(tiny), find_prompt("number"))
    policy.stop |= frozenset(range(3, policy.engine.vocabulary, 6))  # or a random model would hardly ever end
    return load_reward_model(tiny_tuned, reference=tiny, objective="ipvrm", margin=5.0), policy


@pytest.fixture(scope="module")
def probed(pair, tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    entry, path = evaluate_td_probe(
        *pair, PROBLEMS, name="x", source="x", output=folder / "run", options=OPTIONS, **RUN
    )
    return entry, path, read_branches(path.parent / "items.jsonl")


def test_values_of_branches_are_those_of_branches_written_out(pair):
    model = branching_model(pair[0])
    states = [pair[1].encoder.prompt_ids("What is 1 + 1?")]
    states = [np.append(states[0], extra) for extra in ([5, 6, 7], [9])]
    n_prompt = [len(states[0]) - 3, len(states[1]) - 1]
    tokens = [np.array([1, 40, 7]), np.array([0, 2, 90])]
    found = branch_values(model, states, n_prompt, tokens)
    for state, start, wanted, (before, after) in zip(states, n_prompt, tokens, found, strict=True):
        for token, value in zip(wanted, after, strict=True):
            ids = torch.tensor([[*state, int(token)]])
            logs = []
            for engine in (model.model, model.reference.engine()):
                with torch.no_grad():
                    logs.append(engine.model(ids).logits[0].double().log_softmax(-1))
            ratio = (logs[0] - logs[1])[torch.arange(ids.shape[1] - 1), ids[0, 1:]].numpy()
            assert value == pytest.approx(ratio[-1], abs=1e-5)
            assert before == pytest.approx(ratio[start - 1 : -1], abs=1e-5)


def test_every_branch_against_a_plain_loop(pair, probed):
    """Each state, branch and rollout one at a time, the whole sequence again for each token."""
    model, policy = pair
    _, path, items = probed
    template = find_prompt("number")
    problems = {p.id: p for ps in PROBLEMS.values() for p in ps}
    trajectories = {
        (r["id"], r["sample"]): r["ids"]
        for subset in PROBLEMS
        for r in map(json.loads, (path.parent / "trajectories" / subset / "rollouts.jsonl").read_text().splitlines())
    }
    assert len(items) == 40
    assert len({item.state for item in items}) == 10
    n_right = 0
    for item in items:
        problem, whole = problems[item.id], trajectories[item.id, item.sample]
        place = uniforms(0, f"cut:{item.id}", item.sample, 1)[0]
        assert item.t == 1 + int(place * (len(whole) - 1))
        assert 1 <= item.t < item.length == len(whole)
        prompt = policy.encoder.prompt_ids(template.render(problem.problem)).tolist()
        state = [*prompt, *whole[: item.t]]
        with torch.no_grad():
            logp = policy.engine.model(torch.tensor([state])).logits[0, -1].double().log_softmax(-1)
        assert item.logprob == pytest.approx(float(logp.sort(descending=True).values[item.rank]), abs=1e-5)
        assert item.logprob == pytest.approx(float(logp[item.token]), abs=1e-5)
        (values,) = branch_values(model, [np.array(state)], [len(prompt)], [np.array([item.token])])
        assert (item.sum, item.ratio) == pytest.approx((values[0].sum(), values[1][0]), abs=1e-5)
        right = cut = 0
        for k in range(3):
            ids, done = [*state, item.token], item.token in policy.stop
            noise = uniforms(0, f"{item.id}:{item.sample}:{item.rank}", k, 14)
            for t in range(1, 14):
                if done:
                    break
                with torch.no_grad():
                    logits = policy.engine.model(torch.tensor([ids])).logits[:, -1].float()
                ids.append(int(choose(logits, torch.tensor([noise[t]]), RUN["params"])[0]))
                done = ids[-1] in policy.stop
            fits = done and len(ids) - len(prompt) <= 14
            cut += not fits
            text = policy.encoder.tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True)
            right += done and verify([text], [problem.answer], style="number")[0] == Verdict.CORRECT
        assert (item.right, item.cut) == (right, cut)
        n_right += right
    assert n_right > 0


def test_goes_on_where_it_was_cut(pair, probed, tmp_path):
    entry, path, _ = probed
    again, other = evaluate_td_probe(
        *pair, PROBLEMS, name="x", source="x", output=tmp_path / "run", options=OPTIONS, **RUN
    )
    lines = (other.parent / "items.jsonl").read_text().splitlines(keepends=True)
    (other.parent / "items.jsonl").write_text("".join(lines[:17]) + lines[17][:20])
    other.unlink()
    resumed, _ = evaluate_td_probe(
        *pair, PROBLEMS, name="x", source="x", output=tmp_path / "run", options=OPTIONS, **RUN
    )
    assert (other.parent / "items.jsonl").read_bytes() == (path.parent / "items.jsonl").read_bytes()
    assert resumed.provenance.run.resumed_items == 17
    assert resumed.metrics == again.metrics == entry.metrics


def test_recomputed_from_items(probed):
    entry, path, _ = probed
    assert recompute(path).metrics == entry.metrics
    assert recompute(path, n_resamples=0).metrics.branches.pass_rate.low is None
    assert read_entry(path, TDProbeEntry) == entry


def branch(state, rank, **changed):
    fields = {"t": 3, "length": 10, "token": rank, "logprob": -0.1, "sum": 0.5, "ratio": 0.1}
    outcome = {"right": 1, "rolled": 2, "cut": 0}
    return BranchItem("s", f"p{state}", 0, "d", rank, **(fields | outcome | changed))


def test_signals_by_hand():
    items = [branch(0, 0, sum=0.2, ratio=0.1), branch(0, 1, sum=0.2, ratio=-0.3, logprob=np.log(0.05))]
    found = columns_of(items, IPVRM)
    assert found.signals["td"] == pytest.approx([1, -3])
    assert found.signals["value"] == pytest.approx([3, -1])
    assert found.signals["abs_value"] == pytest.approx([3, 1])
    assert found.signals["mean_value"] == pytest.approx([0.75, -0.25])
    before = sigmoid(margin_logit(np.array([2 / 3]), 5.0))[0]
    after = sigmoid(margin_logit(np.array([0.75, -0.25]), 5.0))
    assert found.signals["probability"] == pytest.approx(after - before)
    assert found.position.tolist() == [0.3, 0.3]
    dpo = IPVRM.model_copy(update={"objective": "dpo"})
    assert "probability" not in columns_of(items, dpo).signals


def test_candidates_are_of_states_that_have_several():
    items = [branch(s, r, logprob=np.log(0.45 if s == 0 else 0.9 / 9**r)) for s in range(3) for r in range(2)]
    found = compute_td_probe(items, IPVRM, n_resamples=0, seed=0)
    assert (found.candidates.n_states, found.candidates.n_branches) == (3, 6)
    items = [branch(s, r, logprob=np.log(0.45 if s == 0 else 0.9 / 10**r)) for s in range(3) for r in range(2)]
    found = compute_td_probe(items, IPVRM, n_resamples=0, seed=0)
    assert (found.candidates.n_states, found.candidates.n_branches) == (1, 2)
    assert found.mass == pytest.approx((0.9 + 0.99 + 0.99) / 3)


def test_correction_is_refused_where_there_is_only_noise():
    rng = np.random.default_rng(0)
    noise = [branch(s, r, right=int(rng.binomial(4, 0.5)), rolled=4) for s in range(40) for r in range(5)]
    found = compute_td_probe(noise, IPVRM, n_resamples=200, seed=0).branches
    assert found.signals["td"].corrected.value is None
    assert "reliability" in found.notes[0]
    once = [branch(s, r, right=int((s, r) == (0, 0)), rolled=4, ratio=0.1 * r) for s in range(20) for r in range(5)]
    found = compute_td_probe(once, IPVRM, n_resamples=200, seed=0).branches  # its reliability is 0 but for rounding
    assert found.signals["td"].within_corrected.value is None
    single = [branch(s, r, right=int(rng.integers(2)), rolled=1) for s in range(9) for r in range(5)]
    notes = compute_td_probe(single, IPVRM, n_resamples=10, seed=0).branches.notes
    assert all("one rollout" in note for note in notes)


def test_positions_hold_every_branch_once():
    items = [branch(s, r, t=1 + s, length=11) for s in range(10) for r in range(2)]
    found = compute_td_probe(items, IPVRM, n_resamples=0, seed=0)
    assert [one.n_branches for one in found.positions] == [4, 4, 4, 4, 4]


def test_other_kinds_and_vocabularies_are_refused(tiny, pair, tmp_path):
    endo = load_reward_model(tiny, kind="endo")
    with pytest.raises(UserError, match="a log-ratio to a reference"):
        evaluate_td_probe(endo, pair[1], PROBLEMS, name="x", source="x", output=tmp_path, options=OPTIONS, **RUN)
    with pytest.raises(UserError, match="`top=9999`: the policy knows"):
        evaluate_td_probe(
            *pair, PROBLEMS, name="x", source="x", output=tmp_path, options=replace(OPTIONS, top=9_999), **RUN
        )


def test_a_reward_model_with_too_few_positions(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(pair[0], "max_length", 12)
    with pytest.raises(UserError, match="the model 12 positions"):
        evaluate_td_probe(*pair, PROBLEMS, name="x", source="x", output=tmp_path, options=OPTIONS, **RUN)


def test_every_set_has_its_turn(pair, tmp_path):
    options = replace(OPTIONS, branches=12)  # three states of two sets, the first of which has five problems
    _, path = evaluate_td_probe(*pair, PROBLEMS, name="x", source="x", output=tmp_path, options=options)
    states = {item.state for item in read_branches(path.parent / "items.jsonl")}
    assert states == {("a", "p0", 0), ("a", "p1", 0), ("b", "q", 0)}


def test_a_picture_where_an_interval_leaves_its_figure_out():
    """As percentile intervals may, of few resamples above all."""
    items = [branch(s, r, t=1 + s, ratio=0.1 * r, right=r % 3) for s in range(3) for r in range(5)]
    metrics = compute_td_probe(items, IPVRM, n_resamples=0, seed=0)
    off = [one.model_copy(update={"value_auc": Estimate(value=0.5, low=0.6, high=0.7)}) for one in metrics.positions]
    entry = SimpleNamespace(subject=IPVRM, metrics=metrics.model_copy(update={"positions": off}))
    assert len(draw_td_probe(SimpleNamespace(entry=entry, items=items)).axes) == 3


def test_a_margin_that_nothing_says_has_no_link():
    unknown = IPVRM.model_copy(update={"margin": None})
    assert "probability" not in columns_of([branch(0, 0), branch(0, 1)], unknown).signals


def test_a_forced_first_token(pair):
    engine, stop = pair[1].engine, pair[1].stop
    prompt = pair[1].encoder.prompt_ids("What is 1 + 1?")
    params = SamplingParams(max_new_tokens=6)
    (free,) = engine.generate([Request(prompt, "k", 0)], stop, params, 3)
    forced = engine.generate(
        [Request(prompt, "k", 0, forced=t) for t in (int(free.ids[0]), 65, min(stop))], stop, params, 3
    )
    assert forced[0].ids.tolist() == free.ids.tolist()
    assert forced[1].ids[0] == 65
    assert (forced[2].ids.tolist(), forced[2].finish_reason) == ([min(stop)], "stop")


def test_the_command(tiny, tiny_tuned, tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text("".join(json.dumps(p.__dict__) + "\n" for p in PROBLEMS["a"]))
    asked = ["probe", "td", "--rm", tiny_tuned, "--reference", tiny, "--policy", tiny, "--subset", file]
    asked += ["--branches", 6, "--top", 2, "--rollouts-per-branch", 2, "--max-new-tokens", 8, "--prompt", "number"]
    asked += ["--resamples", 20, "--output", tmp_path / "run"]
    done = CliRunner().invoke(app, list(map(str, asked)))
    assert done.exit_code == 0, done.output
    assert "6 branches (2 likeliest next tokens of 3 states" in done.stdout
    assert (tmp_path / "run" / "td-probe.svg").read_text().startswith("<?xml")
    again = CliRunner().invoke(app, ["eval", "--from-items", str(tmp_path / "run"), "--json"])
    assert json.loads(again.stdout)["metrics"] == json.loads((tmp_path / "run" / "entry.json").read_text())["metrics"]
