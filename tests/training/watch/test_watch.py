"""What a person sees of a run: the live line, `metrics.jsonl`, trackers; and Ctrl-C, which saves before it says so."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import pytest
import rl_driver
import support
from support_training import write_chats, write_outcomes
from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from prmbench.errors import UserError
from prmbench.training.recipes.optimisation import TRACKERS
from prmbench.training.rl.run import train_rl
from prmbench.training.rm.recipe import RMRecipe
from prmbench.training.rm.run import train_rm
from prmbench.training.sft.recipe import SFTRecipe
from prmbench.training.sft.run import train_sft
from prmbench.training.watch.lines import whole_lines
from prmbench.training.watch.live import live_line
from prmbench.training.watch.metrics import in_steps, keep_rows
from prmbench.training.watch.samples import SamplesFile
from prmbench.training.watch.stopping import stop_signals
from prmbench.training.watch.trackers import InSteps

TRAIN = {"sft": train_sft, "rm": train_rm, "rl": train_rl}


def make_recipe(kind, model, folder, **change):
    """Six steps; a state after every second one."""
    fields = {"output": str(folder / "out"), "max_steps": 6, "save_every": 2, **change}
    if kind == "rl":
        return rl_driver.make_recipe(
            rl_driver.save_world(folder), **{**fields, "learning_rate": 1e-3, "output": folder / "out"}
        )
    fields |= {"model": str(model), "batch_size": 4, "micro_batch_size": 4, "schedule": "constant"}
    if kind == "sft":
        return SFTRecipe(data=str(write_chats(folder / "chats.jsonl")), **fields)
    return RMRecipe(objective="ipvrm", data=str(write_outcomes(folder / "o.jsonl")), held_out=4, **fields)


def rows(output):
    return [json.loads(line) for line in (Path(output) / "metrics.jsonl").read_text().splitlines()]


def without_seconds(rows):
    times = (
        "seconds",
        "train_runtime",
        "train_samples_per_second",
        "train_steps_per_second",
        "peak_memory_gib",
        "epoch",
    )
    return [{k: v for k, v in row.items() if not k.startswith(times) and k != "step_time"} for row in rows]


def same_rows(one, other):
    one, other = without_seconds(one), without_seconds(other)
    assert [row.keys() for row in one] == [row.keys() for row in other]
    for a, b in zip(one, other, strict=True):
        assert a == pytest.approx(b, abs=2e-5, nan_ok=True)


def test_the_live_line():
    row = {
        "rollouts/accuracy": 0.5,
        "reward_model/accuracy": 0.75,
        "reward_model/pair_accuracy": 0.1,
        "entropy": 1.2345,
    }
    row |= {
        "kl_old": 0.001234,
        "clip_share/sampled": 0.0312,
        "rollouts/mean_tokens": 1234.6,
        "loss": 1e-9,
        "grad_norm": 2.0,
    }
    assert live_line(row, 12.345) == (
        "accuracy 50.0%, reward model 75.0%, gradient 2, entropy 1.23, KL 0.00123, clipped 3.1%, tokens 1,235, 12.3 s a step"
    )
    assert live_line({"loss": 0.69315, "grad_norm": 1.5}, 0.25) == "loss 0.693, gradient 1.5, 0.25 s a step"
    assert live_line({"eval_loss": 1.0}, 1.0) == ""


def test_rows_of_updates_become_rows_of_steps():
    row = {"step": 6, "rollouts/accuracy": 0.5, "step_time": 2.0}
    assert in_steps(row, 3) == {"step": 2, "rollouts/accuracy": 0.5, "seconds/updates": 6.0}
    assert in_steps({"step": 6, "loss": 1.0}, 1) == {"step": 6, "loss": 1.0}


@pytest.mark.parametrize("cut", ["", '{"step": 2, "lo', "\0\0\0", '{"step": 2, "loss": 0.5}', "[1]\n"])
def test_a_file_that_a_kill_cut_is_brought_to_the_state(tmp_path, cut):
    """Rows after the state go, a line that is not whole goes, rows that the file lacks come from the state."""
    file = tmp_path / "metrics.jsonl"
    history = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": float("nan")}, {"step": 3, "loss": 0.25}]
    file.write_text('{"step": 1, "loss": 1.0, "seconds": 9.5}\n' + cut)
    keep_rows(file, history)
    found = list(whole_lines(file))
    assert found[0] == {"step": 1, "loss": 1.0, "seconds": 9.5}
    assert [row["step"] for row in found] == [1, 2, 3]
    file.write_text(
        "".join(json.dumps({**row, "seconds": 1.0}) + "\n" for row in history) + '{"step": 4, "loss": 0.1}\n'
    )
    keep_rows(file, history)
    assert [(row["step"], row["seconds"]) for row in whole_lines(file)] == [(1, 1.0), (2, 1.0), (3, 1.0)]
    keep_rows(file, [])
    assert file.read_text() == ""


@pytest.mark.parametrize(
    "kind", [pytest.param("sft", marks=pytest.mark.slow), "rm", pytest.param("rl", marks=pytest.mark.slow)]
)
def test_a_stop_saves_before_it_says_so_and_loses_no_row(kind, tiny, tmp_path, monkeypatch, capsys, chosen_outcomes):
    """Ctrl-C in the third step: its state is there when the message is; the run that goes on writes what a whole one does."""
    (tmp_path / "whole").mkdir()
    whole = TRAIN[kind](make_recipe(kind, tiny, tmp_path / "whole", save_every=100))
    recipe = make_recipe(kind, tiny, tmp_path, save_every=100)
    updates = recipe.updates_of_step

    from prmbench.training.model import trainer as module

    step = module.GuardedTrainer.training_step

    def interrupted(self, *arguments, **others):
        if self.state.global_step == 2 * updates:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *arguments, **others)

    monkeypatch.setattr(module.GuardedTrainer, "training_step", interrupted)
    monkeypatch.setattr(module, "stop_signals", once(stop_signals))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 3, whose state is saved in") as stop:
        TRAIN[kind](recipe)
    assert signal.getsignal(signal.SIGINT) is before
    state = Path(str(stop.value).split(" saved in ")[1].split(": the same")[0])
    assert (state / "whole.json").exists()
    assert "this step is finished and saved first" in capsys.readouterr().err
    assert max(row["step"] for row in rows(recipe.output)) == 3
    monkeypatch.setattr(module.GuardedTrainer, "training_step", step)
    with (Path(recipe.output) / "metrics.jsonl").open("a") as file:  # what a run that was killed later would leave
        file.write('{"step": 4, "loss": 77.0}\n{"step": 5, "lo')
    lines = []
    # How a run is watched may change on the way.
    result = TRAIN[kind](recipe.model_copy(update={"report_to": "tensorboard"}), log=lines.append)
    assert any("going on from" in line for line in lines)
    assert result.steps == whole.steps == 6
    same_rows(rows(recipe.output), rows(tmp_path / "whole" / "out"))
    assert [row["step"] for row in rows(recipe.output) if row.get("grad_norm")] == [1, 2, 3, 4, 5, 6]
    shown = capsys.readouterr().err
    assert "training: 6 of 6 steps (100%)" in shown  # steps, whatever their updates
    assert " s a step" in shown
    assert ("accuracy 3" in shown) == (kind == "rl")
    events = events_of(Path(recipe.output) / "tensorboard")
    assert {step for step, _ in events["train/grad_norm"]} == {4, 5, 6}


def once(signals):
    """The signal is sent in every micro-batch of the step, but a second one would stop at once."""

    def wrapped(**options):
        context = signals(**options)

        class Once:
            def __enter__(self):
                request = context.__enter__()
                handler = signal.getsignal(signal.SIGINT)
                signal.signal(signal.SIGINT, lambda n, f: None if request.asked else handler(n, f))
                return request

            def __exit__(self, *error):
                return context.__exit__(*error)

        return Once()

    return wrapped


def events_of(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for file in sorted(folder.glob("events.out.tfevents.*")):
        events = EventAccumulator(str(file)).Reload()
        for tag in events.Tags()["scalars"]:
            found.setdefault(tag, []).extend((event.step, event.value) for event in events.Scalars(tag))
    return found


@pytest.fixture
def chosen_outcomes(monkeypatch):
    from prmbench.training.rl.trainer import PolicyTrainer

    monkeypatch.setattr(PolicyTrainer, "_sample", rl_driver.patched(PolicyTrainer._sample))


def test_a_second_signal_stops_at_once(capsys):
    with stop_signals() as request:
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert capsys.readouterr().err.count("saved first") == 1
    with stop_signals(quiet=True) as request:
        os.kill(os.getpid(), signal.SIGINT)
        assert request.asked
    assert capsys.readouterr().err == ""


def test_another_thread_takes_no_signals():
    found = []

    def work():
        before = signal.getsignal(signal.SIGINT)
        with stop_signals() as request:
            found.append((request.asked, signal.getsignal(signal.SIGINT) is before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(False, True)]


def test_trackers_are_those_of_transformers(tiny, tmp_path, monkeypatch):
    assert set(TRACKERS) <= set(INTEGRATION_TO_CALLBACK)
    assert set(INTEGRATION_TO_CALLBACK) - set(TRACKERS) == {"kubeflow"}  # a scheduler that sets itself
    recipe = make_recipe("rm", tiny, tmp_path)
    assert recipe.trackers == ()
    assert recipe.model_copy(update={"report_to": ["wandb", "none", "trackio", "wandb"]}).trackers == (
        "wandb",
        "trackio",
    )
    with pytest.raises(
        ValueError, match="report_to 'wandbb', did you mean 'wandb'\\? *: expected none, or of|report_to 'wandbb'"
    ):
        make_recipe("rm", tiny, tmp_path, report_to="wandbb")
    monkeypatch.setattr("transformers.integrations.integration_utils.is_wandb_available", lambda: False)
    with pytest.raises(UserError, match="report_to: 'wandb' is not installed .*set report_to=none"):
        train_rm(make_recipe("rm", tiny, tmp_path, report_to="wandb"))


def test_a_tracker_counts_steps():
    class Heard(TrainerCallback):
        def __init__(self):
            self.calls = []

        def on_log(self, args, state, control, logs=None, **_):
            self.calls.append((state.global_step, state.max_steps, logs))

    from transformers import TrainerState

    heard = Heard()
    state = TrainerState(global_step=6, max_steps=12)
    InSteps(heard, 3).on_log(None, state, None, logs={"rollouts/accuracy": 0.5, "step_time": 2.0})
    assert heard.calls == [(2, 4, {"rollouts/accuracy": 0.5, "seconds/updates": 6.0})]
    assert (state.global_step, state.max_steps) == (6, 12)


@pytest.mark.slow
def test_samples_of_rollouts(tmp_path, chosen_outcomes):
    """Of the first step and every second one after; rows of steps that a resumed run makes again are dropped."""
    recipe = make_recipe("rl", None, tmp_path, max_steps=4, samples_every=2)
    file = tmp_path / "out" / "samples.jsonl"
    train_rl(recipe)
    found = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["step"] for row in found] == [1] * 4 + [3] * 4
    assert {row["id"] for row in found[:4]} == {found[0]["id"]}
    assert {True, False} <= {row["correct"] for row in found}  # of a prompt that teaches
    SamplesFile(file, 2, done=2)
    assert [row["step"] for row in map(json.loads, file.read_text().splitlines())] == [1] * 4
    SamplesFile(file, 2)
    assert file.read_text() == ""


ON_ONE_OF_TWO = """
import json, os, signal, sys
from prmbench.training.model import trainer as module
from prmbench.training.rm.recipe import RMRecipe
from prmbench.training.rm.run import train_rm
step = module.GuardedTrainer.training_step
def asked(self, *arguments, **others):
    if os.environ["RANK"] == "1" and self.state.global_step == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self, *arguments, **others)
module.GuardedTrainer.training_step = asked
try:
    train_rm(RMRecipe(**json.loads(sys.argv[1])))
except KeyboardInterrupt as stop:
    print(str(stop))
else:
    sys.exit("it was not stopped")
"""


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_after_the_same_step(tiny, tmp_path):
    """A scheduler may reach one process before the others; they must not wait for each other for ever."""
    recipe = make_recipe("rm", tiny, tmp_path, save_every=100).model_copy(update={"micro_batch_size": 2})
    script = tmp_path / "stopped.py"
    script.write_text(ON_ONE_OF_TWO)
    done = support.launch(script, recipe.model_dump_json())
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("stopped after step 2, whose state is saved in") == 2
    assert (tmp_path / "out" / "trainer" / "checkpoint-2" / "whole.json").exists()
    assert max(row["step"] for row in rows(recipe.output)) == 2
