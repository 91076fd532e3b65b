"""Several reward models in one command: one reading of the data, one loading of the reference, and a comparison."""

from __future__ import annotations

import json
import shutil

import pytest
import support
from typer.testing import CliRunner

import prmbench
from prmbench.cli.app import app
from prmbench.errors import UserError


@pytest.fixture
def here(tiny, tiny_tuned, tmp_path, monkeypatch):
    """A folder with SFT, two models with cards that name it as reference, and traces."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny, "SFT")
    for name, seed in (("a", 1), ("b", 2)):
        support.save_checkpoint(tmp_path / name / "final", seed=seed)
        card = {"kind": "implicit", "objective": "ipvrm", "reference": "../../SFT"}
        (tmp_path / name / "final" / "prmbench.json").write_text(json.dumps(card))
    support.write_traces(tmp_path / "made.jsonl", 40)
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, ["eval", *map(str, arguments), "--data", "made.jsonl", "--resamples", "50"])


RMS = ("--rm", "a/final", "--rm", "b/final")


def test_entries_and_their_comparison_are_those_of_single_commands(here):
    done = run(*RMS, "--output", "both")
    assert done.exit_code == 0, done.output
    for name in ("a", "b"):
        assert run("--rm", f"{name}/final", "--output", name, "--name", f"{name}-final").exit_code == 0
        items = [(here / folder / "items.jsonl").read_bytes() for folder in (f"both/{name}-final", name)]
        assert items[0] == items[1]
        entries = [json.loads((here / folder / "entry.json").read_text()) for folder in (f"both/{name}-final", name)]
        assert entries[0]["metrics"] == entries[1]["metrics"]
    compared = CliRunner().invoke(app, ["compare", "both/a-final", "both/b-final", "--resamples", "50"])
    wanted = [line.strip() for line in compared.stdout.splitlines() if line.strip()]
    shown = [line.strip() for line in done.stdout.splitlines()]
    assert wanted[0].startswith("processbench: 2 subjects on the same 40 items")
    assert [line for line in wanted if line not in shown] == []
    assert shown[-1] == "next:  prmbench compare both/a-final both/b-final" or not shown[-1]


def test_the_data_are_read_once_and_the_reference_is_loaded_once(here, monkeypatch):
    from prmbench.data import traces
    from prmbench.reward_models import implicit

    monkeypatch.setenv("PRMBENCH_CACHE_GIB", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    read, loaded = [], []
    load_traces, load_engine = traces.load_traces, implicit.load_engine
    monkeypatch.setattr(traces, "load_traces", lambda *args: read.append(args) or load_traces(*args))
    monkeypatch.setattr(
        implicit, "load_engine", lambda *args, **kw: loaded.append(kw["source"]) or load_engine(*args, **kw)
    )
    found = prmbench.evaluate_several(["a/final", "b/final"], data="made.jsonl", n_resamples=20)
    assert len(read) == 1
    assert [source for source in loaded if source.endswith("SFT")] == [str(here / "SFT")]
    runs = [entry.provenance.run for entry, _ in found]
    assert (runs[0].cached_tokens, runs[1].cached_tokens) == (0, runs[1].tokens)


def test_a_second_call_goes_on_and_scores_nothing_again(here, monkeypatch):
    assert run(*RMS, "--output", "both").exit_code == 0
    (here / "both" / "b-final" / "entry.json").unlink()
    before = (here / "both" / "a-final" / "items.jsonl").stat().st_mtime_ns
    from prmbench.reward_models.implicit import ImplicitRewardModel

    monkeypatch.setattr(ImplicitRewardModel, "score", lambda *_: pytest.fail("scored again"))
    assert run(*RMS, "--output", "both").exit_code == 0
    assert (here / "both" / "b-final" / "entry.json").exists()
    assert before <= (here / "both" / "a-final" / "items.jsonl").stat().st_mtime_ns


def test_json(here):
    done = run(*RMS, "--output", "both", "--json")
    found = json.loads(done.stdout)
    assert [entry["subject"]["name"] for entry in found["entries"]] == ["a-final", "b-final"]
    compared = CliRunner().invoke(app, ["compare", "both/a-final", "both/b-final", "--resamples", "50", "--json"])
    assert found["comparison"] == json.loads(compared.stdout)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*RMS, "--name", "x"), "--name: is of one model, 2 were named"),
        ((*RMS, "--revision", "v1"), "--revision: is of one model, 2 were named"),
        (("--rm", "a/final", "--rm", "a/final"), "--rm a/final: is named twice"),
        (("--rm", "a/final", "--rm", "c/final"), "--rm c/final: no such folder"),
        ((*RMS, "--policy", "SFT", "--benchmark", "td-probe"), "--rm: several are compared on data that are there"),
    ],
)
def test_mistakes(here, arguments, said):
    done = run(*arguments) if "td-probe" not in arguments else CliRunner().invoke(app, ["eval", *arguments])
    assert isinstance(done.exception, UserError), done.output
    assert said in str(done.exception)
    assert not (here / "prmbench-results").exists()


def test_names_that_folders_can_be_called_by():
    from prmbench.api import _distinct_names

    assert _distinct_names(["o/m", "p/n"]) == ["m", "n"]
    assert _distinct_names(["o/m", "p/m"]) == ["o-m", "p-m"]
    # Revisions of one model are what one compares.
    assert _distinct_names(["o/m@v1", "o/m@v2"]) == ["m@v1", "m@v2"]
    assert _distinct_names(["o/m", "o/m@v2"]) == ["m", "m@v2"]
    assert _distinct_names(["o/m@v1", "p/m@v1"]) == ["o-m", "p-m"]
    # Folders' names have neither spaces nor more than 60 characters.
    for twice in (["o/m@v1", "o/m@v1"], ["a b", "a-b"], [f"{'x' * 70}{i}" for i in (1, 2)]):
        with pytest.raises(UserError, match="named twice, or as another is"):
            _distinct_names(twice)


def test_loaded_models_are_refused(here):
    model = prmbench.load_reward_model("a/final")
    with pytest.raises(TypeError, match="takes names of reward models"):
        prmbench.evaluate_several([model, "b/final"], data="made.jsonl")
