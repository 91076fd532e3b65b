"""Runs on counts of right continuations and on pairs of prefixes: what is computed, saved and scored."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.special import expit
from scipy.stats import betabinom
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification
from typer.testing import CliRunner

from prmbench.cli.app import app
from prmbench.data.prompts import find_prompt
from prmbench.data.traces import load_traces
from prmbench.errors import UserError
from prmbench.reward_models.loading import load_reward_model
from prmbench.training.prm.data import load_labelled
from prmbench.training.prm.forward import give_step_logits
from prmbench.training.prm.losses import COUNT_EPS, pair_losses
from prmbench.training.prm.prefix_pairs import PairOptions, make_groups, traces_of
from prmbench.training.prm.recipe import ConcentrationOptions, PRMRecipe
from prmbench.training.prm.run import train_prm
from prmbench.training.prm.trainer import StepTrainer, collate
from prmbench.training.recipes.lora import LoraOptions


@pytest.fixture(scope="module")
def paired(data, tmp_path_factory):
    """The same traces, two of a problem."""
    records = [json.loads(line) for line in data.read_text().splitlines()]
    for i, one in enumerate(records):
        one["problem"] = records[i // 2 * 2]["problem"]
    path = tmp_path_factory.mktemp("paired") / "paired.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


@pytest.fixture
def counting(recipe):
    return recipe.model_copy(update={"objective": "beta_binomial"})


@pytest.fixture
def pairing(recipe, paired):
    changes = {"objective": "prefix_gain", "data": str(paired), "batch_size": 4, "micro_batch_size": 2, "held_out": 3}
    return recipe.model_copy(update=changes)


def test_counts_are_read_and_must_be_there(data, recipe, tiny, tmp_path):
    encoder = recipe.encoder(tiny)
    found = load_labelled(data, encoder, find_prompt("bare"), max_length=512, read="counts")
    for one, trace in zip(found.traces, load_traces(data), strict=True):
        kept = [pair for pair in trace.counts if pair is not None]
        assert one.trials.tolist() == [n for _, n in kept] == [4] * len(kept)
        assert (one.targets * one.trials).tolist() == [k for k, _ in kept]
        assert one.numbers.tolist() == [i for i, pair in enumerate(trace.counts) if pair is not None]
    path = tmp_path / "x.jsonl"
    record = {"id": "a", "problem": "p", "steps": ["s", "t"], "labels": [True, False]}
    path.write_text(json.dumps(record) + "\n")
    with pytest.raises(
        UserError, match="line 1: has no fields 'successes' and 'trials', the counts that beta_binomial"
    ):
        load_labelled(path, encoder, find_prompt("bare"), max_length=512, read="counts")
    for fields, message in (
        ({"successes": [1, 1]}, "field 'trials' is null; expected a list of 2, one a step"),
        ({"successes": [1], "trials": [4, 4]}, r"field 'successes' is \[1\]; expected a list of 2"),
        (
            {"successes": [1, 0.5], "trials": [4, 4]},
            "expected a list of 2, one a step: whole numbers from 0 to 1,000,000, or null",
        ),
        ({"successes": [1, True], "trials": [4, 4]}, "whole numbers from 0"),
        ({"successes": [1, -1], "trials": [4, 4]}, "whole numbers from 0"),
        ({"successes": [1, 1], "trials": [4, 10**30]}, "whole numbers from 0 to 1,000,000"),
        ({"successes": [1, 5], "trials": [4, 4]}, r"'successes\[1\]' is 5, field 'trials\[1\]' is 4; expected no more"),
        ({"successes": [None, 1], "trials": [4, 4]}, r"'successes\[0\]' is null, field 'trials\[0\]' is 4"),
    ):
        path.write_text(json.dumps({**record, **fields}) + "\n")
        with pytest.raises(UserError, match=message):
            load_traces(path)


def test_a_batch_of_counts_has_the_loss_that_the_heads_give(data, counting, tiny):
    """The heads by hand, on the states that transformers gives; the loss by scipy."""
    options = ConcentrationOptions(start=6, penalty=0.5)
    counting = counting.model_copy(update={"concentration": options})
    found = load_labelled(data, counting.encoder(tiny), find_prompt("bare"), max_length=512, read="counts").traces[:5]
    batch = collate(found)
    model = AutoModelForCausalLM.from_pretrained(tiny).eval()
    give_step_logits(model, 0, options)
    with torch.no_grad():
        model.concentration[1].weight.normal_(generator=torch.Generator().manual_seed(1))
        outputs = model(**{name: batch[name] for name in ("input_ids", "rows", "columns")})
        trainer = StepTrainer.__new__(StepTrainer)
        trainer.recipe = counting
        ours = trainer.losses(outputs, batch).numpy()
    losses = []
    for one in found:
        with torch.no_grad():
            plain = AutoModelForCausalLM.from_pretrained(tiny)(
                torch.from_numpy(one.ids)[None], output_hidden_states=True
            )
        states = plain.hidden_states[-1][0, one.marks].double().numpy()
        weight, bias = (getattr(model.score, name).detach().double().numpy() for name in ("weight", "bias"))
        logits = states @ weight.T + bias
        mean = expit(logits[:, 1] - logits[:, 0])
        norm, linear = model.concentration
        scaled = (states - states.mean(1, keepdims=True)) / np.sqrt(states.var(1, keepdims=True) + norm.eps)
        raw = scaled @ linear.weight.detach().double().numpy()[0] + float(linear.bias.detach())
        c = np.logaddexp(0, raw) + options.floor
        k = np.round(one.targets.astype(float) * one.trials)
        nll = -betabinom.logpmf(k, one.trials, mean * c + COUNT_EPS, (1 - mean) * c + COUNT_EPS)
        losses.append(nll + 0.5 * np.abs(mean - k / one.trials) * c)
    assert np.concatenate(losses) == pytest.approx(ours, abs=2e-4)
    assert np.std(outputs["concentrations"].numpy()) > 1


def test_a_new_head_begins_with_the_concentration_asked_for(tiny):
    model = AutoModelForCausalLM.from_pretrained(tiny)
    give_step_logits(model, 0, ConcentrationOptions(start=4))
    rows = torch.zeros(5, dtype=torch.long)
    found = model(input_ids=torch.arange(5)[None], rows=rows, columns=torch.arange(5))["concentrations"]
    assert found.tolist() == pytest.approx([4] * 5, abs=0.1)


def test_the_head_of_the_concentration_learns_at_its_own_rate(counting, monkeypatch):
    rates = {}

    def keep(self):
        named = {id(p): name for name, p in self.model.named_parameters()}
        for group in self.optimizer.param_groups:
            rates.update({named[id(p)]: (group["lr"], group["weight_decay"]) for p in group["params"]})

    make = StepTrainer.create_optimizer

    def made(self, model=None):
        optimizer = make(self, model)
        keep(self)
        return optimizer

    monkeypatch.setattr(StepTrainer, "create_optimizer", made)
    factor = ConcentrationOptions(learning_rate_factor=7)
    train_prm(counting.model_copy(update={"max_steps": 1, "concentration": factor, "weight_decay": 0.1}))
    second = {name for name in rates if name.startswith("concentration.")}
    assert second == {f"concentration.{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")}
    assert {rates[name][0] for name in second} == {7 * counting.learning_rate}
    assert {rate for name, (rate, _) in rates.items() if name not in second} == {counting.learning_rate}
    assert rates["concentration.1.weight"][1] == 0.1
    assert rates["concentration.1.bias"][1] == 0


def test_counts_train_and_the_mean_scores_as_it_was_measured(counting):
    result = train_prm(counting)
    losses = [row["eval_loss"] for row in result.history if "eval_loss" in row]
    assert result.metrics["loss"] == min(losses[1:]) < losses[0]
    model = load_reward_model(result.output)
    assert (model.kind, model.card.objective, model.fixed_thresholds()) == (
        "classifier",
        "beta_binomial",
        {"step": 0.0},
    )
    assert not model.warnings
    data = counting.load(counting.encoder(counting.folder), counting.folder)
    held = {one.problem for one in data.held}
    traces = [trace for trace in load_traces(counting.data) if trace.problem in held]
    scores = np.concatenate([one.scores for one in model.score([model.encode(t.problem, t.steps) for t in traces])])
    known = np.array([pair is not None for t in traces for pair in t.counts])
    shares = np.array([k / n for t in traces for k, n in (pair for pair in t.counts if pair is not None)])
    assert np.mean((expit(scores[known]) - shares) ** 2) == pytest.approx(result.metrics["brier"], abs=1e-4)
    # The second head lies beside the first, and transformers reads the first.
    saved = load_file(result.output / "model.safetensors")
    assert saved["concentration.1.weight"].shape == (1, model.trunk.width)
    theirs = AutoModelForTokenClassification.from_pretrained(result.output).eval()
    encoded = model.encode(traces[0].problem, traces[0].steps)
    logits = theirs(torch.from_numpy(encoded.ids)[None]).logits[0, encoded.marks].detach()
    assert (logits[:, 1] - logits[:, 0]).tolist() == pytest.approx(scores[: len(encoded.marks)].tolist(), abs=1e-4)


def test_a_batch_of_groups_has_the_loss_of_prefixes_scored_alone(paired, pairing, tiny):
    found = load_labelled(paired, pairing.encoder(tiny), find_prompt("bare"), max_length=512, read="values").traces
    groups = make_groups(found, PairOptions())[:3]
    assert max(len(group.traces) for group in groups) == 2
    batch = collate(groups)
    model = AutoModelForCausalLM.from_pretrained(tiny).eval()
    give_step_logits(model, 0)
    with torch.no_grad():
        values = model(**{name: batch[name] for name in ("input_ids", "rows", "columns")})["values"]
        ours = pair_losses(values, batch["better"], batch["worse"]).mean()

        def alone(trace, mark):
            at = torch.tensor([mark])
            prefix = torch.from_numpy(trace.ids[: mark + 1])[None]
            return float(model(input_ids=prefix, rows=torch.tensor([0]), columns=at)["values"])

        slow = []
        for group in groups:
            prefixes = [(one, i) for one in group.traces for i in range(len(one.marks))]
            for a, i in prefixes:
                for b, j in prefixes:
                    if (a is b or a.numbers[i] == b.numbers[j]) and a.targets[i] - b.targets[j] >= 0.25:
                        slow.append(np.logaddexp(0, alone(b, b.marks[j]) - alone(a, a.marks[i])))
    assert len(slow) == len(batch["labels"])
    assert float(ours) == pytest.approx(np.mean(slow), abs=1e-5)


def test_pairs_train_and_put_prefixes_in_order(pairing):
    result = train_prm(pairing)
    losses = [row["eval_loss"] for row in result.history if "eval_loss" in row]
    assert result.metrics["loss"] == min(losses[1:]) < losses[0]
    assert result.metrics.keys() >= {"loss", "pair_accuracy"}
    model = load_reward_model(result.output)
    assert (model.kind, model.card.objective) == ("classifier", "prefix_gain")
    assert not model.warnings
    assert model.fixed_thresholds() == {}  # no value of it stands for a probability
    data = pairing.load(pairing.encoder(pairing.folder), pairing.folder)
    traces = [trace for trace in load_traces(pairing.data) if trace.problem in {one.problem for one in data.held}]
    found = iter(model.score([model.encode(t.problem, t.steps) for t in traces]))
    scores = {(t.problem, len(t.steps), t.steps): next(found).scores for t in traces}
    assert len(scores) == sum(len(traces_of(one)) for one in data.held)
    right = n = 0
    for a in traces:
        for b in traces:
            for i, first in enumerate(a.values):
                for j, second in enumerate(b.values):
                    fits = a.problem == b.problem and (a is b or i == j) and None not in (first, second)
                    if fits and first - second >= 0.25:
                        mine = scores[a.problem, len(a.steps), a.steps][i]
                        right, n = right + (mine > scores[b.problem, len(b.steps), b.steps][j]), n + 1
    assert right / n == pytest.approx(result.metrics["pair_accuracy"], abs=1e-9)


@pytest.mark.parametrize("objective", ["beta_binomial", "prefix_gain"])
def test_micro_batches_change_nothing(request, objective, tmp_path):
    recipe = request.getfixturevalue("counting" if objective == "beta_binomial" else "pairing")
    found = []
    for n in (1, recipe.batch_size):
        changes = {"micro_batch_size": n, "output": str(tmp_path / str(n)), "max_steps": 6}
        found.append(train_prm(recipe.model_copy(update=changes)))
    first, second = (load_file(result.output / "model.safetensors") for result in found)
    assert all(torch.allclose(first[name], second[name], atol=5e-5) for name in first)
    assert found[0].metrics == pytest.approx(found[1].metrics, abs=1e-3)


def test_adapters_are_merged_and_both_heads_are_kept(counting):
    recipe = counting.model_copy(update={"lora": LoraOptions(rank=4, alpha=8)})
    result = train_prm(recipe)
    saved = load_file(result.output / "model.safetensors")
    assert {name for name in saved if "concentration" in name} == {
        f"concentration.{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")
    }
    losses = [row["eval_loss"] for row in result.history if "eval_loss" in row]
    assert result.metrics["loss"] < losses[0]
    assert load_reward_model(result.output).kind == "classifier"


@pytest.mark.parametrize("objective", ["beta_binomial", "prefix_gain"])
def test_the_command_trains_and_evaluates(request, objective, tmp_path):
    recipe = request.getfixturevalue("counting" if objective == "beta_binomial" else "pairing")
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(json.loads(recipe.model_dump_json(exclude_defaults=True)) | {"max_steps": 2}))
    for command in (["train", "rm", str(path), "--dry-run"], ["train", "rm", str(path)]):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
    command = f"eval --rm {recipe.output} --data {recipe.data} --benchmark step-labels --resamples 20"
    shown = CliRunner().invoke(app, [*command.split(), "--output", str(tmp_path / "run")])
    assert shown.exit_code == 0, shown.output
    assert f"classifier, {objective}" in shown.output


def test_what_does_not_fit_is_refused(recipe, pairing, paired, tmp_path):
    for change, message in (
        ({"concentration": {}}, "concentration: belongs to beta_binomial, the objective is step_ce"),
        ({"pairs": {}}, "pairs: belongs to prefix_gain, the objective is step_ce"),
        ({"objective": "beta_binomial", "concentration": {"start": 1e-4}}, "start 0.0001 is not above floor 0.001"),
    ):
        with pytest.raises(ValueError, match=message):
            PRMRecipe(**{**recipe.model_dump(), **change})
    with pytest.raises(UserError, match=r"no two prefixes of a problem differ in gain by pairs.least 0.9; lower it"):
        train_prm(pairing.model_copy(update={"pairs": PairOptions(least=0.9)}))
    with pytest.raises(UserError, match="groups of traces are left to train on, an update takes batch_size 64"):
        train_prm(pairing.model_copy(update={"batch_size": 64}))
