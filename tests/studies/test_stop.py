"""A stop of `replicate`: a training that a worker is at saves its state, from which the next call goes on."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from support_training import write_outcomes

from prmbench.studies import lab as lab_module
from prmbench.studies import measure_policies
from prmbench.studies import work as work_module
from prmbench.studies.lab import Lab
from prmbench.studies.settings import POLICIES, REWARD_MODELS
from prmbench.training.rm.recipe import RMRecipe
from prmbench.training.rm.run import train_rm
from prmbench.workers import interrupt_workers, start_worker, stop_workers


def make_recipe(model, folder, steps=400):
    fields = {"model": str(model), "output": str(folder / "out"), "batch_size": 4, "micro_batch_size": 4}
    return RMRecipe(objective="ipvrm", data=str(folder / "o.jsonl"), max_steps=steps, save_every=1000, **fields)


class TrainingRun:
    """Stands for a measurement whose first part is a training."""

    kind, name, seconds, split = "reward model", "ipvrm", 1, "test"


def train(link, model, folder):
    """What `prmbench.studies.work._work` does, with a training of our own."""
    work_module.perform = lambda run, lab: train_rm(make_recipe(model, Path(folder)))
    work_module._lab = lambda *_: None
    work_module._work(link)


@pytest.mark.slow
def test_a_training_in_a_worker_is_saved_and_goes_on(tiny, tmp_path, capfd):
    write_outcomes(tmp_path / "o.jsonl")
    worker = start_worker(train, str(tiny), str(tmp_path))
    try:
        worker.link.send(("job", 0))
        rows = tmp_path / "out" / "metrics.jsonl"
        deadline = time.monotonic() + 300
        while not (rows.exists() and rows.read_text().count("\n") >= 1):
            assert worker.process.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        interrupt_workers([worker], patience=120)
        assert not worker.process.is_alive()
    finally:
        stop_workers([worker])
    states = list((tmp_path / "out" / "trainer").glob("checkpoint-*/whole.json"))
    assert len(states) == 1
    step = int(states[0].parent.name.partition("-")[2])
    assert 0 < step < 400
    assert "Traceback" not in capfd.readouterr().err
    lines: list[str] = []
    recipe = make_recipe(tiny, tmp_path)
    import prmbench.training.model.trainer as trainer_module

    seen: list[int] = []
    before = trainer_module.GuardedTrainer.training_step

    def counted(self, *arguments, **others):
        seen.append(self.state.global_step)
        return before(self, *arguments, **others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module.GuardedTrainer, "training_step", counted)
        result = train_rm(recipe, log=lines.append)
    assert seen == list(range(step, 400))
    assert result is not None
    assert result.steps == 400
    assert any(f"checkpoint-{step}" in line for line in lines)


def test_the_studies_save_states_on_the_way(monkeypatch, tmp_path):
    """More often than a training is long, whatever the recipes of the miniature say."""
    found = []
    monkeypatch.setattr(lab_module, "train_rm", found.append)
    monkeypatch.setattr(Lab, "policy", tmp_path / "policy")
    monkeypatch.setattr(Lab, "outcomes", tmp_path / "outcomes")
    monkeypatch.setattr(Lab, "policy_problems", (tmp_path / "train.jsonl", tmp_path / "test.jsonl"))
    monkeypatch.setattr(Lab, "reward_model_folder", lambda self, settings: tmp_path / "rm")
    lab = Lab(0)
    lab._train(REWARD_MODELS["ipvrm"], tmp_path / "rm")
    assert found[0].save_every == 100
    settings = next(one for one in POLICIES.values() if one.method != "sft")
    recipe = measure_policies.policy_recipe(lab, settings, tmp_path / "out")
    assert recipe.save_every == 10 < settings.steps


def test_a_stop_lets_workers_save_first(monkeypatch, capsys):
    """Ctrl-C while replies are waited for: the workers are told, and only then ended."""
    calls = []

    class Link:
        def send(self, job):
            calls.append("job")

    class Worker:
        link = Link()

    def stopped(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(work_module, "start_worker", lambda work: Worker())
    monkeypatch.setattr(work_module, "wait", stopped)
    monkeypatch.setattr(
        work_module, "interrupt_workers", lambda workers, patience: calls.append(("told", len(workers)))
    )
    monkeypatch.setattr(work_module, "stop_workers", lambda workers: calls.append("ended"))
    with pytest.raises(KeyboardInterrupt):
        work_module._perform([(TrainingRun(), 0)], 1, lambda run, seed: None)
    assert calls == ["job", ("told", 1), "ended"]
    assert "trainings under way are saved first" in capsys.readouterr().err
