from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import support
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from support_training import TRAINED, write_outcomes
from transformers import AutoModelForCausalLM

from prmbench.data.prompts import PROMPT_TEMPLATES, PromptTemplate, find_prompt
from prmbench.data.tokens import EncodedTrace, TokenOptions, TraceEncoder
from prmbench.engines.checkpoint import checkpoint_hash
from prmbench.errors import UserError
from prmbench.reward_models.loading import load_reward_model
from prmbench.reward_models.objectives import OBJECTIVES
from prmbench.reward_models.q_rm import read_value_head
from prmbench.training.data.pairs import load_pairs, split_held_out
from prmbench.training.model.measured_trainer import UpdateSampler
from prmbench.training.recipes.lora import LoraOptions
from prmbench.training.rm.heldout import held_out_metrics
from prmbench.training.rm.recipe import RMRecipe
from prmbench.training.rm.run import train_rm


@pytest.fixture
def recipe(tiny, tmp_path):
    return RMRecipe(
        objective="ipvrm",
        model=str(tiny),
        data=str(write_outcomes(tmp_path / "outcomes.jsonl")),
        output=str(tmp_path / "out"),
        held_out=4,
        epochs=3,
        batch_size=4,
        micro_batch_size=2,
        learning_rate=3e-3,
        schedule="constant",
        evaluate_every=5,
    )


def losses(result, name="eval_loss"):
    return [row[name] for row in result.history if name in row]


def held_out_responses(recipe):
    encoder = TraceEncoder(support.wrap(support.byte_level()))
    pairs = load_pairs(recipe.data, encoder, find_prompt("boxed"), max_length=3072, seed=0).pairs
    return [r for pair in split_held_out(pairs, recipe.held_out, 0)[1] for r in pair.rows]


def token_values(recipe, folder, responses):
    """Plain float64: full logits of both models, or states times the head, one response at a time."""
    model, start = (AutoModelForCausalLM.from_pretrained(f, dtype=torch.float64) for f in (folder, recipe.model))
    out = []
    for r in responses:
        ids = torch.tensor(r.ids)[None]
        with torch.no_grad():
            if recipe.objective == "q_rm":
                states = model.model(ids).last_hidden_state[0]
                offset = 0 if recipe.read_state == "after" else -1
                values = states @ torch.tensor(read_value_head(folder)[0]).double()
                out.append(np.array([float(values[t + offset]) for t in range(r.n_prompt, len(r))]))
            else:
                logprobs = [m(ids).logits[0].log_softmax(-1) for m in (model, start)]
                at = [(t - 1, int(r.ids[t])) for t in range(r.n_prompt, len(r))]
                out.append(np.array([float(logprobs[0][i] - logprobs[1][i]) for i in at]))
    return out


@pytest.mark.slow
@pytest.mark.parametrize("objective", TRAINED)
def test_trains_and_reports_what_its_checkpoint_gives(recipe, objective):
    recipe = recipe.model_copy(update={"objective": objective})
    # The sums of a few tokens times 0.05 say little: a larger beta lets this tiny run learn.
    recipe = recipe.model_copy(update={"beta": {"dpo": 0.3, "implicit_prm": 0.3, "q_rm": 1.0}.get(objective)})
    result = train_rm(recipe)
    assert result.steps == 15
    trained = losses(result, "loss")
    assert np.mean(trained[-3:]) < np.mean(trained[:3])
    spec = OBJECTIVES.find(objective)
    values = token_values(recipe, result.output, held_out_responses(recipe))
    wanted = held_out_metrics(values, spec, recipe.scale, recipe.offset)
    assert result.metrics == pytest.approx(wanted, abs=2e-3)
    report = json.loads((result.output / "rm.json").read_text())
    assert report["metrics"] == result.metrics
    assert (report["trained_pairs"], report["held_out_pairs"], report["data"]["pairs"]) == (20, 4, 24)

    # The checkpoint needs nothing but its path, and scores what was trained.
    for folder in (result.output, result.output / "last"):
        model = load_reward_model(folder)
        assert (model.kind, model.card.objective) == (spec.kind, objective)
        assert (model.card.scale(), model.card.margin) == (recipe.scale, recipe.offset)
        responses = held_out_responses(recipe)[:3]
        traces = [EncodedTrace(r.ids, r.n_prompt, np.zeros(len(r) - r.n_prompt, dtype=np.int64), 1) for r in responses]
        found = [one.sums[0] for one in model.score(traces)]
        assert found == pytest.approx([v.sum() for v in token_values(recipe, folder, responses)], abs=1e-3)
    assert not list(result.output.rglob("*.bin"))  # the trainer's pickled arguments stay out


@pytest.mark.slow
def test_best_and_last(recipe):
    result = train_rm(recipe.model_copy(update={"learning_rate": 3e-2}))  # soon overfits
    measured = {row["step"]: row["eval_loss"] for row in result.history if "eval_loss" in row and row["step"]}
    assert result.best_step == min(measured, key=measured.get)
    responses = held_out_responses(recipe)
    for folder, step in ((result.output, result.best_step), (result.output / "last", result.steps)):
        found = held_out_metrics(token_values(recipe, folder, responses), OBJECTIVES.find("ipvrm"), 10.0, 5.0)
        assert found["loss"] == pytest.approx(measured[step], abs=2e-3)


@pytest.mark.slow
def test_cached_as_needed_and_micro_batches_agree(recipe, tmp_path):
    variants = {
        "cached": {},
        "as-needed": {"reference_logprobs": "as-needed"},
        "micro": {"micro_batch_size": 1},
        "checkpointing": {"gradient_checkpointing": True},
    }
    found = {}
    for name, change in variants.items():
        result = train_rm(recipe.model_copy(update={**change, "output": str(tmp_path / name), "max_steps": 6}))
        found[name] = (losses(result), load_file(result.output / "last" / "model.safetensors"))
    for name in variants:
        assert found[name][0] == pytest.approx(found["cached"][0], abs=1e-4), name
        for key, weight in found["cached"][1].items():
            torch.testing.assert_close(found[name][1][key], weight, atol=1e-4, rtol=0, msg=f"{name} {key}")


@pytest.mark.slow
def test_adapters(recipe, tmp_path):
    lora = LoraOptions(rank=4, alpha=8)
    options = {"max_steps": 4, "learning_rate": 2e-2}
    merged = train_rm(recipe.model_copy(update={**options, "lora": lora, "output": str(tmp_path / "merged")}))
    assert not (merged.output / "adapter_config.json").exists()
    kept = train_rm(
        recipe.model_copy(
            update={
                **options,
                "lora": lora.model_copy(update={"merge": False}),
                "output": str(tmp_path / "kept"),
                "reference_logprobs": "as-needed",
            }
        )
    )
    assert (kept.output / "adapter_model.safetensors").exists()
    assert losses(kept) == pytest.approx(losses(merged), abs=1e-4)
    traces = [(t["problem"], t["steps"]) for t in support.make_traces(3)]
    assert str(tmp_path) not in (kept.output / "adapter_config.json").read_text()
    sums = []
    for folder in (merged.output, kept.output):
        model = load_reward_model(folder)
        sums.append([one.sums for one in model.score([model.encode(*t) for t in traces])])
    assert np.abs(np.concatenate(sums[0])).max() > 0.1
    assert np.concatenate(sums[0]) == pytest.approx(np.concatenate(sums[1]), abs=1e-3)
    head = train_rm(
        recipe.model_copy(update={**options, "lora": lora, "objective": "q_rm", "output": str(tmp_path / "q")})
    )
    wanted = held_out_metrics(
        token_values(recipe.model_copy(update={"objective": "q_rm"}), head.output, held_out_responses(recipe)),
        OBJECTIVES.find("q_rm"),
        0.2,
        2.0,
    )
    assert head.metrics == pytest.approx(wanted, abs=1e-3)
    with pytest.raises(UserError, match=r"lora.targets: the output layer"):
        train_rm(recipe.model_copy(update={"lora": lora.model_copy(update={"targets": ["lm_head"]})}))


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_weights(recipe, tmp_path):
    whole = train_rm(recipe.model_copy(update={"output": str(tmp_path / "whole"), "save_every": 4}))
    killed = recipe.model_copy(update={"output": str(tmp_path / "cut"), "save_every": 4})
    code = (
        "import json, os, sys; from prmbench.training.rm.recipe import RMRecipe\n"
        "from prmbench.training.rm.run import train_rm\n"
        "from prmbench.training.rm.trainer import RewardModelTrainer\n"
        "step = RewardModelTrainer.training_step; count = [0]\n"
        "def counted(*args, **kwargs):\n"
        "    count[0] += 1\n"
        "    if count[0] == 20: os.kill(os.getpid(), 9)\n"  # ten updates of two micro-batches
        "    return step(*args, **kwargs)\n"
        "RewardModelTrainer.training_step = counted\n"
        "train_rm(RMRecipe(**json.loads(sys.argv[1])))"
    )
    done = subprocess.run([sys.executable, "-c", code, killed.model_dump_json()], capture_output=True)
    assert done.returncode == -9
    lines = []
    again = train_rm(killed, log=lines.append)
    assert f"going on from {tmp_path / 'cut' / 'trainer' / 'checkpoint-8'}" in lines
    assert losses(again) == pytest.approx(losses(whole), abs=1e-6)
    assert (again.best_step, again.metrics) == (whole.best_step, pytest.approx(whole.metrics, abs=1e-6))
    for place in (".", "last"):
        first, second = (load_file(result.output / place / "model.safetensors") for result in (whole, again))
        assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)


@pytest.mark.slow
def test_a_saved_state_belongs_to_its_recipe_and_its_data(recipe):
    from prmbench.training.rm.trainer import RewardModelTrainer

    recipe = recipe.model_copy(update={"save_every": 2})
    step, count = RewardModelTrainer.training_step, [0]

    def stopping(*args, **kwargs):
        count[0] += 1
        if count[0] == 8:
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RewardModelTrainer, "training_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            train_rm(recipe)
    with pytest.raises(UserError, match="a run of another recipe, other data or other weights"):
        train_rm(recipe.model_copy(update={"learning_rate": 1e-4}))
    data = Path(recipe.data)
    kept = data.read_text()
    data.write_text(kept.replace("Adding 3 to", "Summing 3 and"))
    with pytest.raises(UserError, match="a run of another recipe, other data or other weights"):
        train_rm(recipe)
    data.write_text(kept)
    assert train_rm(recipe).steps == 15


def test_a_run_never_overwrites_what_it_starts_from(recipe, tiny):
    before = (tiny / "model.safetensors").read_bytes()
    for change in ({"output": str(tiny)}, {"output": str(tiny.parent / "x" / ".." / tiny.name)}):
        with pytest.raises(UserError, match="which this run starts from; set another output"):
            train_rm(recipe.model_copy(update=change))
    assert (tiny / "model.safetensors").read_bytes() == before


def test_a_start_that_failed_does_not_block_the_next(recipe, tmp_path):
    with pytest.raises(UserError, match="`recipe.reference=.*none`: no such folder"):
        train_rm(recipe.model_copy(update={"reference": str(tmp_path / "none")}))
    assert not Path(recipe.output).exists()


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(recipe, tmp_path):
    one = train_rm(recipe.model_copy(update={"output": str(tmp_path / "one"), "max_steps": 6}))
    shared = recipe.model_copy(update={"output": str(tmp_path / "two"), "max_steps": 6})
    code = (
        "import json, sys; from prmbench.training.rm.recipe import RMRecipe\n"
        "from prmbench.training.rm.run import train_rm\n"
        "train_rm(RMRecipe(**json.loads(sys.argv[1])))"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--main_process_port", "0", str(script), shared.model_dump_json()]
    done = subprocess.run(
        launch, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300
    )
    assert done.returncode == 0, done.stderr[-9000:]
    report = json.loads((tmp_path / "two" / "rm.json").read_text())
    both = [row["loss"] for row in report["history"] if "loss" in row]
    assert both == pytest.approx(losses(one, "loss"), abs=2e-4)
    assert len(both) == 6
    first, second = (load_file(tmp_path / name / "last" / "model.safetensors") for name in ("one", "two"))
    assert all(torch.allclose(first[name], second[name], atol=1e-4) for name in first)


@given(st.lists(st.integers(1, 50), min_size=8, max_size=40), st.integers(1, 4), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_updates_are_full_random_draws_sorted_within(lengths, batch_size, seed):
    sampler = UpdateSampler(lengths, batch_size, seed)
    epochs = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert len(order) == len(sampler) == len(lengths) // batch_size * batch_size
        assert len(set(order)) == len(order)
        for start in range(0, len(order), batch_size):
            update = [lengths[i] for i in order[start : start + batch_size]]
            assert update == sorted(update, reverse=True)
        epochs.append(order)
    sampler.set_epoch(0)
    assert list(sampler) == epochs[0]


def test_settings_that_do_not_fit_are_refused(recipe, tmp_path):
    def check(match, **change):
        with pytest.raises(ValueError, match=match):
            RMRecipe(**{**recipe.model_dump(), **change})

    check("dtype 'float23': expected auto, float32", dtype="float23")
    check("batch_size 4 is no multiple of micro_batch_size 3", micro_batch_size=3)
    check("margin 1.0: dpo has none", objective="dpo", margin=1.0)
    check("reference: q_rm has none", objective="q_rm", reference="x")
    check("a q_rm checkpoint is always merged", objective="q_rm", lora={"merge": False})
    check("an adapter's reference is its base", reference="x", lora={"merge": False})
    with pytest.raises(
        UserError, match="20 pairs are left to train on, an update takes batch_size 32: lower it or held_out"
    ):
        train_rm(recipe.model_copy(update={"batch_size": 32}))
    with pytest.raises(UserError, match="`recipe.model=.*nowhere`: no such folder"):
        train_rm(recipe.model_copy(update={"model": str(tmp_path / "nowhere")}))


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_run(recipe):
    with pytest.raises(UserError, match=r"the loss is (nan|inf) at step \d+; lower learning_rate"):
        train_rm(recipe.model_copy(update={"learning_rate": 1e30, "max_grad_norm": 1e30}))


def rollouts_run(folder, prompt):
    """Rollouts of sums, right and wrong, as a run leaves them."""
    encoder = TraceEncoder(support.wrap(support.byte_level()))
    folder.mkdir()
    records = []
    for i in range(8):
        for sample, right in enumerate((True, False)):
            text = f"It is {2 * i + (0 if right else 5)}."
            ids = [*encoder.text_ids(text).tolist(), encoder.end_of_turn]
            fields = {"id": f"p{i}", "sample": sample, "problem": f"What is {i} + {i}?", "answer": str(2 * i)}
            fields |= {"completion": text, "ids": ids, "finish_reason": "stop"}
            records.append({**fields, "verdict": "correct" if right else "wrong"})
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    (folder / "run.json").write_text(json.dumps({"prompt": prompt}))
    return folder


def test_the_card_says_with_which_prompts_it_was_trained(recipe, tmp_path, monkeypatch):
    mine = PromptTemplate("mine", "{problem} Go.", "boxed", system="Be brief.")
    monkeypatch.setitem(PROMPT_TEMPLATES, "mine", mine)
    data, lines = rollouts_run(tmp_path / "rollouts", "mine"), []
    changes = {"data": str(data), "prompt": "mine", "held_out": 0, "max_steps": 1}
    result = train_rm(recipe.model_copy(update=changes), log=lines.append)
    model = load_reward_model(result.output)
    assert (model.card.prompt, model.scoring(), model.warnings) == ("mine", {"prompt": "mine"}, [])
    assert not any("their own prompts" in line for line in lines)
    # What it is asked in evaluation is what it was asked in training, the system message included.
    encoder = TraceEncoder(support.wrap(support.byte_level()), TokenOptions(system="Be brief."))
    asked = encoder.encode("What is 1 + 1? Go.", ["It is 2."])
    assert model.encode("What is 1 + 1?", ["It is 2."]).ids.tolist() == asked.ids.tolist()
    trained = recipe.model_copy(update=changes)
    pairs = trained.load(TraceEncoder(support.wrap(support.byte_level()), trained.rendering), Path(recipe.model)).kept
    assert asked.ids[: asked.n_prompt].tolist() in [
        row.ids[: row.n_prompt].tolist() for pair in pairs for row in pair.rows
    ]
    (tmp_path / "other.jinja").write_text(support.THINKING_TEMPLATE)
    changed = load_reward_model(result.output, chat_template=tmp_path / "other.jinja")
    assert "it is shown prompts of another form" in changed.warnings[0]


def test_data_with_their_own_prompts_are_said_to_have_them(recipe):
    lines = []
    result = train_rm(recipe.model_copy(update={"held_out": 0, "max_steps": 1}), log=lines.append)
    assert load_reward_model(result.output).card.prompt is None
    assert any("the data bring their own prompts: the card names none" in line for line in lines)


@pytest.mark.parametrize("lora", [None, LoraOptions(rank=2, alpha=4, merge=False)])
def test_a_card_holds_no_path_of_this_machine(recipe, tiny, tmp_path, lora):
    changes = {"held_out": 0, "max_steps": 1, "lora": lora, "output": str(tmp_path / "a" / "b" / "c" / "d" / "rm")}
    result = train_rm(recipe.model_copy(update=changes))
    for file in result.output.glob("*.json"):
        if file.name != "rm.json":
            assert str(tiny) not in file.read_text(), file
            assert ".." not in file.read_text(), file
    with pytest.raises(
        UserError, match=rf"its reference 'tiny' \(weights {checkpoint_hash(tiny)[:12]}\) is not beside it"
    ):
        load_reward_model(result.output)
    model = load_reward_model(result.output, reference=tiny)
    assert model.warnings == []
