"""Every snippet of every page runs: commands and Python, on tiny models under the names that the page uses.

``PRMBENCH_WRITE_DOCS=1`` writes what the commands print now into the pages, instead of comparing.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import doctest
import functools
import inspect
import io
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pages
import pytest
import typer.main
import world
from pages import Block, blocks
from typer.testing import CliRunner

import prmbench
from prmbench.benchmarks.registry import BENCHMARKS
from prmbench.cli.app import app

FEWER = {"--branches": "10"}
"""Options of which a test takes fewer than the page asks for."""

SHORTER = {"--max-new-tokens": "12", "--resamples": "100", "--limit": "1"}
"""Options that are added where a command has them and the page does not name them, unless the page shows what is printed."""

ELSEWHERE = ("accelerate", "apt-get", "docker", "export", "git", "lm-eval", "make", "pip", "python", "source", "uv")
"""Programs that are not ours: a block with one of them says why it is not run."""

NOT_RUN = {
    r"prmbench (demo|replicate)\b(?!.*--dry-run)": "takes minutes; tests/miniature and tests/studies run its parts",
    r"prmbench train \w+ (?!.*--dry-run)": "trains; tests/training does so. Its recipe is read and checked",
    r"prmbench \w+ .*out/(qwen|llama|smollm)": "needs what such a run leaves",
    r"prmbench data eurus (sft|rl)\b": "reads the Hub",
    r"python scripts/": "takes minutes to hours; its parts are tested",
}
"""Commands that are run on no page, and why."""

PORT = "8100"
"""The port that pages name; a test takes a free one."""

PORTS = {PORT: PORT}
BACKGROUND = contextlib.ExitStack()
"""Ends what a page's commands have left running."""

NAMES = {
    "completions": ["The answer is 4.", "Answer: 5"],
    "golds": ["4", "4"],
    "advance": lambda n=1: None,
}
"""What the Python of pages finds defined."""


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    return world.build(tmp_path_factory.mktemp("docs") / "world")


@pytest.fixture
def here(built, tmp_path, monkeypatch):
    """A folder of the page's own, with everything that pages name."""
    folder = shutil.copytree(built, tmp_path / "page", symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PRMBENCH_DATA_DIR", "data")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setenv("PRMBENCH_CACHE_GIB", "1")
    monkeypatch.setenv("COLUMNS", "120")  # of what is printed, as where there is no terminal
    return folder


SLOW = {"docs/report.md", "docs/serve.md", "docs/tutorial.md"}
"""Pages whose commands take more than about five seconds."""


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.slow] * (page in SLOW)) for page in pages.PAGES if blocks(page)],
)
def test_page(page, here, monkeypatch):
    namespace: dict[str, object] = {"__name__": "__main__", **NAMES}
    written = []
    write_recipes(page)
    monkeypatch.setitem(PORTS, PORT, free_port())
    with contextlib.ExitStack() as background:
        monkeypatch.setattr(sys.modules[__name__], "BACKGROUND", background)
        run_blocks(page, namespace, written)
    if os.environ.get("PRMBENCH_WRITE_DOCS"):
        rewrite(page, written)


def run_blocks(page: str, namespace: dict[str, object], written: list[tuple[Block, str]]) -> None:
    """Run a page's blocks in their order; what console blocks print now is appended to `written`."""
    for block in blocks(page):
        where = f"{page}:{block.line}"
        if block.file is not None:
            Path(block.file).write_text(block.text, encoding="utf-8")
        elif block.language in pages.SHELL:
            printed = [(command, run(command, block, where), said) for command, said in block.commands()]
            if block.language == "console" and block.not_run is None:
                written.append((block, "".join(f"$ {command}\n{now}" for command, now, _ in printed)))
                if not os.environ.get("PRMBENCH_WRITE_DOCS"):
                    for command, now, said in printed:
                        assert as_shown(now, said), f"{where}: {command} prints\n{now}"
        elif block.language == "python":
            run_python(block, namespace, where)


@pytest.mark.parametrize("page", [page for page in pages.PAGES if pages.inline_commands(page)])
def test_commands_named_in_text_exist(page):
    for command in pages.inline_commands(page):
        found, arguments = find_command(pages.words(command)[1:], page)
        known = {flag for parameter in found.params for flag in (*parameter.opts, *parameter.secondary_opts)}
        unknown = [word for word in arguments if word.startswith("--") and word not in known | {"--help"}]
        assert not unknown, f"{page}: `{command}`: no such option: {unknown}"


def test_every_row_of_the_table_of_models_runs(here):
    rows = re.findall(
        r"^\| [^|]+ \| `(prmbench [^`]+)` \|$", (pages.ROOT / "README.md").read_text(), flags=re.MULTILINE
    )
    assert len(rows) >= 8
    for command in rows:
        run(command, Block("README.md", 0, "", command, None, None, (0, 0)), "README.md, table of models")


def functions():
    return [name for name in prmbench.__all__ if inspect.isfunction(getattr(prmbench, name))]


@pytest.mark.parametrize("name", functions())
def test_every_public_function_has_an_example_that_runs(name, here, monkeypatch):
    monkeypatch.setattr(
        BENCHMARKS, "_found", dict(BENCHMARKS._found)
    )  # what an example registers is forgotten afterwards
    text = inspect.getdoc(getattr(prmbench, name)) or ""
    _, heading, example = text.partition("\nExamples:\n")
    assert heading, f"prmbench.{name} has no example"
    block = Block(f"prmbench.{name}", 0, "python", textwrap.dedent(example) + "\n", None, None, (0, 0))
    run_python(block, {"prmbench": prmbench}, f"prmbench.{name}")


@pytest.mark.parametrize("page", [str(path.relative_to(pages.ROOT)) for path in pages.ROOT.glob("docs/**/*.ipynb")])
def test_every_notebook_runs_and_shows_what_it_holds(page, here):
    """Cell by cell, in one namespace. What a cell prints, and its last expression, are the outputs that the file holds."""
    book = json.loads((pages.ROOT / page).read_text(encoding="utf-8"))
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(book["cells"]):
        if cell["cell_type"] != "code":
            continue
        outputs = run_cell("".join(cell["source"]), namespace, f"{page}, cell {number}")
        if not os.environ.get("PRMBENCH_WRITE_DOCS"):
            assert outputs == cell["outputs"], f"{page}, cell {number}"
        cell["outputs"] = outputs
    if os.environ.get("PRMBENCH_WRITE_DOCS"):
        text = json.dumps(book, indent=1, ensure_ascii=False)
        (pages.ROOT / page).write_text(f"{text}\n", encoding="utf-8")


def run_cell(source: str, namespace: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """Run a cell of a notebook. Returns its outputs as a notebook holds them: what was printed, and the last expression's repr."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, where, "exec"), namespace)
        value = None if last is None else eval(compile(ast.Expression(last.value), where, "eval"), namespace)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        text = printed.getvalue().splitlines(keepends=True)
        outputs.append({"name": "stdout", "output_type": "stream", "text": text})
    if value is not None:
        shown = {"text/plain": repr(value).splitlines(keepends=True)}
        outputs.append({"data": shown, "execution_count": None, "metadata": {}, "output_type": "execute_result"})
    return outputs


def run(command: str, block: Block, where: str) -> str:
    """Run a command, or only read its options where the block says why it is not run. Returns what it prints."""
    if command.startswith("curl "):
        done = subprocess.run(
            command.replace(PORT, PORTS[PORT]), shell=True, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{where}: {command}\n{done.stderr}"
        return done.stdout.replace(PORTS[PORT], PORT)
    if command.endswith(" &"):
        return start(pages.words(command.removesuffix(" &")), where)
    before, _, into = command.partition(" > ")
    words = pages.words(os.path.expandvars(before))
    while words and re.fullmatch(r"\w+=\S*", words[0]):
        words.pop(0)
    if not words:
        return ""
    program = words[0]
    not_run = block.not_run or next((why for what, why in NOT_RUN.items() if re.match(what, command)), None)
    if program in ELSEWHERE:
        assert not_run, f"{where}: `{program}` is not run here: say why in a comment, <!-- not run: REASON -->"
        if "prmbench" in words:  # accelerate launch -m prmbench ...
            read_options(words[words.index("prmbench") + 1 :], where)
        return ""
    assert program == "prmbench", f"{where}: not a command that this test knows: {command}; a block of text is ```text"
    if not_run:
        read_options(words[1:], where)
        if words[1] == "train":
            check_recipe(words[2:])
        return ""
    arguments = [FEWER.get(previous, word) for previous, word in itertools.pairwise(words)]
    if arguments[:2] == ["train", "rm"]:
        arguments += ["--set", "held_out=1"]  # there are few pairs
    if block.language != "console":
        arguments += [word for option in SHORTER.items() if takes(arguments, option[0]) for word in option]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, f"{where}: {command}\n{done.output}\n{done.exception!r}"
    if arguments[0] == "rollout":
        world.lend_verdicts(Path(arguments[arguments.index("--output") + 1]) / "rollouts.jsonl")
    if into:
        Path(into.split("#")[0].strip()).write_text(done.stdout, encoding="utf-8")
        return ""
    return "\n".join(line.rstrip() for line in done.stdout.split("\n"))


def start(words: list[str], where: str) -> str:
    """Start a server of ours in the background until the page ends. Returns the first line that it prints."""
    assert words[0] == "prmbench", f"{where}: not a command that this test starts: {words[0]}"
    command = [sys.executable, "-m", *words, "--port", PORTS[PORT]]
    environment = os.environ | {"PYTHONPATH": str(pages.ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    BACKGROUND.callback(lambda: (process.terminate(), process.communicate(timeout=60)))
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"{where}: {' '.join(words)} ended"
    return line.replace(PORTS[PORT], PORT)


def free_port() -> str:
    """A port of the loopback that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return str(one.getsockname()[1])


def write_recipes(page: str) -> None:
    """Write each YAML block of a page to the recipe that a command of the page names."""
    shell = "".join(block.text for block in blocks(page) if block.language in pages.SHELL)
    named = [name for name in dict.fromkeys(re.findall(r"(?<=\s)[\w-]+\.yaml\b", shell)) if not Path(name).exists()]
    found = [block.text for block in blocks(page) if block.language == "yaml" and block.file is None]
    assert len(named) <= len(found), f"{page}: its commands name {named}, and it has {len(found)} YAML blocks"
    for name, text in zip(named, found, strict=False):
        Path(name).write_text(text, encoding="utf-8")


def check_recipe(words: list[str]) -> None:
    """Read and check the recipe of a training run, with what is changed on the command line."""
    from prmbench.training.prm.recipe import PRMRecipe, is_explicit
    from prmbench.training.recipes.read import load_recipe, read_fields
    from prmbench.training.rl.recipe import RLRecipe
    from prmbench.training.rm.recipe import RMRecipe
    from prmbench.training.sft.recipe import SFTRecipe

    changed = [value for flag, value in itertools.pairwise(words) if flag == "--set"]
    explicit = is_explicit(read_fields(words[1], changed)[1].get("objective"))
    recipes = {"sft": SFTRecipe, "rm": PRMRecipe if explicit else RMRecipe, "rl": RLRecipe}
    load_recipe(words[1], recipes[words[0]], changed)


def takes(arguments: list[str], option: str) -> bool:
    """Whether a command has an option that is not given, and does something that needs it."""
    command, given = find_command(arguments, "")
    criticises = any("critic" in word for word in given)
    samples = arguments[0] in ("rollout", "probe") or "--policy" in given or criticises
    if option in given or (option == "--max-new-tokens" and not samples) or (option == "--limit" and not criticises):
        return False
    return any(option in parameter.opts for parameter in command.params)


@functools.cache
def whole_command_line() -> Any:
    """The command line, whose making takes a moment."""
    return typer.main.get_command(app)


def find_command(words: list[str], where: str) -> tuple[Any, list[str]]:
    """The command that the first words name, and the words after it."""
    command: Any = whole_command_line()
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"{where}: there is no command `prmbench {words[0]}`"
        command, words = command.commands[words[0]], words[1:]
    return command, words


def read_options(words: list[str], where: str) -> None:
    """Parse the arguments of a command without running it: the command and all its options must exist."""
    command, arguments = find_command(words, where)
    try:
        command.make_parser(command.context_class(command)).parse_args(list(arguments))
    except Exception as error:
        pytest.fail(f"{where}: {error}")


def as_shown(now: str, said: str) -> bool:
    """Whether a command prints what the page says; a line of three dots stands for any lines."""
    kept = [re.escape(part.strip("\n")) for part in re.split(r"^\.\.\.$", said.strip("\n"), flags=re.MULTILINE)]
    return re.fullmatch(r"(?s:.*)".join(kept), now.strip("\n")) is not None


def run_python(block: Block, namespace: dict[str, object], where: str) -> None:
    """Run Python, as a session where it has prompts (``>>>``), in the namespace of the page's earlier blocks."""
    block = dataclasses.replace(block, text=block.text.replace(f":{PORT}", f":{PORTS[PORT]}"))
    code = compile(block.text, where, "exec") if ">>>" not in block.text else None
    if block.not_run is not None:
        return
    if code is not None:
        exec(code, namespace)
        return
    session = doctest.DocTestParser().get_doctest(block.text, namespace, where, block.page, block.line)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert not runner.run(session, out=report.append, clear_globs=False).failed, "".join(report)
    namespace.update(session.globs)


def rewrite(page: str, written: list[tuple[Block, str]]) -> None:
    path = pages.ROOT / page
    text = path.read_text(encoding="utf-8")
    for block, now in reversed(written):
        if "\n...\n" not in block.text:
            text = text[: block.span[0]] + now.rstrip("\n") + "\n" + text[block.span[1] :]
    path.write_text(text, encoding="utf-8")
