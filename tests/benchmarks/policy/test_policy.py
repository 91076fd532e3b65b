from __future__ import annotations

import json

import numpy as np
import pytest
import support
from typer.testing import CliRunner

import prmbench
from prmbench.benchmarks.policy.benchmark import POLICY_BENCHMARK
from prmbench.benchmarks.policy.metrics import compute_policy_metrics
from prmbench.benchmarks.policy.run import PRESETS, evaluate_policy, policy_from_rollouts
from prmbench.benchmarks.policy.schema import CompletionOutcome, PolicyEntry
from prmbench.benchmarks.registry import load_measured, recompute
from prmbench.cli.app import app
from prmbench.data.problems import Problem
from prmbench.data.prompts import find_prompt
from prmbench.data.tokens import TokenOptions
from prmbench.data.verdicts import Verdict
from prmbench.engines.sampling import SamplingParams
from prmbench.errors import UserError
from prmbench.policies.policy import load_policy
from prmbench.results.schema import read_entry
from prmbench.stats.repeats import majority, pass_at_k
from prmbench.verify import VerifierOptions

read_completions = POLICY_BENCHMARK.read_items
PROBLEMS = {
    "easy": [Problem(f"e{i}", f"What is {i} + 1?", str(i + 1)) for i in range(3)],
    "hard": [Problem(f"h{i}", f"What is {i} * 7?", str(7 * i)) for i in range(2)],
}
PARAMS = SamplingParams(max_new_tokens=6, temperature=0.6, top_p=0.95)


def item(subset, problem, sample, verdict, answer, tokens=5, reason="stop"):
    return CompletionOutcome(subset, problem, sample, problem, Verdict(verdict), reason, tokens, answer)


def made(seed=0, n=4):
    rng = np.random.default_rng(seed)
    items = []
    for subset, count in (("a", 12), ("b", 7)):
        for p in range(count):
            for s in range(n):
                answer = int(rng.integers(-1, 3))
                verdict = "correct" if answer == 0 else "unparsed" if answer == -1 else "wrong"
                reason = "length" if rng.random() < 0.1 else "stop"
                items.append(item(subset, f"{subset}{p}", s, verdict, answer, int(rng.integers(1, 90)), reason))
    return items


def test_figures_equal_plain_loops():
    items = made()
    found = compute_policy_metrics(items, 200, 0)
    means = []
    for subset in ("a", "b"):
        groups = {}
        for one in items:
            if one.subset == subset:
                groups.setdefault(one.id, []).append(one)
        right = {p: [i.verdict == Verdict.CORRECT for i in g] for p, g in groups.items()}
        result = found.subsets[subset]
        means.append(np.mean([np.mean(r) for r in right.values()]))
        assert result.average.value == pytest.approx(means[-1])
        assert result.average.low <= means[-1] <= result.average.high
        for k in (1, 2, 4):
            wanted = np.mean([pass_at_k(4, sum(r), k) for r in right.values()])
            assert result.pass_at[str(k)].value == pytest.approx(wanted)
        assert result.pass_at["1"].value == pytest.approx(result.average.value)
        votes = [majority([i.answer for i in groups[p]], right[p]) for p in groups]
        assert result.majority.value == pytest.approx(np.mean(votes))
        mine = [i for g in groups.values() for i in g]
        assert result.truncated.value == pytest.approx(np.mean([i.finish_reason == "length" for i in mine]))
        assert result.mean_tokens.value == pytest.approx(np.mean([i.n_tokens for i in mine]))
        assert sum(result.verdicts.values()) == len(mine)
    assert found.mean["average"].value == pytest.approx(np.mean(means))


def test_figures_do_not_depend_on_order_or_on_other_sets():
    items = made()
    whole = compute_policy_metrics(items, 100, 3)
    assert compute_policy_metrics(items[::-1], 100, 3).subsets["a"] == whole.subsets["a"]
    alone = compute_policy_metrics([i for i in items if i.subset == "a"], 100, 3)
    assert alone.subsets["a"] == whole.subsets["a"]


def test_hand_worked():
    items = [
        item("s", "p", 0, "correct", 0),
        item("s", "p", 1, "wrong", 1),
        item("s", "q", 0, "wrong", 1),
        item("s", "q", 1, "wrong", 1, reason="length"),
    ]
    found = compute_policy_metrics(items, 0, 0).subsets["s"]
    assert (found.average.value, found.pass_at["2"].value, found.majority.value) == (0.25, 0.5, 0.25)
    assert found.truncated.value == 0.25
    assert found.average.low is None
    with pytest.raises(UserError, match="problems have 1 to 2 completions"):
        compute_policy_metrics(items[:-1], 0, 0)


@pytest.fixture(scope="module")
def policy(tiny):
    return load_policy(str(tiny), find_prompt("bare"))


def run(policy, output, **change):
    options = {"name": "tiny", "source": "tiny", "n": 3, "params": PARAMS, "prompt": "bare", "n_resamples": 50}
    return evaluate_policy(policy, PROBLEMS, output=output, **{**options, **change})


def test_entry_and_its_items(policy, tmp_path):
    entry, path = run(policy, tmp_path / "out")
    assert read_entry(path, PolicyEntry) == entry
    assert entry.subject.kind == "policy"
    assert {name: data.n_items for name, data in entry.benchmark.subsets.items()} == {"easy": 3, "hard": 2}
    items = read_completions(tmp_path / "out" / "items.jsonl")
    assert len(items) == 15
    assert compute_policy_metrics(items, 50, 0) == entry.metrics
    assert recompute(tmp_path / "out").metrics == entry.metrics
    text = path.read_text() + (tmp_path / "out" / "items.jsonl").read_text()
    assert "What is" not in text  # never problem text
    assert str(tmp_path) not in text
    assert entry.provenance.run.tokens == sum(i.n_tokens for i in items)
    again, _ = run(policy, tmp_path / "out")  # nothing is sampled again
    assert again.metrics == entry.metrics
    assert again.provenance.run == entry.provenance.run  # which is still the one that computed it


def test_what_makes_two_entries_comparable(policy, tmp_path):
    base, _ = run(policy, tmp_path / "a")
    same, _ = run(policy, tmp_path / "b", seed=5, batch_tokens=64)
    assert same.benchmark.fingerprint == base.benchmark.fingerprint
    changes = (
        {"n": 4},
        {"params": PARAMS.model_copy(update={"top_p": 0.9})},
        {"prompt": "number"},
        {"verifier": VerifierOptions("paper")},
        {"verifier": VerifierOptions(tolerance=0.01)},
    )
    for i, change in enumerate(changes):
        other, _ = run(policy, tmp_path / f"c{i}", **change)
        assert other.benchmark.fingerprint != base.benchmark.fingerprint
        again, _ = policy_from_rollouts([tmp_path / f"c{i}" / name for name in PROBLEMS], name="x", n_resamples=50)
        assert (again.benchmark, again.metrics) == (other.benchmark, other.metrics)


def test_from_rollouts_needs_no_model_and_gives_the_same(policy, tmp_path):
    entry, _ = run(policy, tmp_path / "out")
    folders = [tmp_path / "out" / name for name in PROBLEMS]
    found, _ = policy_from_rollouts(folders, name="x", output=tmp_path / "from", n_resamples=50)
    assert found.metrics == entry.metrics
    assert found.benchmark == entry.benchmark
    assert found.subject.weights == entry.subject.weights
    run(policy, tmp_path / "other", n=2)
    with pytest.raises(UserError, match="of another policy or other sampling settings"):
        policy_from_rollouts([folders[0], tmp_path / "other" / "hard"], name=None, output=tmp_path / "x")
    lines = (folders[0] / "rollouts.jsonl").read_text().splitlines(keepends=True)
    (folders[0] / "rollouts.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(UserError, match=r"is not the whole run that its run\.json describes"):
        policy_from_rollouts(folders, name=None, output=tmp_path / "y")
    (folders[0] / "rollouts.jsonl").write_text("".join(lines[:3]))  # whole problems, but not all
    with pytest.raises(UserError, match=r"is not the whole run that its run\.json describes"):
        policy_from_rollouts(folders, name=None, output=tmp_path / "y")
    with pytest.raises(UserError, match="two runs are called 'hard'"):
        policy_from_rollouts([folders[1], folders[1]], name=None, output=tmp_path / "z")


def test_tampered_items_are_refused(policy, tmp_path):
    run(policy, tmp_path / "out")
    path = tmp_path / "out" / "items.jsonl"
    path.write_text(
        path.read_text().replace('"verdict": "wrong"', '"verdict": "correct"').replace("unparsed", "correct")
    )
    with pytest.raises(UserError, match=r"is not the file that .*entry\.json describes"):
        recompute(tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"verdict": "right"}, 'field .verdict. is "right"'),
        ({"n_tokens": "5"}, "field 'n_tokens'"),
        ({"sample": True}, "field 'sample'"),
        ({"n_tokens": 10**400}, "field 'n_tokens' .* expected a whole number from 0 below"),
        ({"n_tokens": -3}, "field 'n_tokens' is -3"),
        ({"answer": -5}, "field 'answer' is -5; expected a whole number from -1"),
        ({"finish_reason": "xx"}, 'field .finish_reason. is "xx"; expected .stop., .length. or .prompt.'),
    ],
)
def test_wrong_items_are_named(tmp_path, change, message):
    fields = {**json.loads(item("s", "p", 0, "correct", 0).line()), **change}
    (tmp_path / "i.jsonl").write_text(json.dumps(fields) + "\n")
    with pytest.raises(UserError, match=f"line 1: {message}"):
        read_completions(tmp_path / "i.jsonl")


def test_an_answer_is_one_of_the_problems_completions(tmp_path):
    (tmp_path / "i.jsonl").write_text(item("s", "p", 0, "correct", 0).line() + item("s", "p", 1, "wrong", 2).line())
    with pytest.raises(UserError, match="sample 1 of 'p': field 'answer' is 2; expected one below the problem's 2"):
        read_completions(tmp_path / "i.jsonl")


def test_a_folder_holds_one_evaluation(policy, tmp_path, monkeypatch):
    """Another problem set does not take the first one's folder, by name or by default; nor does an entry of a reward model's."""
    options = {"name": "../esc", "source": "tiny", "n": 1, "params": PARAMS, "prompt": "bare", "n_resamples": 0}
    monkeypatch.chdir(tmp_path)
    paths = [evaluate_policy(policy, {name: PROBLEMS[name]}, **options)[1] for name in PROBLEMS]
    assert len({path.parent for path in paths}) == 2
    assert all(path.parent.parent.resolve() == tmp_path / "prmbench-results" for path in paths)
    assert evaluate_policy(policy, {"easy": PROBLEMS["easy"]}, **options)[1] == paths[0]  # the same call goes on
    before = (paths[0].parent / "items.jsonl").read_bytes()
    with pytest.raises(UserError, match="holds a run with other settings"):
        evaluate_policy(policy, {"hard": PROBLEMS["hard"]}, output=paths[0].parent, **options)
    other = tmp_path / "best-of-n"
    other.mkdir()
    (other / "run.json").write_text('{"benchmark": {"name": "best-of-n"}}')
    (other / "items.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="holds a run with other settings"):
        policy_from_rollouts([paths[0].parent / "easy"], name=None, output=other)
    done = CliRunner().invoke(app, ["eval", "--from-items", str(paths[1].parent), "--output", str(paths[0].parent)])
    assert "holds another run; pass another --output" in str(done.exception)
    assert (paths[0].parent / "items.jsonl").read_bytes() == before
    assert (other / "items.jsonl").read_text() == "{}\n"


@pytest.mark.parametrize("line", [b'{"id": broken', b"\xff"])
def test_a_broken_line_is_named_when_a_run_goes_on(policy, tmp_path, line):
    run(policy, tmp_path / "out")
    file = tmp_path / "out" / "easy" / "rollouts.jsonl"
    first, _, *rest = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([first, line, *rest]) + b"\n")
    with pytest.raises(
        UserError,
        match=r"rollouts.jsonl, line 2(, column 8: broken JSON .*; mend or delete the line|: not UTF-8 at byte 0)",
    ):
        run(policy, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "field"),
    [({"n": "8"}, "'n'"), ({"numerics": []}, "'numerics'"), ({"sampling": {"top_p": 7}}, "'sampling'")],
)
def test_edited_settings_are_named(policy, tmp_path, change, field):
    run(policy, tmp_path / "out")
    file = tmp_path / "out" / "easy" / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(UserError, match=f"run.json: field {field}"):
        policy_from_rollouts([file.parent], name=None, output=tmp_path / "x")
    with pytest.raises(
        UserError, match=r"is no run of rollouts .a problem set has a folder of its own: .*easy, .*hard"
    ):
        policy_from_rollouts([tmp_path / "out"], name=None, output=tmp_path / "x")


def test_the_first_problems_only_are_said_where_there_are_more(policy, tiny, tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps({"id": i, "problem": f"{i} + 1?", "answer": i + 1}) + "\n" for i in range(3)))
    found = {}
    for limit in (2, 5):
        found[limit], _ = prmbench.measure_policy(
            str(tiny), subsets=[str(file)], limit=limit, n=1, params=PARAMS, n_resamples=0, output=tmp_path / str(limit)
        )
    assert (found[2].benchmark.limit, found[5].benchmark.limit) == (2, None)
    again, _ = policy_from_rollouts([tmp_path / "2" / "mine"], name=None, output=tmp_path / "again")
    assert again.benchmark == found[2].benchmark


def test_presets_are_those_of_the_paper_and_its_code():
    assert (PRESETS["paper"].temperature, PRESETS["paper"].top_p, PRESETS["paper"].top_k) == (0.6, 0.95, 0)
    assert (PRESETS["released"].temperature, PRESETS["released"].top_p, PRESETS["released"].top_k) == (0.7, 0.8, 20)


def test_command_line(tiny, tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text('{"id": "1", "problem": "2 + 2?", "answer": "4"}\n')
    command = [
        "eval",
        "--policy",
        str(tiny),
        "--subset",
        str(file),
        "--n",
        "2",
        "--max-new-tokens",
        "4",
        "--prompt",
        "bare",
    ]
    done = CliRunner().invoke(app, [*command, "--output", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "avg@2" in done.output
    assert "Temperature 0.6, top-p 0.95, top-k off, up to 4 tokens; prompt template 'bare'." in done.output
    again = CliRunner().invoke(app, ["eval", "--from-items", str(tmp_path / "out"), "--json"])
    assert json.loads(again.output)["benchmark"]["name"] == "policy"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--policy", "p", "--rm", "r"], "--rm and --policy: pass one of"),
        ([], "nothing to evaluate: pass one of"),
        (["--policy", "p", "--benchmark", "processbench"], "--benchmark processbench: needs a reward model"),
        (["--rm", "r", "--benchmark", "policy"], "--benchmark policy: needs --policy CKPT"),
        (["--rm", "r", "--benchmark", "best-of-n"], "--benchmark best-of-n and --rollouts FILE go together"),
        (["--rm", "r", "--benchmark", "math"], "--benchmark math: not known"),
        (["--policy", "p", "--rollouts", "s", "--kind", "endo"], "--kind, --rollouts: it means nothing for policy"),
        (["--from-rollouts", "r", "--n", "2"], "--n: the completions are already sampled"),
        (["--rm", "r", "--rollouts", "x", "--subset", "s"], "--subset: it means nothing for best-of-n"),
        (["--policy", "p", "--preset", "x"], "--preset x: expected paper or released"),
        (["--policy", "p", "--verifier", "exact"], "--verifier exact: expected strict, paper, or"),
        (["--rm", "r", "--verifier", "paper"], "--verifier: it means nothing for processbench"),
        (["--policy", "p", "--n", "2", "--n", "4"], "--n 2 4: expected one number"),
    ],
)
def test_options_that_do_not_fit_are_one_sentence(options, message):
    done = CliRunner().invoke(app, ["eval", *options])
    assert isinstance(done.exception, UserError)
    assert message in str(done.exception)


def test_two_runs_with_different_prompts_never_share_a_fingerprint(tiny, tmp_path):
    ways = {
        "own": {},
        "same": {},
        "arguments": {"tokens": TokenOptions(template_args={"enable_thinking": False})},
        "template": {"chat_template": support.THINKING_TEMPLATE},
    }
    found = {}
    for name, way in ways.items():
        policy = load_policy(str(tiny), find_prompt("boxed"), **way)
        entry, _ = evaluate_policy(policy, PROBLEMS, name=name, source=name, output=tmp_path / name, n=1, params=PARAMS)
        again, _ = policy_from_rollouts([tmp_path / name / "easy", tmp_path / name / "hard"], name=name)
        assert again.benchmark.fingerprint == entry.benchmark.fingerprint
        found[name] = entry.benchmark.fingerprint
    assert found["own"] == found["same"]
    assert len(set(found.values())) == 3


@pytest.mark.parametrize("name", ["temperature", "top_p", "top_k", "max_new_tokens", "sampling", "prompt"])
def test_an_entry_that_does_not_say_how_it_was_sampled(policy, tmp_path, name):
    _, path = run(policy, tmp_path / "out")
    fields = json.loads(path.read_text())
    settings = fields["benchmark"]["settings"]
    (settings if name in settings else settings["sampling"]).pop(name)
    path.write_text(json.dumps(fields))
    with pytest.raises(UserError, match=f"benchmark.settings.*field '{name}' is"):
        load_measured(path)
