from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from prmbench.cli.app import app
from prmbench.errors import ArgumentError, UserError
from prmbench.miniature.build import MAX_NEW_TOKENS, SHIPPED, draw_solutions, make_chats, make_problems, write_lines
from prmbench.miniature.checker import first_wrong_step
from prmbench.miniature.solutions import write_steps
from prmbench.miniature.world import World
from prmbench.resources import resource_folder
from prmbench.studies.paper_tables import paper_tables
from prmbench.studies.recipe_commands import Command, RecipeFolder
from prmbench.studies.recipe_options import WorldOptions
from prmbench.studies.recipe_world import RecipeWorld, start_process
from prmbench.studies.replicate import plan_runs, replicate
from prmbench.studies.runs import StudyRun
from prmbench.studies.settings import POLICIES, REWARD_MODELS

SUBSETS = ("gsm8k", "math", "olympiadbench", "omnimath")
WORLD = World()


def write_recipe(folder, name, **fields):
    (folder / f"{name}.yaml").write_text(
        yaml.safe_dump({k: str(v) if isinstance(v, Path) else v for k, v in fields.items()})
    )


def trace_record(name, problem, steps, right, label):
    made = {"id": name, "generator": "made", "problem": problem, "steps": steps}
    return {**made, "final_answer_correct": right, "label": label}


def write_world(base, made, *, shared, sft, rm, rl, branches):
    """Write data and recipes of a small world.

    Args:
        base: Folder to write into.
        made: ``model``; ``traces`` by subset, ``problems`` by name and ``chats``, each as records.
        shared: Keys of every recipe.
        sft: Keys of the recipe of the SFT policy.
        rm: Keys of the recipe of reward models.
        rl: Keys of the recipes of policies, ``max_new_tokens`` among them.
        branches: Branches of the probes.

    Returns:
        The folder of the recipes.
    """
    data, out, found = base / "data", base / "out", base / "recipes"
    found.mkdir()
    (data / "traces").mkdir(parents=True)
    for subset, records in made["traces"].items():
        write_lines(data / "traces" / f"{subset}.jsonl", records)
    for name, records in made["problems"].items():
        write_lines(data / f"{name}.jsonl", records)
    write_lines(data / "chats.jsonl", made["chats"])
    tests = [str(data / f"{name}.jsonl") for name in ("first", "second")]
    own = {**shared, "model": made["model"], "data": data / "chats.jsonl", "output": out / "sft"}
    write_recipe(found, "sft", **own | sft)
    own = {**shared, "prompt": "bare", "model": out / "sft"}
    files = {"data": out / "rollouts", "output": out / "ipvrm"}
    write_recipe(found, "ipvrm", **own | files | rm, objective="ipvrm")
    evaluate = {"problems": tests, "n": 8, "max_new_tokens": rl["max_new_tokens"], "resamples": 50}
    rl = {**own, "problems": data / "train.jsonl", "minibatches": 2, "evaluate": evaluate, **rl}
    write_recipe(found, "grpo", **rl, output=out / "grpo", method="grpo")
    reward = {"model": str(out / "ipvrm"), "update": "dlw+adb"}
    write_recipe(found, "distrl_ipvrm", **rl, output=out / "distrl_ipvrm", method="distrl", reward_model=reward)
    options = {
        "rollouts": {"n": 5},
        "traces": {"data": str(data / "traces"), "subsets": list(SUBSETS)},
        "best_of_n": {"problems": tests},
        "probes": {"problems": tests, "branches": branches, "rollouts_per_branch": 4, "limit": 3},
        "note": "Its figures mean nothing: a trial of the commands.",
    }
    (found / "world.yaml").write_text(yaml.safe_dump(options))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Recipes at a size of seconds, whose checkpoint is the miniature's: one that solves some problems and fails at others."""
    traces = {}
    for i, subset in enumerate(SUBSETS):
        traces[subset] = []
        for j, (problem, content, form) in enumerate(draw_solutions(WORLD, "test", 30, i)):
            steps = write_steps(content, form)
            right, label = content[1] == problem.answer(WORLD), first_wrong_step(problem, steps, WORLD)
            traces[subset].append(trace_record(f"{subset}-{j}", problem.text(), steps, right, label))
    sizes = (("train", "train", 80), ("first", "test", 4), ("second", "test", 3))
    made = {
        "model": SHIPPED,
        "traces": traces,
        "problems": {name: make_problems(WORLD, split, n, len(name)) for name, split, n in sizes},
        "chats": make_chats(WORLD, 32, 0),
    }
    return write_world(
        tmp_path_factory.mktemp("world"),
        made,
        shared={"max_length": 200, "micro_batch_size": 16, "batch_size": 16},
        sft={"learning_rate": 1e-5},
        rm={"learning_rate": 3e-4},
        rl={"learning_rate": 1e-4, "max_new_tokens": MAX_NEW_TOKENS, "batch_size": 4, "max_steps": 3},
        branches=20,
    )


def add(rng, errors=0.0):
    """Draw a sum of three numbers with its solution in two steps, in which each step is wrong with the chance `errors`.

    Returns:
        The problem, the right answer, the steps, and the index of the first wrong step, -1 where there is none.
    """
    a, b, c = (rng.randint(1, 9) for _ in range(3))
    wrong = [rng.random() < errors for _ in range(2)]
    first = a + b + wrong[0]
    last = first + c + wrong[1]
    steps = [f"{a} + {b} = {first}", f"{first} + {c} = {last}, so \\boxed{{{last}}}"]
    return f"{a} + {b} + {c}", a + b + c, steps, wrong.index(True) if any(wrong) else -1


@pytest.fixture(scope="module")
def smollm2_folder(smollm2, tmp_path_factory):
    """Recipes at a size of minutes for SmolLM2-135M, which first learns to add as the traces do."""
    rng = random.Random(0)

    def problems(name, n):
        drawn = [add(rng) for _ in range(n)]
        return [{"id": f"{name}-{i}", "problem": one[0], "answer": str(one[1])} for i, one in enumerate(drawn)]

    traces = {}
    for subset in SUBSETS:
        traces[subset] = []
        for j in range(12):
            problem, answer, steps, label = add(rng, errors=0.3)
            right = steps[-1].endswith(f"\\boxed{{{answer}}}")
            traces[subset].append(trace_record(f"{subset}-{j}", problem, steps, right, label))
    chats = []
    for problem, _, steps, _ in (add(rng) for _ in range(160)):
        said = (("user", problem), ("assistant", "\n\n".join(steps)))
        chats.append({"messages": [{"role": role, "content": content} for role, content in said]})
    sizes = {"train": 24, "first": 1, "second": 1}
    made = {
        "model": smollm2,
        "traces": traces,
        "problems": {name: problems(name, n) for name, n in sizes.items()},
        "chats": chats,
    }
    return write_world(
        tmp_path_factory.mktemp("smollm2"),
        made,
        shared={"max_length": 96, "micro_batch_size": 8, "batch_size": 8},
        sft={"learning_rate": 1e-4},
        rm={"learning_rate": 1e-4},
        rl={"learning_rate": 1e-5, "max_new_tokens": 32, "batch_size": 2, "max_steps": 2},
        branches=8,
    )


def in_this_process(arguments):
    """Run a command without loading the libraries once more."""
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False).exit_code


def test_every_run_of_the_shipped_recipes_has_its_command():
    """Names in the studies' settings lead to the recipes of the paper, with overrides for what has no file."""
    for backbone in ("qwen3-0.6b", "qwen3-8b", "llama3.2-1b", "llama3.2-3b"):
        recipes = RecipeFolder(backbone)
        for name, settings in POLICIES.items():
            if name == "sft":
                continue
            command = recipes.trained_policy(name, 0)
            recipe = command.recipe
            assert recipe.method == settings.method
            assert (recipe.reward_model is None) == (settings.reward is None)
            if recipe.reward_model is not None:
                assert recipe.reward_model.update == settings.update
                assert recipe.reward_model.reference == settings.reference
                assert Path(recipe.reward_model.model).name == settings.objective
            stem = "reinforce" if name == "reinforce q_rm" else name.replace(" ", "_")
            if (resource_folder("training") / backbone / f"{stem}.yaml").exists():
                assert command.arguments == ("train", "rl", f"{backbone}/{stem}.yaml")
            else:
                assert command.arguments[2] == f"{backbone}/distrl_ipvrm.yaml"
                assert recipe.output == f"out/{backbone}/{name.replace(' ', '_').replace('=', '')}"
        for name, settings in REWARD_MODELS.items():
            if name != "endo":
                recipe = recipes.reward_model(settings, 0).recipe
                assert (recipe.objective, recipe.margin) == (settings.objective, settings.margin)
    outputs = [RecipeFolder("qwen3-0.6b").trained_policy(name, 0).output for name in POLICIES if name != "sft"]
    assert len(set(outputs)) == len(outputs)


def test_the_cost_of_a_step_is_what_the_training_of_the_policy_logged(tmp_path):
    world = RecipeWorld("qwen3-0.6b")
    step, policy = (StudyRun(kind, "grpo ipvrm") for kind in ("step", "policy"))
    assert world.commands([step], [0])[-1].text == world.commands([policy], [0])[-1].text
    history = [{"seconds/step_before": float(i), "peak_memory_gib": 2.0} for i in range(6)]
    (tmp_path / "rl.json").write_text(json.dumps({"history": history}))
    assert world._figures(step, {"policy": Command((), tmp_path, "")}) == {"seconds": 4.5, "peak_gib": 2.0}


def test_recipes_without_a_file_derive_from_others():
    """SmolLM2's folder has neither SFT nor PRIME."""
    recipes = RecipeFolder("smollm2-135m")
    assert recipes.sft(0) is None
    assert recipes.policy(1) == "HuggingFaceTB/SmolLM2-135M-Instruct"
    prime = recipes.trained_policy("prime", 0)
    assert prime.arguments[2] == "smollm2-135m/distrl_ipvrm.yaml"
    assert (prime.recipe.method, prime.recipe.reward_model.reference) == ("prime", "start")
    assert [one.arguments[2] for one in prime.needs] == ["smollm2-135m/implicit_prm.yaml"]
    assert recipes.trained_policy("reinforce q_rm", 0).recipe.reward_model.update == "frozen"
    dpo = recipes.reward_model(REWARD_MODELS["dpo"], 0)
    assert dpo.text == (
        "prmbench train rm smollm2-135m/ipvrm.yaml --set objective=dpo --set output=out/smollm2-135m/dpo"
    )


def test_another_seed_has_folders_of_its_own_and_other_keys():
    world = RecipeWorld("qwen3-0.6b")
    runs = plan_runs((), (), world.facts)[2]
    places = [world.place(run, seed) for run in runs for seed in (0, 1)]
    assert len(set(places)) == len(places)
    outputs = [{one.output for one in world.commands(runs, [seed])} for seed in (0, 1)]
    assert not outputs[0] & outputs[1]
    (rl,) = (one for one in world.commands(runs, [1]) if one.output.name == "distrl_ipvrm")
    assert rl.recipe.seed == 43
    assert rl.recipe.model == "out/qwen3-0.6b/seed-1/sft"
    assert rl.recipe.reward_model.model == "out/qwen3-0.6b/seed-1/ipvrm"


def test_commands_come_behind_what_they_need():
    world = RecipeWorld("qwen3-0.6b")
    before = set()
    for command in world.commands(plan_runs((), (), world.facts)[2], [0]):
        assert {one.text for one in command.needs} <= before
        assert command.text not in before
        before.add(command.text)


def test_a_recipe_that_changes_changes_the_place_of_what_stands_on_it(folder, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_text(file.read_text())
    runs = [StudyRun("reward model", "ipvrm"), StudyRun("policy", "distrl ipvrm"), StudyRun("policy", "grpo")]
    before = [RecipeWorld(str(copy)).place(run, 0) for run in runs]
    file = copy / "ipvrm.yaml"
    file.write_text(file.read_text().replace("learning_rate: 0.0003", "learning_rate: 0.0004"))
    after = [RecipeWorld(str(copy)).place(run, 0) for run in runs]
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, False, True]


def test_a_dry_run_prints_commands_with_their_cost(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["replicate", "--world", "qwen3-0.6b", "--dry-run", "--table", "9"])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[1::2] == [
        "prmbench train sft qwen3-0.6b/sft.yaml",
        lines[3],
        "prmbench train rm qwen3-0.6b/ipvrm.yaml",
        "prmbench train rl qwen3-0.6b/distrl_ipvrm.yaml --set output=out/qwen3-0.6b/distrl_ipvrm_start "
        "--set reward_model.reference=start",
        "prmbench train rl qwen3-0.6b/distrl_ipvrm.yaml",
    ]
    assert lines[3].startswith("prmbench rollout --policy out/qwen3-0.6b/sft --problems eurus-2/problems.jsonl")
    assert re.fullmatch(r"# [\d,]+ updates, [\d,]+ tokens, [\d.]+ GiB on one device", lines[0])
    assert lines[-1] == "# 5 commands, 0 of them done"
    assert not list(tmp_path.iterdir())


def test_the_page_has_the_defaults_of_world_yaml():
    page = (Path(__file__).resolve().parents[2] / "docs" / "replicate.md").read_text()
    (block,) = re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S)
    assert yaml.safe_load(block) == WorldOptions().model_dump()


def test_what_a_world_refuses(folder, tmp_path):
    with pytest.raises(UserError, match=r"no such folder of recipes; ready ones are llama3.2-1b, .* or 'miniature'"):
        RecipeFolder("qwen4")
    with pytest.raises(UserError, match=r"has no ipvrm.yaml"):
        RecipeFolder(str(tmp_path))
    with pytest.raises(ArgumentError, match="one command at a time"):
        RecipeWorld(str(folder)).perform([], [0], workers=2)
    for name in ("ipvrm", "grpo"):
        (tmp_path / f"{name}.yaml").write_text((folder / f"{name}.yaml").read_text())
    (tmp_path / "world.yaml").write_text("traces: {subset: [math]}")
    with pytest.raises(UserError, match=r"world.yaml: key 'traces.subset' is not known \(did you mean 'subsets'"):
        RecipeFolder(str(tmp_path))
    (tmp_path / "world.yaml").write_text("best_of_n: {n: 8}")
    with pytest.raises(UserError, match=r"key 'best_of_n.n'.* greater than or equal to 64"):
        RecipeFolder(str(tmp_path))
    (tmp_path / "world.yaml").unlink()
    (tmp_path / "grpo.yaml").write_text("{model: a, problems: b, output: c, method: grpo}")
    with pytest.raises(UserError, match="no key 'evaluate'"):
        RecipeFolder(str(tmp_path))
    said = CliRunner().invoke(app, ["replicate", "--dry-run"]).exception
    assert "name one by --world" in str(said)


def test_the_run_of_another_recipe_is_not_taken_for_this_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = RecipeFolder("qwen3-0.6b").reward_model(REWARD_MODELS["ipvrm"], 0)
    assert not command.is_done
    command.output.mkdir(parents=True)
    recipe = json.loads(json.dumps(command.recipe.model_dump()))
    (command.output / "rm.json").write_text(json.dumps({"recipe": recipe}))
    assert command.is_done
    # A key that an earlier version did not have.
    (command.output / "rm.json").write_text(
        json.dumps({"recipe": {k: v for k, v in recipe.items() if k != "read_state"}})
    )
    assert command.is_done
    (command.output / "rm.json").write_text(json.dumps({"recipe": {**recipe, "learning_rate": 1.0}}))
    with pytest.raises(UserError, match=r"rm.json: is of a run whose recipe differs in learning_rate; expected"):
        _ = command.is_done


def test_a_command_that_fails_is_said_and_nothing_is_kept(folder):
    world = RecipeWorld(str(folder), lambda arguments: 2)
    run = StudyRun("policy", "prime")
    with pytest.raises(UserError, match=r"^prmbench train sft .*: ended with exit code 2; mend what it says"):
        world.perform([run], [7])
    assert not world.place(run, 7).exists()


@pytest.mark.slow
def test_a_process_of_its_own_gives_its_exit_code():
    assert start_process(["--version"]) == 0
    assert start_process(["train", "rm", "none.yaml"]) == 2


def check_all_tables(folder, tmp_path):
    """Run everything: every table is filled, what is kept is reused, and a second call runs nothing."""
    done = []

    def start(arguments):
        done.append(arguments)
        return in_this_process(arguments)

    pages = replicate(world=RecipeWorld(str(folder), start), output=tmp_path / "out")
    text = pages.markdown.read_text()
    assert "Its figures mean nothing: a trial of the commands." in text
    assert "miniature" not in text.partition("## Claims")[0]
    tables = paper_tables(SUBSETS, {})
    for layout in tables:
        assert f"## {layout.heading}" in text
    # Every cell of every table is filled. Two problems with three branches each leave some correlations undefined.
    for section in text.split("\n## ")[2:]:
        if not section.startswith(("Section 4.3.3", "Claims of ours", "Without")):
            cells = section.partition("| paper |")[0]
            assert "n/a" not in cells, section
            assert "nan" not in cells, section
    assert "| gsm8k | math | olympiadbench | omnimath | mean, shifted |" in text
    # Claims whose figures only the miniature has are named, and not counted.
    missing = text.partition("## Without a counterpart")[2]
    for part in ("tagged: IPVRM above", "format tokens", "true prefix values"):
        assert part in missing
        assert part not in text.partition("## Without a counterpart")[0]
    # Again: the figures come from the rows; without the rows, from what the commands left.
    n_commands = len(done)
    again = replicate(world=RecipeWorld(str(folder), start), output=tmp_path / "again")
    assert again.markdown.read_text() == text
    for row in (folder.parent / "out" / "replicate" / "seed-0").glob("*.json"):
        row.unlink()
    once_more = replicate(world=RecipeWorld(str(folder), start), output=tmp_path / "once-more")
    assert once_more.markdown.read_text() == text
    assert len(done) == n_commands == len({tuple(one) for one in done})


@pytest.mark.slow
def test_all_tables_of_a_folder_of_recipes(folder, tmp_path):
    check_all_tables(folder, tmp_path)


@pytest.mark.slow
@pytest.mark.long
def test_all_tables_of_smollm2(smollm2_folder, tmp_path):
    """The same end to end with a real backbone: `make test-long`."""
    check_all_tables(smollm2_folder, tmp_path)
