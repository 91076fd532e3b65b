"""The command line as a user has it: real processes, exit codes, what is on stdout and what on stderr."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib import metadata

import pytest
import support
from typer.testing import CliRunner

from prmbench.benchmarks.processbench.benchmark import PROCESSBENCH
from prmbench.cli import app as cli
from prmbench.data.prompts import PROMPT_TEMPLATES
from prmbench.engines.sampling import SamplingParams


def run(*arguments, cwd=None, env=None, check=None):
    done = subprocess.run(
        [sys.executable, "-m", "prmbench", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        timeout=300,
    )
    if check is not None:
        assert done.returncode == check, done.stderr
    return done


def mistake(*arguments):
    """A user's mistake: exit code 2, one sentence, no traceback, nothing on stdout. In this process, which has imported all."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["prmbench", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert end.value.code == 2
    return one_sentence(out.getvalue(), err.getvalue())


def one_sentence(stdout, stderr):
    assert stdout == ""
    assert "Traceback" not in stderr
    (line,) = stderr.strip().split("\n")
    return line


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["eval", "--rm", "./nowhere"], 2)])
def test_native_threads_cannot_fail_a_run_at_its_end(arguments, code):
    """A thread of vLLM's may abort the process while the interpreter goes down: it does not, and what must run at exit does."""
    program = (
        "import atexit, os, sys, types\n"
        "class Abort:\n    def __del__(self): os.abort()\n"
        "sys.modules['vllm'] = types.ModuleType('vllm')\nsys.modules['vllm'].thread = Abort()\n"
        "atexit.register(print, 'cleaned up')\n"
        f"sys.argv[1:] = {arguments}\n"
        "import prmbench.cli.app\nprmbench.cli.app.program()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split("\n")[-2]) == (code, "cleaned up")
    assert ("no such folder" in done.stderr) == (code == 2)


def test_a_temperature_is_finite(tmp_path):
    done = run("eval", "--policy", "p", "--temperature", "inf", check=2)
    assert "--temperature" in done.stderr
    with pytest.raises(ValueError, match="finite number"):
        SamplingParams(temperature=float("inf"))


def test_help_imports_no_torch():
    code = "import sys, prmbench.cli.app; print([m for m in ('torch', 'transformers', 'numpy', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert "eval" in run("--help", check=0).stdout


@pytest.mark.parametrize("command", ["eval", "rollout", "score"])
def test_help_names_every_prompt_template(command):
    said = run(command, "--help", env={"COLUMNS": "400"}, check=0).stdout
    assert f"prompt template: {', '.join(PROMPT_TEMPLATES)}" in said


@pytest.mark.slow
def test_entries_are_read_and_computed_again_without_torch(table):
    """Its import alone would be most of the time."""
    folder, _ = table
    code = (
        "import sys, prmbench.cli.app\ntry: prmbench.cli.app.main()\n"
        "except SystemExit: print([m for m in ('torch', 'transformers') if m in sys.modules], file=sys.stderr)"
    )
    for arguments in (
        ["eval", "--from-items", folder / "out", "--resamples", 10],
        ["compare", folder / "out", folder / "out", "--resamples", 10],
        ["export", folder / "out"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True
        )
        assert done.stdout
        assert done.stderr.split("\n")[-2:] == ["[]", ""]


@pytest.fixture(scope="module")
def table(tiny, tiny_tuned, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    data = support.write_traces(folder / "made.jsonl", 40)
    done = run(
        "eval",
        "--rm",
        tiny_tuned,
        "--reference",
        tiny,
        "--data",
        data,
        "--output",
        folder / "out",
        "--resamples",
        100,
        check=0,
    )
    return folder, done


def test_table(table):
    folder, done = table
    out = done.stdout
    assert "ProcessBench: tuned (implicit), 40 traces, 20 of them with an error" in out
    names = ["process", "prefix", "process_mean", "prefix_mean", "random score", "position only", "length only"]
    rows = [line.strip() for line in out.split("\n") if line.strip().startswith(tuple(f"{name}  " for name in names))]
    assert len(rows) == len(names)
    assert all(row.startswith(name) for row, name in zip(rows, names, strict=True))
    assert (
        max(
            len(line.rstrip())
            for line in out.split("\n")
            if not line.startswith(("entry:", "next:", "Oracle", "process ("))
        )
        <= 80
    )
    assert "Oracle thresholds are chosen on the very traces they are scored on" in out
    assert f"entry: {folder / 'out' / 'entry.json'}\n" in out
    assert f"next:  prmbench report {folder / 'out'}\nnext:  prmbench compare {folder / 'out'} OTHER-RUN\n" in out
    entry = json.loads((folder / "out" / "entry.json").read_text())
    value = entry["metrics"]["protocols"]["process"]["mean"]["crossfit"]["value"]
    assert f"{100 * value:.1f} [" in rows[0]
    assert str(folder) not in json.dumps(entry)  # entries are published: no paths of this machine


def test_progress_goes_to_stderr_in_plain_lines(table):
    _, done = table
    assert "tokens/s" in done.stderr
    assert done.stderr.startswith("loading ")
    assert "\x1b" not in done.stderr + done.stdout
    assert "tokens/s" not in done.stdout


def test_from_items_prints_the_same_table(table):
    folder, done = table
    again = run("eval", "--from-items", folder / "out" / "items.jsonl", "--resamples", 100, check=0)
    first_lines = [line for line in done.stdout.split("\n") if not line.startswith(("entry:", "next:"))]
    assert [line for line in again.stdout.split("\n") if line] == [line for line in first_lines if line]
    run("eval", "--from-items", folder / "out", "--output", folder / "again", check=0)
    for name in ("entry.json", "items.jsonl"):
        assert (folder / "again" / name).read_text() == (folder / "out" / name).read_text()


def test_json_is_the_entry_and_nothing_else(table):
    folder, _ = table
    done = run("eval", "--from-items", folder / "out", "--resamples", 100, "--json", check=0)
    assert json.loads(done.stdout) == json.loads((folder / "out" / "entry.json").read_text())


def test_from_items_mistakes(table, tmp_path):
    folder, _ = table
    assert "--beta, --subset: items are already scored" in mistake(
        "eval", "--from-items", folder / "out", "--beta", 5, "--subset", "math"
    )
    (tmp_path / "file").write_text("")
    assert "cannot be written" in mistake("eval", "--from-items", folder / "out", "--output", tmp_path / "file")
    copy = shutil.copytree(folder / "out", tmp_path / "copy")
    lines = (copy / "items.jsonl").read_text().split("\n")
    (copy / "items.jsonl").write_text("\n".join(lines[1:]))
    assert "is not the file that" in mistake("eval", "--from-items", copy)


def test_version():
    assert run("--version", check=0).stdout.strip() == metadata.version("prmbench")


def test_mistakes_are_one_sentence(tiny, tmp_path):
    broken = support.write_traces(tmp_path / "broken.jsonl", 5)
    lines = broken.read_text().split("\n")
    lines[2] = lines[2][:-7]
    broken.write_text("\n".join(lines))
    good = support.write_traces(tmp_path / "ok.jsonl", 4)
    typo = run("eval", "--rm", tiny.with_name("tinny"), "--data", tmp_path / "not looked at yet", check=2)
    assert "no such folder (did you mean 'tiny'?)" in one_sentence(typo.stdout, typo.stderr)
    assert "broken.jsonl, line 3, column" in mistake("eval", "--rm", tiny, "--kind", "endo", "--data", broken)
    plain = support.save_checkpoint(tmp_path / "plain", template=None)
    assert "has no chat template; pass --chat-template" in mistake(
        "eval", "--rm", plain, "--kind", "endo", "--data", good
    )
    assert "`prmbench demo`" in mistake("eval")
    assert "--benchmark procesbench: not known" in mistake("eval", "--rm", tiny, "--benchmark", "procesbench")
    assert "--template-arg x: expected NAME=VALUE" in mistake("eval", "--rm", tiny, "--template-arg", "x")
    twice = support.write_traces(tmp_path / "twice.jsonl", 1)
    twice.write_text(twice.read_text().replace('"t0"', '"\\u001b[31m"') * 2)
    assert "id '?[31m' was already used" in mistake("eval", "--rm", tiny, "--kind", "endo", "--data", twice)


def test_broken_json_names_the_line_even_from_python_s_middle(tmp_path, tiny):
    (tmp_path / "x.jsonl").write_text('{"id": "a",\n')
    assert "x.jsonl, line 1" in mistake("eval", "--rm", tiny, "--kind", "endo", "--data", tmp_path / "x.jsonl")


@pytest.fixture(scope="module")
def slow_case(tmp_path_factory):
    """Enough work, in small batches, that a signal comes in the middle of it."""
    folder = tmp_path_factory.mktemp("slow")
    checkpoint = support.save_checkpoint(folder / "m")
    data = support.write_traces(folder / "made.jsonl", 300)
    return folder, [
        "eval",
        "--rm",
        checkpoint,
        "--kind",
        "endo",
        "--data",
        data,
        "--batch-tokens",
        150,
        "--resamples",
        50,
    ]


@pytest.fixture(scope="module")
def whole(slow_case):
    """Folder of the run that nothing interrupts."""
    folder, command = slow_case
    run(*command, "--output", folder / "whole", check=0)
    return folder / "whole"


def _interruptible():
    """A shell's background job ignores Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def interrupt(command, output, after, sent):
    """Send a signal once `after` items are on disk; return the process's exit code and stderr."""
    process = subprocess.Popen(
        [sys.executable, "-m", "prmbench", *map(str, command), "--output", str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_interruptible,
    )
    items = output / "items.jsonl"
    while process.poll() is None and (not items.exists() or items.read_bytes().count(b"\n") < after):
        time.sleep(0.005)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@pytest.mark.slow
def test_killed_and_run_again(slow_case, whole, tmp_path):
    _, command = slow_case
    code, _ = interrupt(command, tmp_path / "cut", 120, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert not (tmp_path / "cut" / "entry.json").exists()
    done = run(*command, "--output", tmp_path / "cut", check=0)
    assert "were done before" in done.stderr
    assert (tmp_path / "cut" / "items.jsonl").read_bytes() == (whole / "items.jsonl").read_bytes()
    expected, found = (json.loads((folder / "entry.json").read_text()) for folder in (whole, tmp_path / "cut"))
    assert found["provenance"].pop("run")["resumed_items"] >= 120
    expected["provenance"].pop("run")
    assert found == expected


@pytest.mark.slow
def test_ctrl_c_says_what_is_kept(slow_case, tmp_path):
    _, command = slow_case
    code, errors = interrupt(command, tmp_path / "cut", 5, signal.SIGINT)
    assert code == 130
    assert "Traceback" not in errors
    assert "the same command goes on from there" in errors.strip().split("\n")[-1]


@pytest.mark.slow
def test_two_processes_give_what_one_gives(slow_case, whole, tmp_path):
    _, command = slow_case
    done = support.launch("-m", "prmbench", *command, "--device", "cpu", "--output", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("entry: ") == 1
    one, two = (PROCESSBENCH.read_items(folder / "items.jsonl") for folder in (whole, tmp_path / "two"))
    assert [i.id for i in one] == [i.id for i in two]
    assert max(abs(a.sums - b.sums).max() for a, b in zip(one, two, strict=True)) < 1e-3
    assert json.loads((tmp_path / "two" / "entry.json").read_text())["provenance"]["run"]["processes"] == 2


@pytest.mark.slow
def test_presets_of_reward_models(tmp_path, tiny):
    listed = run("presets", check=0).stdout
    row, against = [line for line in listed.splitlines() if line.startswith("math-shepherd ")]
    assert row.split() == ["math-shepherd", "token_pair", "verified", "peiyi9979/math-shepherd-mistral-7b-prm"]
    assert against.split()[1:3] == ["openreasoner/openr,", "prm/infer_fns.py"]
    whole = run("presets", "math-shepherd", check=0).stdout
    assert re.search(r"marks\.mark +ки\n", whole)
    assert "the logits at the mark itself" in " ".join(whole.split())
    assert "verified against openreasoner/openr, prm/infer_fns.py" in " ".join(whole.split())
    assert "unverified: its prompt is our own" in " ".join(run("presets", "genprm-style", check=0).stdout.split())
    assert "did you mean 'math-shepherd'" in mistake("presets", "math-sheperd")
    details = json.loads(run("presets", "--json", check=0).stdout)
    assert details["math-shepherd"]["card"]["marks"]["mark"] == "ки"
    assert details["math-shepherd"]["verified"]["commit"].startswith("54ae004c69")
    data = support.write_traces(tmp_path / "made.jsonl", 4)
    assert "did you mean 'genprm-style'" in mistake("eval", "--rm", tiny, "--preset", "genprm-styl", "--data", data)
    said = mistake("eval", "--rm", tiny, "--kind", "endo", "--temperature", 1, "--data", data)
    assert "'generation' means nothing for the kind endo" in said
    done = run(
        *("eval", "--rm", tiny, "--preset", "processbench-critic-maj8", "--n", 2, "--max-new-tokens", 3),
        *("--data", data, "--output", tmp_path / "out", "--resamples", 10),
        check=0,
    )
    assert "of 8 votes hold a verdict" in done.stdout
    generation = json.loads((tmp_path / "out" / "entry.json").read_text())["subject"]["scoring"]["generation"]
    assert (generation["n"], generation["temperature"], generation["max_new_tokens"]) == (2, 1.0, 3)


@pytest.mark.parametrize(
    ("command", "theirs", "here"),
    [
        ("eval", "--model", "--rm"),
        ("eval", "--tp", "--tensor-parallel"),
        ("score", "--checkpoint", "--rm"),
        ("rollout", "--model", "--policy"),
        ("probe td", "--batch-size", "--batch-tokens"),
        ("eval", "--polcy", "--policy"),
    ],
)
def test_an_option_that_other_tools_have(command, theirs, here):
    done = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(cli.app, [*command.split(), theirs, "x"])
    assert done.exit_code == 2
    assert re.search(rf"No such option: {theirs}.*{here}\b", done.output), done.output


@pytest.mark.parametrize("command", ["eval", "score", "eval --policy"])
def test_several_devices_need_vllm(command, tiny, tmp_path):
    """Whatever the kind: the number of devices is not passed over."""
    data = support.write_traces(tmp_path / "made.jsonl", 2)
    if "policy" in command:
        data.write_text('{"id": "a", "problem": "1 + 1?", "answer": "2"}\n')
    more = [data] if command == "score" else ["--subset", data] if "policy" in command else ["--data", data]
    subject = [tiny] if "policy" in command else ["--rm", tiny, "--kind", "endo"]
    for way in ("--tensor-parallel", "--data-parallel"):
        said = mistake(*command.split(), *subject, *more, way, 2)
        assert f"{way} 2: only --engine vllm shares its work like this; leave it out" in said


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_options_and_values(shell):
    def complete(line):
        words = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" ")), "_TYPER_COMPLETE_ARGS": line}
        env = {
            **os.environ,
            "_PRMBENCH_COMPLETE": f"complete_{shell}",
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
            **words,
        }
        code = "import sys; sys.argv = ['prmbench']; from prmbench.cli.app import main; main()"
        return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False).stdout

    assert "leaderboard" in complete("prmbench lea")
    assert "math-shepherd" in complete("prmbench eval --preset math")


def test_rollouts_of_a_problem_set_by_name(tiny, tmp_path, monkeypatch):
    """As in evaluation; a name that is neither a set nor a file is a file that is missing."""
    lines = [{"id": f"amc-{i}", "problem": f"{i} + 1?", "answer": str(i + 1)} for i in range(3)]
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "amc.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setenv("PRMBENCH_DATA_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shared = ["--limit", "2", "--n", "1", "--max-new-tokens", "4", "--output", str(tmp_path / "out")]
    done = CliRunner().invoke(cli.app, ["rollout", "--policy", str(tiny), "--problems", "amc", *shared])
    assert done.exit_code == 0, done.output
    found = [json.loads(line) for line in (tmp_path / "out" / "rollouts.jsonl").read_text().splitlines()]
    assert [one["id"] for one in found] == ["amc-0", "amc-1"]
    assert "amd: no such file" in mistake("rollout", "--policy", tiny, "--problems", "amd", *shared)


@pytest.mark.parametrize("command", ["eval", "score", "rollout"])
def test_loading_is_said_before_anything_heavy_is_imported(command, tiny, tmp_path):
    """The library that loads a model is kept from being imported: what is loaded was said before that."""
    data = support.write_traces(tmp_path / "made.jsonl", 2)
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"id": "a", "problem": "1 + 1?", "answer": "2"}\n')
    arguments = {
        "eval": ["--rm", tiny, "--kind", "endo", "--data", data],
        "score": ["--rm", tiny, "--kind", "endo", data],
        "rollout": ["--policy", tiny, "--problems", problems, "--output", tmp_path / "out"],
    }[command]
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        f"sys.argv = {['prmbench', command, *map(str, arguments)]!r}\n"
        "from prmbench.cli.app import main\ntry: main()\nexcept ImportError: print('stopped', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[:2] == [f"loading {tiny} ...", "stopped"], done.stderr


def test_a_checkpoint_is_looked_for_before_its_data(tmp_path, monkeypatch):
    """Without data at hand the Hub would be asked for them, again and again."""
    monkeypatch.delenv("PRMBENCH_DATA_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    for option in ("--rm", "--policy"):
        assert f"{option} nowhere/none: no such folder" in mistake("eval", option, "nowhere/none")
    assert "--reference nowhere/none: no such folder" in mistake("eval", "--rm", ".", "--reference", "nowhere/none")


def test_strict_training_refuses_rows_of_no_use(tiny, tmp_path):
    user, right, blank = (
        {"role": r, "content": c} for r, c in (("user", "1?"), ("assistant", "1"), ("assistant", " "))
    )
    rows = [{"messages": [user, blank if i == 7 else right], "correct": bool(i % 2)} for i in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for kind, more in (("sft", ""), ("rm", "objective: dpo\n")):
        recipe = tmp_path / f"{kind}.yaml"
        recipe.write_text(f"model: {tiny}\ndata: {tmp_path / 'rows.jsonl'}\noutput: {tmp_path / kind}\n{more}")
        assert "line 8: the answer is blank" in mistake("train", kind, recipe, "--strict")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--date", "2024-02-31"], "--date 2024-02-31: day is out of range"),
        (["--date", "2024-02-03"], "--date 2024-02-03: this chat template asks for no date"),
        (["--system", "\udcff"], "--system ?: is no text in UTF-8"),
        (["--template-arg", 'x="\\ud800"'], "half of a surrogate pair"),
        (["--device", "meta"], "--device meta: cannot be used here"),
        (["--name", "a\nb"], "--name a?b: holds characters that cannot be printed"),
    ],
)
def test_options_that_cannot_be(tiny, tmp_path, options, message):
    support.write_traces(tmp_path / "t.jsonl", 2)
    output = tmp_path / "out"
    given = ["--rm", tiny, "--kind", "endo", "--data", tmp_path / "t.jsonl", "--output", output]
    assert message in mistake("eval", *given, *options)
    assert not output.exists()
