"""The study of labels: what is paid for, what is known of solutions, and every kind of run at a size of seconds."""

from __future__ import annotations

import itertools
import json
import random

import numpy as np
import pytest

from prmbench.data.rollouts import Rollout
from prmbench.data.verdicts import Verdict
from prmbench.miniature.checker import first_wrong_step
from prmbench.miniature.world import World, parse_problem
from prmbench.studies import lab, label_data, measure_labels
from prmbench.studies.label_data import choose, label_quality, problems_bought, solution_tokens
from prmbench.studies.label_settings import (
    LABELLED,
    SEARCHED_LABELLED,
    STEP_RATE,
    TITLES,
    LabelSettings,
)
from prmbench.studies.labels_page import CONTRASTS, FIGURES, LINES, SPENT, chosen_step_rate, write_labels
from prmbench.studies.runs import StudyRun, perform

SMALL = {"N_OUTCOMES": (60, 5), "N_ROLLOUTS": (30, 4), "N_TRACES": 20, "N_CANDIDATES": (4, 64)}
K = 2


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A lab of seconds with the policy that ships."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        for name, size in SMALL.items():
            patch.setattr(lab, name, size)
        for module in (label_data, measure_labels):
            patch.setattr(module, "N_BASE", 8, raising=False)
        patch.setattr(label_data, "N_OUTCOMES", SMALL["N_OUTCOMES"])
        patch.setattr(measure_labels, "N_ROLLOUTS", SMALL["N_ROLLOUTS"])
        for name, size in {"SOLUTIONS_AN_UPDATE": 8, "LEAST_UPDATES": 3, "N_CHOSEN": 3}.items():
            patch.setattr(measure_labels, name, size)
        patch.setattr(measure_labels, "PAIRS", {**measure_labels.PAIRS, "batch_size": 2, "micro_batch_size": 2})
        yield lab.Lab(0)


def test_problems_are_bought_in_order_while_they_can_be_paid():
    rng = random.Random(0)
    for _ in range(200):
        costs = [rng.randint(1, 9) for _ in range(rng.randint(1, 8))]
        budget = rng.randint(0, 40)
        fits = [n for n in range(len(costs) + 1) if sum(costs[:n]) <= budget]
        assert problems_bought(costs, budget) == max(fits)
    assert problems_bought([3, 4, 5], 7) == 2  # the last token is spent


def test_solution_tokens_are_those_sampled():
    def one(n):
        return Rollout("p", n, "start 1", "1", "", np.arange(n), "stop", Verdict.WRONG)

    assert solution_tokens([one(3), one(5), one(0)]) == 8


@pytest.mark.slow
def test_tokens_of_continuations_are_counted_once_a_state(small):
    """The labelling run's own file of states has the tokens of each different state: their sum is what was sampled."""
    found = choose(small, LabelSettings("step_soft", "rollouts", K))
    assert len(found.solutions) == 8 * 5
    assert found.sampled == sum(len(one.ids) for one in found.solutions)
    run = small.folder / "labels" / f"60x5-8-k{K}-0"
    states = [json.loads(line) for line in (run / "states.jsonl").read_text().splitlines()]
    assert found.continued == sum(one["tokens"] for one in states)
    assert 0 < found.start < found.continued
    # By hand, of the first problem: its five solutions share the state of the prompt, continued K times in all.
    first = label_data.label_problems(small, label_data.by_problem(small.outcome_rollouts), K, 0)[0]
    of_first = [one for one in states if one["problem"] == states[0]["problem"]]
    assert first.tokens == sum(one["tokens"] for one in of_first)
    assert all(one["trials"] == K for one in of_first)
    ends = {json.dumps(steps[:n]) for r in first.records for steps in [r["steps"]] for n in range(1, len(steps) + 1)}
    assert len(of_first) >= 1 + len(ends) - len(first.records)


@pytest.mark.slow
def test_a_budget_buys_as_much_as_it_pays_and_no_problem_more(small):
    spent = choose(small, LabelSettings("step_soft", "rollouts", K))
    affordable = spent.sampled + spent.continued
    groups = label_data.by_problem(small.outcome_rollouts)
    outcomes = choose(small, LabelSettings("ipvrm", "outcomes", 0, K))
    best = max(n for n in range(61) if sum(len(one.ids) for group in groups[:n] for one in group) <= affordable)
    assert outcomes.affordable == affordable
    assert 8 < best < 60
    assert len(outcomes.solutions) == 5 * best
    assert not outcomes.records
    # Fewer continuations of more solutions, for the same tokens.
    many = choose(small, LabelSettings("step_soft", "rollouts", 1, K))
    assert 40 < len(many.solutions) < len(outcomes.solutions)
    assert many.sampled + many.continued <= affordable
    assert len(many.records) == len(many.solutions)
    n = len(many.solutions) // 5
    more = label_data.label_problems(small, groups, 1, n // 8)[n % 8]
    assert many.sampled + many.continued + solution_tokens(groups[n]) + more.tokens > affordable


@pytest.mark.slow
def test_what_is_known_of_solutions(small):
    found = choose(small, LabelSettings("step_ce", "exact labels"))
    world = World()
    right = [one.correct for one in found.solutions]
    for one, correct in zip(found.records, right, strict=True):
        assert one["label"] == first_wrong_step(parse_problem(one["problem"]), one["steps"], world)
        assert (one["label"] == -1) <= correct  # a right answer may come of two wrongs
        assert one["values"][-1] == correct
        assert all(0 <= value <= 1 for value in one["values"])
    rolled = choose(small, LabelSettings("step_soft", "rollouts", K)).records
    quality = label_quality(rolled, world)
    assert 0.3 < quality["first_wrong"] <= 1
    assert 0.3 < quality["spearman"] <= 1
    exact = [{**one, "values": exact["values"]} for one, exact in zip(rolled, found.records, strict=True)]
    assert label_quality(exact, world)["spearman"] == pytest.approx(1)


@pytest.mark.slow
def test_every_kind_of_run_and_the_page(small):
    kinds = ("exact", "k=1", "ipvrm", "endo", "ipvrm @1")
    rows = {name: perform(StudyRun("labels", name), small) for name in kinds}
    for name, row in rows.items():
        assert not list((small.folder / "runs").rglob("*.safetensors"))
        for figure in FIGURES[:-1]:  # so little training may leave a model as it was, and equal values have no ranks
            assert np.isfinite(figure.of(name).values({StudyRun("labels", name): [row]})), figure.text
    assert rows["endo"]["data"]["sampled"] == 0
    assert rows["ipvrm @1"]["data"]["solutions"] > rows["ipvrm"]["data"]["solutions"]
    assert -1 <= rows["k=1"]["spearman"] <= 1
    # The page, of rows that stand for each other where they have the same fields.
    like = {
        name: "k=1" if s.source == "rollouts" else "exact" if s.is_explicit else "ipvrm @1"
        for name, s in LABELLED.items()
    }
    results = {StudyRun("labels", name): [rows[like[name]], rows[like[name]]] for name in LABELLED} | {
        StudyRun("labels", "endo"): [rows["endo"]] * 2
    }
    searched = {StudyRun("labels", name): [rows["exact"]] for name in SEARCHED_LABELLED}
    paragraphs, pictures = write_labels(results, searched)
    assert all(title in "\n".join(paragraphs) for title in TITLES.values())
    assert pictures["labels-tokens.svg"].startswith("<svg")
    spent = SPENT.of("k=1").values(results)[0]
    assert f"| {spent:,.0f} |" in "\n".join(paragraphs)


def test_the_search_prefers_the_highest_auc():
    aucs = dict(zip(SEARCHED_LABELLED, (0.6, 0.8, 0.7, 0.5), strict=True))
    searched = {StudyRun("labels", name): [{"auc_final": auc}] for name, auc in aucs.items()}
    assert chosen_step_rate(searched) == 3e-4


def test_runs_are_named_once_and_kept_apart(tmp_path):
    runs = [StudyRun("labels", name) for name in (*LABELLED, *SEARCHED_LABELLED)]
    assert len({run.place(tmp_path) for run in runs}) == len(runs)
    assert {run.split for run in runs[: len(LABELLED)]} == {"test"}
    assert {run.split for run in runs[len(LABELLED) :]} == {"validation"}
    facts = [json.dumps(StudyRun("labels", name).facts) for name in LABELLED]
    assert len(set(facts)) == len(facts)  # rows are found by their settings
    shown = {*itertools.chain(*LINES.values()), *itertools.chain(*itertools.chain(*CONTRASTS.values()))}
    assert shown <= set(LABELLED)
    assert {one.learning_rate for one in LABELLED.values() if one.is_explicit} == {STEP_RATE}
