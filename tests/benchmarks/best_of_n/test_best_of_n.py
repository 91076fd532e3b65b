from __future__ import annotations

import io
import itertools
import json
import math

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

import prmbench
from prmbench.benchmarks.best_of_n.benchmark import BEST_OF_N
from prmbench.benchmarks.best_of_n.metrics import completion_scores, compute_best_of_n
from prmbench.benchmarks.best_of_n.plot import plot_best_of_n
from prmbench.benchmarks.best_of_n.schema import CompletionScores
from prmbench.benchmarks.best_of_n.table import against_no_model, render
from prmbench.benchmarks.judged import Completions, judge
from prmbench.benchmarks.registry import load_measured, recompute
from prmbench.cli.app import app
from prmbench.data.completions import StoredCompletion
from prmbench.data.prompts import find_prompt
from prmbench.errors import UserError
from prmbench.resources import resource_folder
from prmbench.results.schema import Estimate, Subject, read_entry
from prmbench.reward_models.loading import load_reward_model
from prmbench.reward_models.objectives import Convention
from prmbench.stats.repeats import majority

BestOfNEntry, read_candidates = BEST_OF_N.entry_type, BEST_OF_N.read_items
NAME = "smollm2-135m-ipvrm-best-of-n-math100"
SUM = Convention("sum", 2.0, 0.0)


def item(problem, sample, correct, answer, sums, *, subset="s", end=0.5):
    tokens = np.arange(1, len(sums) + 1)
    return CompletionScores(
        subset,
        problem,
        sample,
        f"{problem}/{sample}",
        correct,
        answer,
        int(tokens.sum()) + 1,
        tokens,
        np.array(sums),
        sum(sums) + end,
        None,
    )


def made(n=6, problems=5, seed=0):
    rng = np.random.default_rng(seed)
    out = []
    for p in range(problems):
        for s in range(n):
            answer = int(rng.integers(-1, 3))
            out.append(
                item(f"p{p}", s, answer == 0, answer, rng.integers(-2, 3, size=rng.integers(1, 4)).astype(float))
            )
    return out


def groups(items):
    out = {}
    for one in items:
        out.setdefault(one.id, []).append(one)
    return list(out.values())


def slow(group, scores, size, estimator):
    """Every subset, one at a time."""
    drawn = [tuple(range(size))] if estimator == "first" else itertools.combinations(range(len(group)), size)
    outcomes = []
    for subset in drawn:
        best = max(scores[i] for i in subset)
        tied = [group[i].correct for i in subset if scores[i] == best]
        outcomes.append(sum(tied) / len(tied))
    return np.mean(outcomes)


@pytest.mark.parametrize("estimator", ["expected", "first"])
def test_figures_equal_enumeration(estimator):
    items = made()
    found = compute_best_of_n(items, SUM, n_resamples=20)
    assert found.sizes == [1, 2, 4, 6]
    result = found.subsets["s"]
    for size in found.sizes:
        for name in ("sum", "token_mean", "min", "last", "product", "mean"):
            per_problem = [
                slow(g, [completion_scores(i, SUM)[name] for i in g], size, estimator) for g in groups(items)
            ]
            assert result.scores[name][str(size)][estimator].value == pytest.approx(np.mean(per_problem)), name
        drawn = [tuple(range(size))] if estimator == "first" else list(itertools.combinations(range(6), size))
        any_right = [np.mean([any(g[i].correct for i in s) for s in drawn]) for g in groups(items)]
        assert result.baselines["pass"][str(size)][estimator].value == pytest.approx(np.mean(any_right))
        for name in ("majority", "weighted_majority"):
            votes = []
            for g in groups(items):
                own = [completion_scores(i, SUM)["sum"] for i in g]
                weights = [1 / (1 + math.exp(-x)) for x in own] if name == "weighted_majority" else [1.0] * len(g)
                votes.append(
                    np.mean(
                        [
                            majority([g[i].answer for i in s], [g[i].correct for i in s], [weights[i] for i in s])
                            for s in drawn
                        ]
                    )
                )
            assert result.baselines[name][str(size)][estimator].value == pytest.approx(np.mean(votes)), name
    everything = found.sizes[-1]
    assert result.scores["sum"][str(everything)]["expected"] == result.scores["sum"][str(everything)]["first"]


def test_scores_hand_worked():
    one = item("p", 0, True, 0, [1.0, -2.0], end=0.5)  # one token, two tokens, and the end of turn
    found = completion_scores(one, Convention("token_mean", 10.0, 5.0))
    assert next(iter(found)) == "token_mean"
    assert found["sum"] == pytest.approx(10 * -0.5)
    assert found["token_mean"] == pytest.approx(10 * -0.5 / 4)
    assert (found["min"], found["last"], found["mean"]) == (-20.0, -20.0, -5.0)
    assert found["product"] == pytest.approx(-math.log1p(math.exp(-10)) - math.log1p(math.exp(20)))


def test_a_prompt_without_room_is_chosen_last():
    empty = CompletionScores("s", "p", 0, "d", False, -1, 0, np.zeros(1, dtype=np.int64), np.zeros(1), 0.0, None)
    assert set(completion_scores(empty, SUM).values()) == {-math.inf}
    worse = [item("p", 1, True, 0, [-50.0]), item("p", 2, True, 0, [-60.0])]
    found = compute_best_of_n([empty, *worse], SUM, sizes=[2], n_resamples=0).subsets["s"]
    assert found.scores["sum"]["2"]["expected"].value == 1.0
    assert found.baselines["shortest"]["2"]["expected"].value == 1.0


def test_each_kind_scores_its_own_way():
    def own(**fields):
        return Convention.of(Subject(name="n", source=None, **fields)).own

    assert own(kind="implicit", objective="ipvrm_late") == "token_mean"
    assert own(kind="implicit", objective="dpo") == own(kind="implicit", objective="implicit_prm") == "sum"
    assert own(kind="implicit") == "sum"
    assert own(kind="q_rm", objective="q_rm") == own(kind="endo") == "token_mean"
    assert own(kind="classifier", step_valued=True) == "product"


def test_mean_over_sets_and_order():
    items = made() + [CompletionScores(**{**one.__dict__, "subset": "t"}) for one in made(seed=1)]
    found = compute_best_of_n(items, SUM, n_resamples=30, seed=2)
    assert found.mean.scores["sum"]["4"]["expected"].value == pytest.approx(
        np.mean([found.subsets[s].scores["sum"]["4"]["expected"].value for s in "st"])
    )
    assert compute_best_of_n(items[::-1], SUM, n_resamples=30, seed=2).subsets["s"] == found.subsets["s"]
    with pytest.raises(UserError, match="`sizes=7`: there are 6 completions"):
        compute_best_of_n(items, SUM, sizes=[7])
    with pytest.raises(UserError, match="problems have 5 to 6 completions"):
        compute_best_of_n(items[:-1], SUM)


def candidates(tmp_path):
    records = [
        {
            "id": f"p{p}",
            "problem": f"What is {p} + 2?",
            "answer": str(p + 2),
            "samples": [
                {"text": f"First, {p} + 2.\n\nSo \\boxed{{{p + 2}}}."},
                {"text": f"It is \\boxed{{{p + 3}}}."},
                {"text": "I do not know."},
                {"text": f"Hm.\n\nSo \\boxed{{{p + 2}.0}}."},
            ],
        }
        for p in range(4)
    ]
    file = tmp_path / "samples.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in records))
    return file


def test_entry_of_a_real_model(tiny, tiny_tuned, tmp_path):
    file = candidates(tmp_path)
    options = {"reference": str(tiny), "objective": "ipvrm", "n_resamples": 40}
    entry, path = prmbench.rerank(tiny_tuned, [file], output=tmp_path / "out", **options)
    assert read_entry(path, BestOfNEntry) == entry
    assert entry.metrics.own == "token_mean"
    assert entry.metrics.mean.baselines["mean"]["4"]["expected"].value == 0.5  # two of four are right
    items = read_candidates(tmp_path / "out" / "items.jsonl")
    assert [i.answer for i in items[:4]] == [0, 1, -1, 0]
    model = load_reward_model(tiny_tuned, reference=tiny, objective="ipvrm")
    first = items[0]
    trace = model.encoder.encode_response(
        model.encoder.prompt_ids(find_prompt("boxed").render("What is 0 + 2?")), "First, 0 + 2.\n\nSo \\boxed{2}."
    )
    values = model.token_values([trace])[0]
    assert first.total == pytest.approx(values.sum(), abs=1e-4)
    assert first.sums == pytest.approx(trace.step_sums(values), abs=1e-4)
    assert (first.length, len(first.n_tokens)) == (len(values), 2)
    assert recompute(tmp_path / "out").metrics == entry.metrics
    text = path.read_text() + (tmp_path / "out" / "items.jsonl").read_text()
    assert "What is" not in text
    assert "do not know" not in text

    endo, _ = prmbench.rerank(tiny, [file], output=tmp_path / "endo", kind="endo", n_resamples=40)
    assert endo.benchmark.fingerprint == entry.benchmark.fingerprint
    assert endo.metrics.own == "decayed_sum"
    assert endo.subject.scoring == {"decay": 0.95, "decay_floor": 0.0}
    alone = load_reward_model(tiny, kind="endo")
    (values,) = alone.token_values([trace])
    weighted = sum(0.95**h * value for h, value in enumerate(values))
    items = read_candidates(tmp_path / "endo" / "items.jsonl")
    assert items[0].weighted == pytest.approx(weighted, abs=1e-4)
    assert next(iter(completion_scores(items[0], Convention.of(endo.subject)).items())) == (
        "decayed_sum",
        items[0].weighted,
    )
    assert recompute(tmp_path / "endo").metrics == endo.metrics
    without = CompletionScores(**{**items[0].__dict__, "weighted": None})
    with pytest.raises(UserError, match="'p0/0' has no field 'weighted'"):
        completion_scores(without, Convention.of(endo.subject))
    for name in ("plot.svg", "plot.png"):
        assert plot_best_of_n([entry, endo], tmp_path / name).stat().st_size > 1000
    other, _ = prmbench.rerank(tiny, [file], output=tmp_path / "other", kind="endo", limit=2, n_resamples=40)
    assert (entry.benchmark.limit, other.benchmark.limit) == (None, 2)
    with pytest.raises(UserError, match="`sizes=9`: there are 4 completions"):  # before anything is scored
        prmbench.rerank(tiny, [file], output=tmp_path / "none", kind="endo", sizes=[9])
    assert not (tmp_path / "none").exists()
    with pytest.raises(UserError, match="different completions"):
        plot_best_of_n([entry, other], tmp_path / "x.svg")


def short_steps(tmp_path):
    plugin = tmp_path / "short.py"
    plugin.write_text(
        "import numpy as np\n"
        "from prmbench import RewardModel, StepScores, register\n"
        "from prmbench.data.tokens import TraceEncoder\n"
        "from prmbench.engines.tokenizer import load_tokenizer\n"
        "@register('short-steps')\n"
        "class Short(RewardModel):\n"
        "    step_valued = True\n"
        "    @classmethod\n"
        "    def load(cls, request):\n"
        "        model = cls(); model.card = request.card\n"
        "        model.encoder = TraceEncoder(load_tokenizer(request.folder, request.options), request.card.tokens)\n"
        "        model.vocabulary, model.max_length, model.hashes, model.facts = 10**9, None, {}, {}\n"
        "        return model\n"
        "    def device_and_dtype(self): return 'cpu', 'float32'\n"
        "    def score(self, batch):\n"
        "        return [StepScores(t.step_counts(), scores=-t.step_counts().astype(np.float64)) for t in batch]\n"
    )
    return plugin


def test_a_step_valued_model(tiny, tmp_path):
    entry, _ = prmbench.rerank(
        tiny,
        [candidates(tmp_path)],
        output=tmp_path / "out",
        kind="short-steps",
        plugin=short_steps(tmp_path),
        n_resamples=10,
    )
    assert entry.metrics.own == "product"
    assert set(entry.metrics.mean.scores) == {"product", "min", "last", "mean"}
    assert recompute(tmp_path / "out").metrics == entry.metrics


@pytest.mark.parametrize("change", [{"kind": "endo"}, {"kind": "marked"}])
def test_a_problem_without_room_is_never_chosen_and_never_run(tiny, tmp_path, change):
    """Its prompt is longer than the model takes; the others are scored as if it was not there."""
    if change["kind"] == "marked":
        change = {"kind": "short-steps", "plugin": short_steps(tmp_path)}
    rollouts = [
        {
            "id": problem,
            "sample": k,
            "problem": "What is 1 + 1? " * (600 if problem == "long" else 1),
            "answer": "2",
            "completion": "" if problem == "long" else f"It is \\boxed{{{k + 2}}}",
            "ids": [] if problem == "long" else [5, 6, 7],
            "finish_reason": "prompt" if problem == "long" else "stop",
        }
        for problem in ("short", "long")
        for k in range(2)
    ]
    files = [tmp_path / "both.jsonl", tmp_path / "one.jsonl"]
    for file, kept in zip(files, (rollouts, rollouts[:2]), strict=True):
        file.write_text("".join(json.dumps(r) + "\n" for r in kept))
    both, one = (
        prmbench.rerank(tiny, [file], output=tmp_path / file.stem, n_resamples=0, prompt="bare", **change)[0]
        for file in files
    )
    items = read_candidates(tmp_path / "both" / "items.jsonl")
    assert [i.length == 0 for i in items] == [False, False, True, True]
    assert all(v == -math.inf for v in completion_scores(items[2], Convention.of(both.subject)).values())
    assert both.provenance.run.tokens == one.provenance.run.tokens
    value = {e: f.metrics.mean.scores[f.metrics.own]["2"]["expected"].value for e, f in (("both", both), ("one", one))}
    assert value["both"] == value["one"] / 2


def test_a_text_without_ids_is_scored(tiny, tmp_path):
    """Rollouts of another tool may hold no ids; only what has no text either was never sampled."""
    one = {"id": "p", "sample": 0, "problem": "1 + 1?", "answer": "2", "completion": "It is \\boxed{2}", "ids": []}
    (tmp_path / "r.jsonl").write_text(json.dumps({**one, "finish_reason": "stop"}) + "\n")
    prmbench.rerank(tiny, [tmp_path / "r.jsonl"], output=tmp_path / "out", kind="endo", n_resamples=0, prompt="bare")
    (found,) = read_candidates(tmp_path / "out" / "items.jsonl")
    assert found.length > 0


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"length": 10**400}, "length"),
        ({"length": -1}, "length"),
        ({"answer": -2}, "answer"),
        ({"n_tokens": [10**400, 1]}, "n_tokens"),
        ({"total": 10**400}, "total"),
    ],
)
def test_hostile_items_are_named(tmp_path, change, field):
    line = json.loads(item("p", 0, True, 0, [1.0, 2.0]).line())
    (tmp_path / "items.jsonl").write_text(json.dumps({**line, **change}) + "\n")
    with pytest.raises(UserError, match=f"line 1: .*{field}"):
        read_candidates(tmp_path / "items.jsonl")


def test_a_class_beyond_the_problems_candidates_is_named(tmp_path):
    (tmp_path / "items.jsonl").write_text(item("p", 0, True, 10**9, [1.0]).line())
    with pytest.raises(UserError, match="field 'answer' is 1,000,000,000; expected one below the problem's 1"):
        read_candidates(tmp_path / "items.jsonl")


def test_the_table_ends_with_the_largest_n():
    from rich.console import Console

    from prmbench.benchmarks.best_of_n.table import _table, sizes_shown

    assert sizes_shown([1, 2, 4, 8, 16, 32, 64, 100]) == [4, 16, 64, 100]
    assert sizes_shown([1, 2, 4, 6]) == [4, 6]
    assert sizes_shown([1, 2]) == [2]
    metrics = compute_best_of_n(made(n=5), SUM)
    console = Console(record=True, width=120)
    console.print(_table("x", metrics.mean, sizes_shown(metrics.sizes)))
    assert "@4" in (text := console.export_text())
    assert "@5" in text


def test_an_interrupted_run_goes_on(tiny, tmp_path):
    file = candidates(tmp_path)
    options = {"kind": "endo", "n_resamples": 10, "batch_tokens": 80}
    whole, _ = prmbench.rerank(tiny, [file], output=tmp_path / "whole", **options)
    prmbench.rerank(tiny, [file], output=tmp_path / "cut", **options)
    lines = (tmp_path / "cut" / "items.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "cut" / "items.jsonl").write_text("".join(lines[:5]) + lines[5][:20])
    (tmp_path / "cut" / "entry.json").unlink()
    again, _ = prmbench.rerank(tiny, [file], output=tmp_path / "cut", **options)
    assert again.metrics == whole.metrics
    assert (tmp_path / "cut" / "items.jsonl").read_bytes() == (tmp_path / "whole" / "items.jsonl").read_bytes()


def test_the_reference_is_cached(tiny, tiny_tuned, tmp_path, monkeypatch):
    file, options = candidates(tmp_path), {"reference": str(tiny), "n_resamples": 0}
    prmbench.rerank(tiny_tuned, [file], output=tmp_path / "plain", **options)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PRMBENCH_CACHE_GIB", "1")
    for name in ("first", "second"):
        entry, _ = prmbench.rerank(tiny_tuned, [file], output=tmp_path / name, **options)
        run = entry.provenance.run
        assert run.cached_tokens == (run.tokens if name == "second" else 0)
        written = (tmp_path / name / "items.jsonl").read_bytes()
        assert written == (tmp_path / "plain" / "items.jsonl").read_bytes()


def test_truncated_candidates_are_wrong_and_do_not_vote():
    texts = ["so \\boxed{5}", "so \\boxed{5}"]
    made = [StoredCompletion("s", "p", i, "q", "5", text, None, truncated=i == 1) for i, text in enumerate(texts)]
    found = judge(Completions(made, find_prompt("boxed")))
    assert (found.correct, found.answers) == ([True, False], [0, -1])


def test_command_line(tiny, tmp_path):
    file = candidates(tmp_path)
    command = [
        "eval",
        "--rm",
        str(tiny),
        "--kind",
        "endo",
        "--rollouts",
        str(file),
        "--output",
        str(tmp_path / "out"),
        "--resamples",
        "20",
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "decayed_sum (own)" in done.output
    again = CliRunner().invoke(app, ["eval", "--from-items", str(tmp_path / "out")])
    assert "Best-of-N: tiny" in again.output
    plot = CliRunner().invoke(app, ["plot", str(tmp_path / "out"), "--output", str(tmp_path / "p.svg")])
    assert plot.exit_code == 0
    assert (tmp_path / "p.svg").read_text().startswith("<?xml")
    with pytest.raises(UserError, match=r"expected a name that ends in \.svg"):
        CliRunner().invoke(app, ["plot", str(tmp_path / "out"), "--output", "p.gif"], catch_exceptions=False)


def test_a_plot_does_not_depend_on_the_order_of_its_entries(tiny, tmp_path):
    from prmbench.benchmarks.best_of_n.plot import draw_best_of_n

    file, entries = candidates(tmp_path), []
    for sizes in ([2], [1, 4]):
        place = tmp_path / str(sizes[0])
        entries.append(prmbench.rerank(tiny, [file], output=place, kind="endo", sizes=sizes, n_resamples=0)[0])
    for order in (entries, entries[::-1]):
        axis = draw_best_of_n(order).axes[0]
        assert list(axis.get_xticks()) == [1, 2, 4]
        assert next(list(line.get_xdata()) for line in axis.lines if line.get_linestyle() == "--") == [1, 4]


def test_the_table_says_whether_the_choice_is_better_than_random():
    entry = load_measured(resource_folder("leaderboards") / "entries" / NAME, items=False).entry
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(render(entry))
    text = console.export_text()
    assert "token_mean @8 (91.0) is NOT above a random choice (91.1) and NOT above the majority vote (92.5)." in text
    names = [line.split("  ")[1].strip() for line in text.splitlines() if line.startswith("  ") and "[" in line]
    assert len(names) == len(set(names)) == 12
    assert "random choice" in names

    def better(value, low):
        own = {**entry.metrics.mean.scores["token_mean"], "8": {"expected": Estimate(value=value, low=low, high=1.0)}}
        mean = entry.metrics.mean.model_copy(update={"scores": {**entry.metrics.mean.scores, "token_mean": own}})
        return against_no_model(entry.metrics.model_copy(update={"mean": mean}))

    assert better(0.95, 0.92) == [
        "token_mean @8 (95.0) is above a random choice (91.1) and not clearly above the majority vote (92.5)."
    ]
    assert against_no_model(entry.metrics.model_copy(update={"sizes": [1]})) == []
