"""Explicit PRMs: losses against transformers' token classification, as TRL's PRM trainer has it, and what a run leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification
from typer.testing import CliRunner

import prmbench
from prmbench.cli.app import app
from prmbench.data.prompts import find_prompt
from prmbench.data.traces import load_traces
from prmbench.errors import UserError
from prmbench.reward_models.loading import load_reward_model
from prmbench.reward_models.marks import MarkLayout
from prmbench.reward_models.presets import PRESETS
from prmbench.training.prm.data import load_labelled, split_problems
from prmbench.training.prm.forward import give_step_logits
from prmbench.training.prm.losses import step_losses
from prmbench.training.prm.metrics import step_metrics
from prmbench.training.prm.recipe import PRMRecipe
from prmbench.training.prm.run import train_prm
from prmbench.training.prm.trainer import collate
from prmbench.training.recipes.lora import LoraOptions

TRL = MarkLayout(**PRESETS["trl-prm"].card["marks"])


# --- the loss ---


@given(st.lists(st.tuples(st.floats(-30, 30), st.floats(0, 1)), min_size=1, max_size=8))
def test_losses_are_the_cross_entropy_of_two_classes(pairs):
    logits, targets = (torch.tensor([pair[i] for pair in pairs], dtype=torch.float64) for i in (0, 1))
    two = torch.stack([torch.zeros_like(logits), logits], dim=1)
    soft = torch.nn.functional.cross_entropy(two, torch.stack([1 - targets, targets], dim=1), reduction="none")
    assert torch.allclose(step_losses(logits, targets), soft)
    hard = (targets > 0.5).double()
    assert torch.allclose(
        step_losses(logits, hard), torch.nn.functional.cross_entropy(two, hard.long(), reduction="none")
    )


def test_extreme_logits_give_finite_losses():
    found = step_losses(torch.tensor([1e4, -1e4]), torch.tensor([0.0, 1.0]))
    assert found.tolist() == [1e4, 1e4]


def trl_row(tokenizer, prompt, completions, labels, separator="\n"):
    """A row as TRL's PRMTrainer tokenizes it, written from its description: the label stands at the separator's last token."""
    ids = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    ids += tokenizer(prompt, add_special_tokens=False)["input_ids"]
    marks = [-100] * len(ids)
    between = tokenizer(separator, add_special_tokens=False)["input_ids"]
    for text, label in zip(completions, labels, strict=True):
        step = [*tokenizer(text, add_special_tokens=False)["input_ids"], *between]
        ids += step
        marks += [-100] * (len(step) - 1) + [int(label)]
    return ids, marks


def test_one_batch_has_the_loss_and_gradient_of_token_classification(tiny, data, recipe):
    """TRL's PRM trainer is transformers' token classification on such rows."""
    recipe = recipe.model_copy(update={"marks": TRL})
    encoder = recipe.encoder(tiny)
    found = load_labelled(data, encoder, find_prompt("bare"), max_length=512).traces[:6]
    batch = collate(found)

    # Theirs: padded rows, labels -100 where there is none.
    rows = []
    for trace in load_traces(data)[:6]:
        keep = [one != "unknown" for one in trace.labels]
        ids, marks = trl_row(encoder.tokenizer, trace.problem, trace.steps, [one == "right" for one in trace.labels])
        places = [i for i, mark in enumerate(marks) if mark >= 0]
        for place, known in zip(places, keep, strict=True):
            marks[place] = marks[place] if known else -100
        rows.append((ids, marks))
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([one + [0] * (width - len(one)) for one, _ in rows])
    marks = torch.tensor([one + [-100] * (width - len(one)) for _, one in rows])
    mask = torch.tensor([[1] * len(one) + [0] * (width - len(one)) for one, _ in rows])
    assert torch.equal(ids, batch["input_ids"])

    model = AutoModelForCausalLM.from_pretrained(tiny).eval()
    give_step_logits(model, 0)
    theirs = AutoModelForTokenClassification.from_pretrained(tiny, num_labels=2).eval()
    theirs.load_state_dict({n: p for n, p in model.state_dict().items() if not n.startswith("lm_head")})
    loss = theirs(input_ids=ids, attention_mask=mask, labels=marks).loss
    values = model(**{name: batch[name] for name in ("input_ids", "rows", "columns")})["values"]
    ours = step_losses(values, batch["labels"]).mean()
    assert ours.item() == pytest.approx(loss.item(), abs=1e-6)
    ours.backward()
    loss.backward()
    gradients = dict(theirs.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(parameter.grad, gradients[name].grad, atol=1e-6), name


# --- the data ---


def test_targets_and_what_is_left_out(data, recipe, tiny, tmp_path):
    encoder = recipe.encoder(tiny)
    found = load_labelled(data, encoder, find_prompt("bare"), max_length=512)
    traces = load_traces(data)
    for one, trace in zip(found.traces, traces, strict=True):
        known = [label for label in trace.labels if label != "unknown"]
        assert one.targets.tolist() == [float(label == "right") for label in known]
        decoded = [encoder.tokenizer.decode(one.ids[: mark + 1]) for mark in one.marks]
        wanted = [step for step, label in zip(trace.steps, trace.labels, strict=True) if label != "unknown"]
        assert all(text.endswith(step + "\n\n") for text, step in zip(decoded, wanted, strict=True))
    soft = load_labelled(data, encoder, find_prompt("bare"), max_length=512, read="values")
    assert set(np.concatenate([one.targets for one in soft.traces]).tolist()) == {0.25, 0.75}
    some = load_labelled(data, encoder, find_prompt("bare"), max_length=len(found.traces[0]))
    assert some.n_overlong + len(some.traces) == len(traces)
    assert f"left out: {some.n_overlong} traces too long" in some.sentence()
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"id": "a", "problem": "p", "steps": ["s"], "labels": [True]}) + "\n")
    with pytest.raises(UserError, match="line 1: has no field 'values', the soft labels"):
        load_labelled(path, encoder, find_prompt("bare"), max_length=512, read="values")
    for values in ([2], [True], ["x"], [0.5, 0.5], 0.5):
        path.write_text(
            json.dumps({"id": "a", "problem": "p", "steps": ["s"], "labels": [True], "values": values}) + "\n"
        )
        with pytest.raises(UserError, match="line 1: field 'values' is .*expected a list of 1, one a step"):
            load_traces(path)
    path.write_text(json.dumps({"id": "a", "problem": "p", "steps": ["s"], "labels": [None]}) + "\n")
    with pytest.raises(UserError, match="no trace is left to train on"):
        load_labelled(path, encoder, find_prompt("bare"), max_length=512)


def test_problems_are_kept_back_whole(data, recipe, tiny):
    traces = load_labelled(data, recipe.encoder(tiny), find_prompt("bare"), max_length=512).traces
    doubled = [*traces, *traces[::-1]]
    kept, held = split_problems(doubled, 7, 0)
    assert not {one.problem for one in kept} & {one.problem for one in held}
    assert 7 <= len(held) <= 8
    again = split_problems(doubled[::-1], 7, 0)[1]
    assert {one.problem for one in again} == {one.problem for one in held}
    assert split_problems(traces, 0, 0) == (traces, [])


# --- a run ---


@pytest.mark.parametrize("objective", ["step_ce", "step_soft", "token_pair"])
def test_trains_and_its_checkpoint_scores_as_it_was_measured(recipe, objective):
    recipe = recipe.model_copy(update={"objective": objective})
    result = train_prm(recipe)
    losses = [row["eval_loss"] for row in result.history if "eval_loss" in row]
    assert result.metrics["loss"] == min(losses[1:]) < losses[0]
    model = load_reward_model(result.output)
    assert (model.kind, model.card.objective) == (recipe.kind, objective)
    assert not model.warnings
    data = recipe.load(recipe.encoder(recipe.folder), recipe.folder)
    held = {one.problem for one in data.held}
    traces = [trace for trace in load_traces(recipe.data) if trace.problem in held]
    targets = [
        [np.nan if v is None else v for v in trace.values]
        if objective == "step_soft"
        else [{"right": 1.0, "wrong": 0.0}.get(label, np.nan) for label in trace.labels]
        for trace in traces
    ]
    scores = np.concatenate([one.scores for one in model.score([model.encode(t.problem, t.steps) for t in traces])])
    truth = np.concatenate(targets)
    known = ~np.isnan(truth)
    assert step_metrics(scores[known], truth[known]) == pytest.approx(result.metrics, abs=1e-4)
    if objective != "token_pair":  # transformers reads it too
        theirs = AutoModelForTokenClassification.from_pretrained(result.output).eval()
        encoded = model.encode(traces[0].problem, traces[0].steps)
        logits = theirs(torch.from_numpy(encoded.ids)[None]).logits[0, encoded.marks]
        assert torch.allclose(
            (logits[:, 1] - logits[:, 0]).double(), torch.from_numpy(scores[: len(encoded.marks)]), atol=1e-4
        )
    lines = []
    again = train_prm(recipe, log=lines.append)
    assert "the run is finished; nothing is left to do" in lines[-1]
    assert again.metrics == result.metrics


def test_micro_batches_change_nothing(recipe, tmp_path):
    found = [
        train_prm(recipe.model_copy(update={"micro_batch_size": n, "output": str(tmp_path / str(n))})) for n in (1, 8)
    ]
    first, second = (load_file(result.output / "model.safetensors") for result in found)
    assert all(torch.allclose(first[name], second[name], atol=2e-5) for name in first)
    assert found[0].metrics == pytest.approx(found[1].metrics, abs=1e-4)


@pytest.mark.parametrize("objective", ["step_ce", "token_pair"])
def test_adapters_are_merged(recipe, objective):
    recipe = recipe.model_copy(update={"objective": objective, "lora": LoraOptions(rank=4, alpha=8)})
    result = train_prm(recipe)
    assert not (result.output / "adapter_config.json").exists()
    losses = [row["eval_loss"] for row in result.history if "eval_loss" in row]
    assert result.metrics["loss"] < losses[0]
    assert load_reward_model(result.output).kind == recipe.kind


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["step_ce", "beta_binomial", "prefix_gain"])
def test_a_killed_run_goes_on_with_the_same_weights(recipe, objective, tmp_path):
    changes = (
        {"batch_size": 4, "micro_batch_size": 2, "held_out": 2, "epochs": 6.0} if objective == "prefix_gain" else {}
    )
    recipe = recipe.model_copy(update={"objective": objective, **changes})
    whole = train_prm(recipe.model_copy(update={"output": str(tmp_path / "whole"), "save_every": 2}))
    killed = recipe.model_copy(update={"output": str(tmp_path / "cut"), "save_every": 2})
    code = (
        "import json, os, sys; from prmbench.training.prm.recipe import PRMRecipe\n"
        "from prmbench.training.prm.run import train_prm\n"
        "from prmbench.training.prm.trainer import StepTrainer\n"
        "step = StepTrainer.training_step; count = [0]\n"
        "def counted(*args, **kwargs):\n"
        "    count[0] += 1\n"
        "    if count[0] == 10: os.kill(os.getpid(), 9)\n"  # five updates of two micro-batches
        "    return step(*args, **kwargs)\n"
        "StepTrainer.training_step = counted\n"
        "train_prm(PRMRecipe(**json.loads(sys.argv[1])))"
    )
    done = subprocess.run([sys.executable, "-c", code, killed.model_dump_json()], capture_output=True, env=os.environ)
    assert done.returncode == -9
    lines = []
    again = train_prm(killed, log=lines.append)
    assert f"going on from {tmp_path / 'cut' / 'trainer' / 'checkpoint-4'}" in lines
    assert again.metrics == pytest.approx(whole.metrics, abs=1e-6)
    first, second = (load_file(result.output / "model.safetensors") for result in (whole, again))
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)


def test_the_command_trains_and_evaluates(recipe, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(json.loads(recipe.model_dump_json(exclude_defaults=True)) | {"max_steps": 2}))
    planned = CliRunner().invoke(app, ["train", "rm", str(path), "--dry-run"])
    assert planned.exit_code == 0, planned.output
    assert "steps       2 updates" in planned.output
    done = CliRunner().invoke(app, ["train", "rm", str(path)])
    assert done.exit_code == 0, done.output
    assert f"next:  prmbench eval --rm {recipe.output}" in done.output
    command = f"eval --rm {recipe.output} --data {recipe.data} --output {tmp_path / 'run'} --resamples 20"
    for benchmark in ("step-labels", "processbench"):
        shown = CliRunner().invoke(
            app, [*command.split(), "--benchmark", benchmark, "--output", str(tmp_path / benchmark)]
        )
        assert shown.exit_code == 0, shown.output
        assert "classifier, step_ce" in shown.output


def test_an_explicit_recipe_trains_from_python_as_from_the_command(recipe, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({**recipe.model_dump(mode="json", exclude_none=True), "max_steps": 2}))
    found = prmbench.train_reward_model(path, output=str(tmp_path / "called"))
    assert found.steps == 2
    assert prmbench.load_reward_model(found.output).kind == "classifier"
    done = CliRunner().invoke(app, ["train", "rm", str(path)])
    assert done.exit_code == 0, done.output
    weights = [load_file(folder / "model.safetensors") for folder in (tmp_path / "called", tmp_path / "out")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    # Keys are those of the sort of recipe that it is.
    with pytest.raises(TypeError, match="unexpected keyword 'beta'"):
        prmbench.train_reward_model(path, beta=1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pair": ("+", "-")}, "pair: step_ce has a head"),
        ({"lora": {"merge": False}}, "always merged"),
        ({"objective": "step"}, "objective"),
    ],
)
def test_settings_that_do_not_fit_are_refused(recipe, change, message):
    with pytest.raises(ValueError, match=message):
        PRMRecipe(**{**recipe.model_dump(), **change})


def test_mistakes(recipe, data):
    with pytest.raises(UserError, match="the mark '<extra_0>' is .* tokens of this tokenizer, expected one"):
        train_prm(recipe.model_copy(update={"marks": MarkLayout()}))
    with pytest.raises(UserError, match="'right' is .* tokens of this tokenizer, expected one"):
        train_prm(recipe.model_copy(update={"objective": "token_pair", "pair": ("right", "wrong")}))
    with pytest.raises(UserError, match="traces are left to train on, an update takes batch_size 64"):
        train_prm(recipe.model_copy(update={"batch_size": 64}))


def test_the_loss_is_the_mean_over_steps_however_many_micro_batches(recipe):
    """Transformers counts the labels of language models one fewer a micro-batch, which would scale loss and gradient."""
    found = []
    for size in (8, 4, 2):
        changed = recipe.model_copy(
            update={"micro_batch_size": size, "max_steps": 1, "output": f"{recipe.output}-{size}"}
        )
        row = next(row for row in train_prm(changed).history if "grad_norm" in row)
        found.append((row["loss"], row["grad_norm"]))
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-4)
    assert found[0][0] == pytest.approx(np.log(2), abs=0.1)  # the head starts from small weights
