"""A revision is part of a name wherever a model or a data set may be named, and is recorded."""

from __future__ import annotations

import json
import shutil

import pytest
import support
from pydantic import ValidationError
from typer.testing import CliRunner

import prmbench
from prmbench.benchmarks.registry import find_benchmark
from prmbench.cli.app import app
from prmbench.data.problem_sets import find_problems
from prmbench.data.revisions import snapshot_commit, split_revision, with_revision
from prmbench.data.traces import load_traces
from prmbench.engines.checkpoint import adapter_base, locate
from prmbench.errors import ArgumentError, UserError
from prmbench.training.rl.recipe import RLRecipe
from prmbench.training.rm.recipe import RMRecipe

OLD, NEW = "0" * 39 + "1", "0" * 39 + "2"


@pytest.fixture
def hub(tmp_path, monkeypatch, tiny, tiny_tuned):
    """A Hub's cache with one repository: `tiny` at the commit OLD and the tag v1, `tiny_tuned` at NEW and main."""
    cache = tmp_path / "hub"
    repository = cache / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    for model, commit, names in ((tiny, OLD, ("v1",)), (tiny_tuned, NEW, ("main",))):
        shutil.copytree(model, repository / "snapshots" / commit)
        for name in names:
            (repository / "refs" / name).write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return cache


def test_names_hand_worked(tmp_path, monkeypatch):
    assert split_revision("owner/name@v1") == ("owner/name", "v1")
    assert split_revision("owner/name@refs/pr/1") == ("owner/name", "refs/pr/1")
    assert split_revision("math500@abc") == ("math500", "abc")
    for plain in ("owner/name", "name", "./a@b", "/x/a@b", "a@", "@b", "a b@c", "owner/name@a@b"):
        assert split_revision(plain) == (plain, None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a@b").mkdir()
    assert split_revision("a@b") == ("a@b", None)  # a folder that exists
    assert with_revision("o/n", None, "rm") == "o/n"
    assert with_revision("o/n", "v1", "rm") == "o/n@v1"
    for source, revision, said in (
        ("a@b", "v1", "is no Hub id but lies here"),
        ("o/n@v1", "v2", "names one already"),
        ("o/n", "v 1", "expected a commit, a branch or a tag"),
        ("o/n", "", "expected a commit"),
    ):
        with pytest.raises(ArgumentError, match=said):
            with_revision(source, revision, "rm")
    assert snapshot_commit(tmp_path / "snapshots" / OLD) == OLD
    assert snapshot_commit(tmp_path / "snapshots" / "x") is None
    assert snapshot_commit(tmp_path / OLD) is None


def test_a_checkpoint_of_a_revision_is_found(hub):
    for source, commit in (
        ("owner/name", NEW),
        ("owner/name@v1", OLD),
        ("owner/name@main", NEW),
        (f"owner/name@{OLD}", OLD),
    ):
        assert locate(source, "rm").name == commit
    with pytest.raises(ArgumentError, match=r"`rm=owner/name@nowhere`: no such folder, and not to be had from the Hub"):
        locate("owner/name@nowhere", "rm")


def test_the_base_of_an_adapter_has_the_revision_of_its_config(hub, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    fields = {"base_model_name_or_path": "owner/name"}
    for revision, commit in ((None, NEW), ("v1", OLD), (OLD, OLD)):
        (folder / "adapter_config.json").write_text(json.dumps({**fields, "revision": revision}))
        assert adapter_base(folder).name == commit


def test_an_entry_says_which_revisions_and_a_run_of_others_is_another(hub, tmp_path):
    support.write_traces(tmp_path / "made.jsonl", 8)
    data = ["--data", str(tmp_path / "made.jsonl"), "--resamples", "20"]
    command = [
        "eval",
        "--rm",
        "owner/name",
        "--reference",
        "owner/name",
        "--objective",
        "ipvrm",
        *data,
        "--output",
        "run",
    ]
    one = CliRunner().invoke(app, [*command, "--reference-revision", "v1"])
    assert one.exit_code == 0, one.output
    entry = json.loads((tmp_path / "run" / "entry.json").read_text())
    assert entry["provenance"]["revisions"] == {"model": NEW, "reference": OLD}
    assert (entry["subject"]["name"], entry["subject"]["reference"]) == ("name", "owner/name@v1")
    # The very same weights by another name of their revision: another run, whose figures compare.
    other = CliRunner().invoke(app, [*command, "--reference-revision", OLD])
    assert isinstance(other.exception, UserError)
    assert "holds a run with other settings (revisions" in str(other.exception)
    model = prmbench.load_reward_model(f"owner/name@{NEW}", reference="owner/name@v1", objective="ipvrm")
    again, path = prmbench.evaluate(model, data=tmp_path / "made.jsonl", n_resamples=20)
    assert again.subject.source == f"owner/name@{NEW}"
    assert again.benchmark.fingerprint == entry["benchmark"]["fingerprint"]
    assert prmbench.compare(["run", path], n_resamples=20)
    # A folder has none.
    local, _ = prmbench.evaluate(locate("owner/name", "rm"), kind="endo", data=tmp_path / "made.jsonl", n_resamples=20)
    assert local.provenance.revisions == {"model": NEW}  # it lies in the Hub's cache


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rm", "SFT", "--revision", "v1"], "--revision v1: --rm SFT is no Hub id but lies here"),
        (["--rm", "o/n@v2", "--revision", "v1"], "--revision v1: --rm o/n@v2 names one already"),
        (["--rm", "o/n", "--reference-revision", "v1"], "--reference-revision v1: goes with --reference and a Hub id"),
        (["--rm", "o/n", "--engine", "api", "--revision", "v1"], "--revision v1: a server's models have none"),
        (
            ["--rm", "SFT", "--data", "x.jsonl", "--data-revision", "v1"],
            "--data-revision v1: the data are read from x.jsonl",
        ),
        (
            ["--policy", "SFT", "--subset", "amc", "--subset", "aime", "--data-revision", "v1"],
            "2 were named; write NAME@REVISION",
        ),
        (["--policy", "SFT", "--subset", "amc@v1"], "--data-revision v1: the data are read from"),
    ],
)
def test_mistakes(tiny, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "SFT").symlink_to(tiny)
    support.write_traces(tmp_path / "x.jsonl", 4)
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "amc.jsonl").write_text('{"id": "1", "problem": "x", "answer": "1"}\n')
    monkeypatch.setenv("PRMBENCH_DATA_DIR", str(tmp_path))
    kind = ["--kind", "endo"] if "--rm" in arguments and "api" not in arguments else []
    done = CliRunner().invoke(app, ["eval", *arguments, *kind])
    assert isinstance(done.exception, UserError), done.output
    assert said in str(done.exception)


def test_data_of_a_revision_are_asked_for(monkeypatch):
    """What the library `datasets` is asked; the Hub is not."""
    asked = []

    def load(name, config=None, *, split, revision=None, streaming=False):
        asked.append((name, split, revision))
        if name == "Qwen/ProcessBench":
            return support.make_traces(3)
        if name == "openai/gsm8k":
            return [{"question": "1 + 1?", "answer": "so #### 2"}]
        return [{"problem": "1 + 1?", "answer": "2"}]

    monkeypatch.setattr("datasets.load_dataset", load)
    monkeypatch.delenv("PRMBENCH_DATA_DIR", raising=False)
    load_traces(subsets=["math"], data_revision="abc")
    found = find_problems(["math500@v1", "gsm8k"])
    assert asked == [
        ("Qwen/ProcessBench", "math", "abc"),
        ("HuggingFaceH4/MATH-500", "test", "v1"),
        ("openai/gsm8k", "test", None),
    ]
    assert list(found) == ["math500", "gsm8k"]
    problems = find_benchmark("policy").load(
        prmbench.benchmarks.base.DataRequest(subsets=["math500"], data_revision="v2")
    )
    assert (list(problems.sets), asked[-1][2]) == (["math500"], "v2")
    with pytest.raises(UserError, match="problem set 'math50@v1' is not known"):
        find_problems(["math50@v1"])


def test_an_entry_says_which_data_were_asked_for(monkeypatch, tiny, tmp_path):
    monkeypatch.setattr("datasets.load_dataset", lambda name, *, split, revision: support.make_traces(6))
    monkeypatch.delenv("PRMBENCH_DATA_DIR", raising=False)
    entry, _ = prmbench.evaluate(
        tiny, kind="endo", subsets=["math"], data_revision="abc", output=tmp_path / "run", n_resamples=20
    )
    assert entry.provenance.revisions == {"data": "abc"}
    with pytest.raises(UserError, match=r"other settings \(revisions"):
        prmbench.evaluate(
            tiny, kind="endo", subsets=["math"], data_revision="d", output=tmp_path / "run", n_resamples=20
        )


def test_rollouts_and_scores_of_another_revision_are_another_run(hub, tmp_path):
    (tmp_path / "problems.jsonl").write_text('{"id": "1", "problem": "1 + 1?", "answer": "2"}\n')
    (tmp_path / "solutions.jsonl").write_text('{"problem": "1 + 1?", "steps": ["2"]}\n')
    commands = {
        "rollout": [
            "rollout",
            "--policy",
            "owner/name",
            "--problems",
            "problems.jsonl",
            "--n",
            "1",
            "--max-new-tokens",
            "4",
        ],
        "score": ["score", "--rm", "owner/name", "--kind", "endo", "solutions.jsonl"],
    }
    for name, command in commands.items():
        for revision, code in (("v1", 0), ("v1", 0), (OLD, 1)):
            done = CliRunner().invoke(app, [*command, "--output", name, "--revision", revision])
            assert (done.exit_code == 0) == (code == 0), done.output
        assert "other settings (revisions" in str(done.exception)


def test_recipes(tmp_path, tiny):
    fields = {"model": "o/n", "output": "out", "data": "d.jsonl", "objective": "ipvrm"}
    recipe = RMRecipe.model_validate({**fields, "revision": "v1", "reference": "o/r", "reference_revision": "v2"})
    assert (recipe.model, recipe.reference, recipe.revision) == ("o/n@v1", "o/r@v2", None)
    assert RMRecipe.model_validate(recipe.model_dump()) == recipe
    for change, said in (
        ({"reference_revision": "v2"}, "reference_revision v2: goes with 'reference', a Hub id"),
        ({"model": str(tiny), "revision": "v1"}, f"revision v1: model {tiny} is no Hub id but lies here"),
        ({"model": "o/n@v1", "revision": "v2"}, "revision v2: model o/n@v1 names one already"),
    ):
        with pytest.raises(ValidationError, match=said):
            RMRecipe.model_validate({**fields, **change})
    rl = {"model": "o/n", "output": "out", "problems": "math500@v1", "method": "grpo"}
    reward = {"model": "o/rm", "revision": "v3", "reference": "o/r", "reference_revision": "v4"}
    found = RLRecipe.model_validate({**rl, "reward_model": reward}).reward_model
    assert (found.model, found.reference) == ("o/rm@v3", "o/r@v4")
    with pytest.raises(ValidationError, match="goes with 'reference', a Hub id"):
        RLRecipe.model_validate({**rl, "reward_model": {**reward, "reference": "start"}})
