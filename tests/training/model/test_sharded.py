"""Two processes on a CPU that divide their models: the losses and the weights of one process, and no whole model anywhere.

All trainings share one launch (`sharded_driver`) by FSDP2 and one by ZeRO-3, because starting it takes longer than they do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import rl_driver
import sharded_driver
import support
import yaml
from safetensors.torch import load_file
from support_training import write_chats, write_outcomes

from prmbench.engines.processes import WAIT
from prmbench.errors import UserError
from prmbench.resources import resource_folder

SMALL = {
    "batch_size": 4,
    "micro_batch_size": 2,
    "held_out": 4,
    "epochs": 3,
    "schedule": "constant",
    "learning_rate": 3e-3,
}
CONFIGURATIONS = resource_folder("training") / "accelerate"
DEEPSPEED = Path(sys.prefix) / "deepspeed"
"""DeepSpeed in a folder of its own: where it can be imported, transformers does so in every process."""
TOLERANCE = 1e-5
"""Of losses and of weights; what was seen is 2e-6."""


def labelled(path: Path, n: int = 20) -> Path:
    """Sums with a label for every step."""
    rows = []
    for trace in support.make_traces(n):
        first = trace.pop("label")
        steps = range(len(trace["steps"]))
        rows.append({**trace, "labels": ["right" if first < 0 or i < first else "wrong" for i in steps]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """Jobs by name: every kind of training, two that are stopped and go on, adapters, bfloat16."""
    root = tmp_path_factory.mktemp("sharded")
    tied = support.save_checkpoint(root / "tied", seed=0, tie_word_embeddings=True)
    plain = support.save_checkpoint(root / "plain", seed=0)
    tuned = support.save_checkpoint(root / "tuned", seed=1)
    outcomes, chats = write_outcomes(root / "outcomes.jsonl"), write_chats(root / "chats.jsonl", 12)
    world = rl_driver.save_world(root)
    numerator = rl_driver.save_reward(root / "numerator", "ipvrm", str(world[0]))
    pairs = {"objective": "ipvrm", "model": str(tied), "reference": str(tuned), "data": str(outcomes), **SMALL}
    pairs |= {
        "reference_logprobs": "as-needed",
        "max_steps": 4,
        "save_every": 2,
        "evaluate_every": 2,
        "micro_batch_size": 1,
    }
    step = {"max_steps": 2, "save_every": 1, "learning_rate": 1e-3, "method": "distrl", "micro_batch_size": 2}
    online = {"model": str(numerator), "update": "dlw+adb", "reference": "start"}
    adapter = {"rank": 2, "targets": ["q_proj", "down_proj"]}
    all_jobs = {
        "rm": {"kind": "rm", "stop": 4, "recipe": pairs},
        "adapter": {"kind": "rm", "recipe": pairs | {"reference": None, "max_steps": 2, "lora": adapter}},
        "bf16": {"kind": "rm", "recipe": pairs | {"max_steps": 2, "bf16": True}},
        "sft": {"kind": "sft", "recipe": {"model": str(plain), "data": str(chats), **SMALL, "max_steps": 2}},
        "prm": {
            "kind": "prm",
            "recipe": {
                "objective": "token_pair",
                "model": str(plain),
                "data": str(labelled(root / "labelled.jsonl")),
                **SMALL,
                "max_steps": 2,
                "lora": adapter,
            },
        },
        "rl": {
            "kind": "rl",
            "stop": 3,
            "recipe": rl_driver.make_recipe(world, root / "rl", **step, reward_model=online).model_dump(),
        },
        "rl_adapters": {
            "kind": "rl",
            "recipe": rl_driver.make_recipe(
                world, root / "rl", **step, lora=adapter, reward_model={**online, "lora": adapter}
            ).model_dump(),
        },
    }
    return root, all_jobs


def placed(jobs, folder):
    return [{**job, "recipe": {**job["recipe"], "output": str(folder / name)}} for name, job in jobs.items()]


def zero3(root: Path) -> tuple[Path, dict[str, str]]:
    """A launch configuration of ZeRO-3, and its environment.

    The shipped one, with DeepSpeed's threshold at 0: below it weights stay whole everywhere, and ours are all below it.
    """
    shipped = yaml.safe_load((CONFIGURATIONS / "cpu-two-processes-zero3.yaml").read_text())
    own = shipped["deepspeed_config"]
    settings = {
        "zero_optimization": {
            "stage": own["zero_stage"],
            "stage3_param_persistence_threshold": 0,
            "stage3_gather_16bit_weights_on_model_save": own["zero3_save_16bit_model"],
        },
        **dict.fromkeys(("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"), "auto"),
        "gradient_clipping": "auto",
    }
    (root / "zero3.json").write_text(json.dumps(settings))
    kept = {name: value for name, value in shipped.items() if name not in ("deepspeed_config", "mixed_precision")}
    kept["deepspeed_config"] = {"deepspeed_config_file": str(root / "zero3.json"), "zero3_init_flag": False}
    (root / "zero3.yaml").write_text(yaml.safe_dump(kept))
    assert DEEPSPEED.is_dir(), f"{DEEPSPEED}: is not there; make setup installs it"
    return root / "zero3.yaml", {"DS_ACCELERATOR": "cpu", "PYTHONPATH": str(DEEPSPEED)}


@pytest.fixture(scope="module", params=["fsdp", "zero3"])
def divided(jobs, request):
    """(folder of outputs, what each process held, by job)."""
    root, all_jobs = jobs
    configuration, environment = CONFIGURATIONS / "cpu-two-processes-fsdp.yaml", {}
    if request.param == "zero3":
        configuration, environment = zero3(root)
        all_jobs = {name: job for name, job in all_jobs.items() if name != "bf16"}  # its type is the launch's there
    file = root / f"{request.param}-jobs.json"
    file.write_text(json.dumps(placed(all_jobs, root / request.param)))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(configuration)]
    done = subprocess.run(
        [*command, sharded_driver.__file__, str(file)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-9000:]
    found = [json.loads(Path(f"{file}.{rank}").read_text()) for rank in (0, 1)]
    return root / request.param, {name: [one[i] for one in found] for i, name in enumerate(all_jobs)}


@pytest.fixture(scope="module")
def alone(jobs):
    """Folder of the outputs of the same jobs in this process."""
    root, all_jobs = jobs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharded_driver.PolicyTrainer, "_sample", rl_driver.patched(sharded_driver.PolicyTrainer._sample))
        for job in placed(all_jobs, root / "one"):
            recipe_type, train = sharded_driver.KINDS[job["kind"]]
            train(recipe_type.model_validate(job["recipe"]))
    return root / "one"


JOBS = ("rm", "adapter", "bf16", "sft", "prm", "rl", "rl_adapters")
MODELS = {"rm": 2, "adapter": 1, "bf16": 2, "sft": 1, "prm": 1, "rl": 3, "rl_adapters": 2}
"""Models of each job. With adapters the start of the policy is the policy without its own."""


def history(output):
    (report,) = [one for one in output.glob("*.json") if one.name in ("rm.json", "sft.json", "prm.json", "rl.json")]
    rows = json.loads(report.read_text())["history"]
    names = ("loss", "eval_loss", "loss/sampled", "loss/candidates", "reward_model/loss", "reward_model/score")
    return {(row["step"], name): row[name] for row in rows for name in names if name in row}


@pytest.mark.slow
@pytest.mark.parametrize("name", JOBS)
def test_losses_and_weights_are_those_of_one_process(name, divided, alone):
    if name not in divided[1]:
        pytest.skip("not run by this engine")
    one, two = alone / name, divided[0] / name
    tolerance = 0.05 if name == "bf16" else TOLERANCE
    wanted = history(one)
    assert len(wanted) > 2
    assert history(two) == pytest.approx(wanted, abs=tolerance)
    files = sorted(path.relative_to(one) for path in one.rglob("model.safetensors"))
    assert len(files) == (1 if name in ("sft", "prm") else 2)  # the best and the last; policy and reward model
    for file in files:
        first, second = load_file(one / file), load_file(two / file)
        assert first.keys() == second.keys()  # of tied weights one copy
        apart = max(float((first[key].float() - second[key].float()).abs().max()) for key in first)
        assert apart < (0.02 if name == "bf16" else 10 * TOLERANCE), file


@pytest.mark.slow
@pytest.mark.parametrize("name", JOBS)
def test_no_process_holds_a_whole_model(name, divided):
    if name not in divided[1]:
        pytest.skip("not run by this engine")
    first, second = (found["models"] for found in divided[1][name])
    assert len(first) == len(second) == MODELS[name]
    for (mine, whole), (theirs, _) in zip(sorted(first), sorted(second), strict=True):
        assert max(mine, theirs) < 0.52 * whole
    assert sum(local for local, _ in first + second) == sum(whole for _, whole in first)


@pytest.mark.slow
@pytest.mark.parametrize("divided", ["fsdp"], indirect=True)  # ZeRO-3 keeps gradients where only DeepSpeed sees them
def test_gradients_are_divided_before_they_are_summed(divided):
    for found in divided[1].values():
        for weights, gradients in [one["gradients"] for one in found]:
            assert gradients == weights > 0


@pytest.mark.slow
def test_processes_wait_while_one_of_them_works(divided):
    for found in divided[1].values():
        assert [one["seconds"] for one in found] == [WAIT.total_seconds()] * 2


@pytest.mark.slow
def test_what_a_model_gives_stays_float32(divided):
    for found in divided[1].values():
        types = [given for one in found for given in one["types"]]
        assert types
        assert all(given == ["torch.float32"] for given in types)


@pytest.mark.slow
def test_stopped_runs_went_on(divided):
    for name in ("rm", "rl"):
        assert all(one.get("stopped") for one in divided[1][name])


@pytest.mark.slow
def test_what_is_exported_evaluates(divided, tmp_path):
    from typer.testing import CliRunner

    from prmbench.cli.app import app

    data = support.write_traces(tmp_path / "made.jsonl", 8)
    for checkpoint in (divided[0] / "rm", divided[0] / "rl" / "reward_model"):
        output = tmp_path / checkpoint.name
        arguments = ["eval", "--rm", checkpoint, "--data", data, "--output", output, "--resamples", 10]
        done = CliRunner().invoke(app, list(map(str, arguments)))
        assert done.exit_code == 0, done.output
        assert (output / "entry.json").exists()


def test_the_first_fsdp_is_refused(jobs, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "1")
    recipe_type, train = sharded_driver.KINDS["sft"]
    with pytest.raises(UserError, match="fsdp_version 1: .* set fsdp_version: 2 in the launch configuration"):
        train(recipe_type.model_validate({**jobs[1]["sft"]["recipe"], "output": str(jobs[0] / "none")}))
