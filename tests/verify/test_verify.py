"""Verdicts, and the pool under hostile answers, memory bombs, killed workers and other numbers of workers."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest

from prmbench.data.verdicts import Verdict
from prmbench.errors import ArgumentError
from prmbench.verify import AnswerStyle, Verifier, verifier_version, verify

HANG = r"9^{9^{9^{9^9}}}"

CORRECT = [
    ("6-5i", "-5i+6"),
    ("6 - 5i", "6-5i"),
    (r"\{1,2\}", r"\{2,1\}"),
    (r"\{1,2\}", "2, 1"),
    ("(1,2]", r"\left(1, 2\right]"),
    ("(1,2]", r"x \in (1, \frac{4}{2}]"),
    ("[-2,7]", r"-2 \le x \le 7"),
    (r"(-\infty, 2) \cup (3, \infty)", r"(3,\infty)\cup(-\infty,2)"),
    ("(2,4)", "(2, 4.0)"),
    (r"\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}", r"\begin{bmatrix} -\frac13 \\ \frac23 \end{bmatrix}"),
    ("x=5", "5"),
    ("5", "x=5"),
    ("y = 2x + 3", "2x+3"),
    ("$f(n)=n^{2}$", "n^2"),
    (r"1 \pm \sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}"),
    ("(a+5)(b+2)", "ab+2a+5b+10"),
    (r"137 \frac{1}{2}", "137.5"),
    (r"19 \text{ and }43", "43, 19"),
    (r"\sqrt{2}", "1.414214"),
    (r"360^\circ", r"2\pi\text{ rad}"),
    (r"\frac{\pi}{4}\text{ rad}", r"45^\circ"),
    ("x>3", r"x \gt 3"),
    ("np.arcsin(10/13)", r"\arcsin\frac{10}{13}"),
    (r"\frac{1}{3} E_{1}+\frac{2}{3} E_{2}", r"\frac{E_1+2E_2}{3}"),
    ("3:1", r"\frac{3}{1}"),
    ("2.26e-10", r"2.26 \times 10^{-10} \text{ m}"),
    ("27,54,108,135", "54, 27, 108, 135"),
    ("(1,8,19), (2,7,13)", "(2,7,13),(1,8,19)"),
]
WRONG = [
    ("6-5i", "6+5i"),
    ("(1,2]", "(1,2)"),
    ("(1,2]", "[1,2]"),
    ("(1,2]", "(1,3]"),
    ("(1,-2)", "(3,-5)"),
    ("[-2,7]", r"-2 < x \le 7"),
    (r"\{1,2\}", r"\{1,3\}"),
    (r"\{1,2\}", r"\{1,2,3\}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 & 2 \end{pmatrix}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "(1,2)"),
    ("x=5", "y=5"),
    (r"\sqrt{2}", "1.41421"),
    (r"\frac{1}{2004!}", r"\frac{1}{2003!}"),
    (r"\frac{\pi}{2}", r"90^\circ"),
    (r"30^\circ", r"30\text{ rad}"),
    ("30 degrees", "30 radians"),
    ("x<3", r"x \gt 3"),
    ("p - q", "q - p"),
    (r"\frac{1}{m} t", r"\frac{1}{m}"),
    ("3:1", "3:2"),
    (r"\text{yes}", "5"),
    ("5", r"\text{yes}"),
    ("5", r"5 \text{ or } 6"),
    ("5", "@#$%^&*"),
    ("5", r"\frac{5}"),
    ("5", "5} + {6"),
    ("12", "12 million"),
    ("204_5", r"2 \cdot 25 + 4"),
]
"""(gold, answer) pairs that only math-verify can tell."""


def boxed(answer: str) -> str:
    return rf"Therefore the answer is $\boxed{{{answer}}}$."


@pytest.fixture(scope="module")
def verifier() -> Verifier:
    with Verifier(timeout=10, workers=2) as made:
        yield made  # type: ignore[misc]


@pytest.mark.parametrize(("gold", "answer"), CORRECT)
def test_correct(verifier: Verifier, gold: str, answer: str) -> None:
    assert verifier.verify([boxed(answer)], [gold]) == [Verdict.CORRECT]


@pytest.mark.parametrize(("gold", "answer"), WRONG)
def test_wrong(verifier: Verifier, gold: str, answer: str) -> None:
    assert verifier.verify([f"Answer: {answer}"], [gold], style="answer_line") == [Verdict.WRONG]


def test_a_verdict_each_in_order_and_in_every_style() -> None:
    completions = [r"\boxed{1+x}", r"\boxed{x}", "x+1", "", r"\boxed{}"]
    assert verify(completions, ["x+1"] * 5) == ["correct", "wrong", "unparsed", "unparsed", "unparsed"]
    styles: list[tuple[AnswerStyle, str]] = [
        ("number", "it is 1,000"),
        ("answer_line", "Answer: 1000.0"),
        ("auto", r"\boxed{1000}"),
    ]
    for style, text in styles:
        assert verify([text], ["1000"], style=style) == [Verdict.CORRECT]


def test_wrong_arguments_are_told() -> None:
    with pytest.raises(ArgumentError, match="golds=.*2 completions but 1 gold"):
        verify(["a", "b"], ["1"])
    with pytest.raises(ArgumentError, match="style=box.*unknown answer style"):
        verify(["a"], ["1"], style="box")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="gold answer 1 is blank"):
        verify(["a", "b"], ["1", " "])
    for name in ("timeout", "workers", "memory_mb"):
        with pytest.raises(ArgumentError, match=f"{name}=0.*must be positive"):
            Verifier(**{name: 0})


def test_nothing_to_verify_and_easy_answers_start_no_process() -> None:
    with Verifier() as made:
        assert made.verify([], []) == []
        assert made.verify([r"\boxed{0.5}"], [r"\frac12"]) == [Verdict.CORRECT]
        assert made.worker_pids() == []
        made.verify([r"\boxed{1+x}"], ["x+1"])
        assert len(made.worker_pids()) == 1


def test_progress_adds_up(verifier: Verifier) -> None:
    told: list[int] = []
    golds = ["5", "5", "x+1", "x+1", "x+2"]
    verifier.verify([r"\boxed{5}", "none", *[r"\boxed{1+x}"] * 3], golds, on_done=told.append)
    assert sum(told) == len(golds)


def test_version_names_what_verdicts_depend_on() -> None:
    assert [part.split()[0] for part in verifier_version().split("; ")] == [
        "prmbench",
        "math-verify",
        "latex2sympy2_extended",
    ]


def test_the_callers_process_imports_neither_torch_nor_math_verify() -> None:
    code = (
        "import sys; from prmbench.verify import verify\n"
        r"assert verify([r'\boxed{1+x}'], ['x+1'], workers=1) == ['correct']"
        "\nprint([m for m in ('torch', 'math_verify', 'sympy', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_a_hang_costs_its_time_limit_and_nothing_else() -> None:
    with Verifier(timeout=1.0, workers=2) as made:
        made.verify([boxed("1+x")] * 2, ["x+1", "1+x+0"])
        start = time.monotonic()
        verdicts = made.verify([boxed(a) for a in ("1+y", HANG, "2+y", "3+y")], ["y+1", "2", "y+2", "y+3"])
        assert verdicts == ["correct", "timeout", "correct", "correct"]
        assert 0.9 < time.monotonic() - start < 6
        start = time.monotonic()
        assert made.verify([boxed("4+y")], ["y+4"]) == [Verdict.CORRECT]
        assert time.monotonic() - start < 5


HOSTILE = {
    "factorial tower": "((((9!)!)!)!)!",
    "factorial": "100000000!",
    "parentheses": "(" * 900 + "1" + ")" * 900,
    "nested fractions": r"\frac{1}{" * 200 + "2" + "}" * 200,
    "nested roots": r"\sqrt{" * 250 + "2" + "}" * 250,
    "null bytes": "1\x00+x\x00",
    "surrogate": "\ud800x+\udfff",
    "huge exponent": "10^{10^{10}}",
    "huge negative exponent": "10^{-10^{10}}",
    "binomial": r"\binom{10^9}{5\cdot10^8}",
    "sum": r"\sum_{n=1}^{10^{9}} \frac{1}{n}",
    "integral": r"\int_0^1 x^{x^{x^x}} dx",
    "determinant": r"\det\begin{pmatrix}"
    + r"\\".join("&".join(f"x_{{{i}{j}}}" for j in range(7)) for i in range(7))
    + r"\end{pmatrix}",
    "matrix": r"\begin{pmatrix}" + r"\\".join(["&".join(["1"] * 30)] * 30) + r"\end{pmatrix}",
    "matrix over the length limit": r"\begin{pmatrix}" + r"\\".join(["&".join(["1"] * 300)] * 300) + r"\end{pmatrix}",
    "garbage": "@#%^&*|~" * 1250,
    "short garbage": "@#%^&*|~" * 100,
    "unbalanced": "}{" * 400,
    "backslashes": "\\" * 1500,
    "carets": "^" * 1000,
    "letters": "abcdefgh" * 200,
    "functions": r"\sin(\cos(\tan(" * 30 + "x" + ")))" * 30,
    "set": ",".join(map(str, range(1, 500))),
    "digits": "7" * 1900,
    "emoji": "\U0001f600" * 500,
    "zero division": r"\frac{1}{0}",
    "percent signs": "%" * 500,
    "absolute values": "|" * 300,
}


def test_hostile_answers_all_get_a_verdict_in_bounded_time() -> None:
    """None crashes anything, none is taken for right, and a batch takes at most its items' limits over the workers."""
    limit = 0.5
    done: list[int] = []
    completions = [f"Answer: {answer}" for answer in HOSTILE.values()]
    with Verifier(timeout=limit, workers=2) as made:
        made.verify([boxed("1+x")], ["x+1"])
        start = time.monotonic()
        verdicts = made.verify(completions, ["x^2+1"] * len(HOSTILE), style="answer_line", on_done=done.append)
        took = time.monotonic() - start
        assert made.verify([boxed("1+y")], ["y+1"]) == [Verdict.CORRECT]
    assert sum(done) == len(HOSTILE)
    found = dict(zip(HOSTILE, verdicts, strict=True))
    assert set(verdicts) == {"wrong", "timeout"}, found
    assert found["factorial tower"] == found["huge exponent"] == "timeout"
    assert found["null bytes"] == found["garbage"] == found["matrix over the length limit"] == "wrong"
    assert took < limit * len(HOSTILE) + 10


TOKENS = (  # noqa: SIM905
    r"\frac \sqrt { } ^ _ ( ) [ ] 1 9 x y + - = , \sin \log \sum \int \infty ! | \cup \{ \} % & \\ \begin{pmatrix} "
    r"\end{pmatrix} < \le \pi e i . 10 \text{a} \left \right \binom / \pm 99 ^{99} ^{9^9} \boxed{ 9^{9^{9}} \lim_"
).split(" ")


@pytest.mark.slow
def test_two_thousand_hostile_answers() -> None:
    draw = random.Random(0)
    soup = [r"\boxed{" + " ".join(draw.choices(TOKENS, k=draw.randint(1, 60))) for _ in range(2000)]
    limit = 0.3
    start = time.monotonic()
    verdicts = verify(
        [text + "}" for text in soup], draw.choices(["2", "x+1", "(1,2]", r"\text{no}"], k=2000), timeout=limit
    )
    took = time.monotonic() - start
    counts = Counter(verdicts)
    assert counts["wrong"] + counts["unparsed"] + counts["timeout"] >= 1990, counts
    assert counts["wrong"] > 500
    assert took < 60 + limit * counts["timeout"]


@pytest.mark.skipif(sys.platform != "linux", reason="the memory limit is Linux's")
def test_a_memory_bomb_ends_at_its_memory_limit() -> None:
    """A real one: expanding the power takes gigabytes. It ends long before its time limit, and its process stays small."""
    with Verifier(timeout=60, workers=1, memory_mb=64) as made:
        made.verify([boxed("1+x")], ["x+1"])
        peaks: list[int] = []
        with watching(made, peaks):
            start = time.monotonic()
            verdicts = made.verify([boxed("(x+y+z+w+1)^{200}"), boxed("1+y")], ["x^2+1", "y+1"])
            took = time.monotonic() - start
    assert verdicts == ["timeout", "correct"]
    assert took < 30
    assert 40 < max(peaks) < 64 + 250  # the process has about 100 MB to begin with


class watching:
    """Sample the resident size, in MB, of a verifier's workers from another thread."""

    def __init__(self, verifier: Verifier, into: list[int]) -> None:
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.watch, args=(verifier, into))

    def watch(self, verifier: Verifier, into: list[int]) -> None:
        while not self.stop.wait(0.02):
            for pid in verifier.worker_pids():
                try:
                    with open(f"/proc/{pid}/statm") as file:
                        into.append(int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20)
                except OSError:
                    pass

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()


def in_background(call: Callable[[], list[Verdict]]) -> tuple[threading.Thread, list[Verdict]]:
    result: list[Verdict] = []
    thread = threading.Thread(target=lambda: result.extend(call()))
    thread.start()
    return thread, result


def test_an_item_survives_the_death_of_its_worker() -> None:
    """The worker is stopped, so that it holds the item for certain, and then killed."""
    with Verifier(timeout=20, workers=1) as made:
        made.verify([boxed("1+x")], ["x+1"])
        (pid,) = made.worker_pids()
        os.kill(pid, signal.SIGSTOP)
        thread, result = in_background(lambda: made.verify([boxed("1+y"), boxed("2+y")], ["y+1", "y+2"]))
        time.sleep(0.5)
        assert result == []
        os.kill(pid, signal.SIGKILL)
        thread.join(20)
        assert result == ["correct", "correct"]
        assert made.worker_pids() != [pid]


def test_an_item_whose_worker_dies_twice_times_out_and_the_others_do_not() -> None:
    with Verifier(timeout=60, workers=1) as made:
        made.verify([boxed("1+x")], ["x+1"])
        start = time.monotonic()
        thread, result = in_background(lambda: made.verify([boxed(HANG), boxed("1+y")], ["2", "y+1"]))
        killed: list[int] = []
        while len(killed) < 2 and time.monotonic() - start < 30:
            time.sleep(0.5)
            new = [pid for pid in made.worker_pids() if pid not in killed]
            for pid in new:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
        thread.join(30)
        assert result == ["timeout", "correct"]
        assert len(killed) == 2
        assert time.monotonic() - start < 30


def parent_of(pid: int) -> int:
    return int(subprocess.run(["ps", "-o", "ppid=", "-p", str(pid)], capture_output=True, text=True, check=True).stdout)


def test_the_nursery_can_be_killed_too() -> None:
    with Verifier(timeout=20, workers=1) as made:
        made.verify([boxed("1+x")], ["x+1"])
        (pid,) = made.worker_pids()
        os.kill(parent_of(pid), signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)
        assert made.verify([boxed("1+y")], ["y+1"]) == [Verdict.CORRECT]


def gone(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return state in ("", "Z")


@pytest.mark.parametrize("how", ["close", "kill"])
def test_no_process_is_left_behind(how: str) -> None:
    """Neither after close nor when the caller is killed in the middle of an item that hangs."""
    code = (
        "import sys; from prmbench.verify import Verifier\n"
        "made = Verifier(timeout=100, workers=1)\n"
        r"made.verify([r'\boxed{1+x}'], ['x+1'])"
        "\nprint(made.worker_pids()[0], flush=True)\n"
        + ("made.close(); sys.stdin.read()" if how == "close" else rf"made.verify([r'\boxed{{{HANG}}}'], ['2'])")
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        pid = int(child.stdout.readline())
        if how == "kill":
            assert not gone(pid)
            child.kill()
        deadline = time.monotonic() + 10
        while not gone(pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert gone(pid)
        child.kill()


@pytest.mark.slow
def test_verdicts_do_not_depend_on_workers_or_order() -> None:
    pairs = [(gold, boxed(answer)) for gold, answer in CORRECT + WRONG]
    pairs += [("2", boxed(HANG)), ("3", "none"), ("4", boxed("4.0"))]
    one = dict(zip(pairs, verify([p[1] for p in pairs], [p[0] for p in pairs], workers=1, timeout=4), strict=True))
    shuffled = random.Random(1).sample(pairs, len(pairs))
    three = dict(
        zip(shuffled, verify([p[1] for p in shuffled], [p[0] for p in shuffled], workers=3, timeout=4), strict=True)
    )
    assert one == three
    assert set(one.values()) == set(Verdict)


def test_an_error_in_the_callers_function_leaves_a_usable_verifier() -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with Verifier(workers=1) as made:
        with pytest.raises(KeyboardInterrupt):
            made.verify([boxed("1+x"), boxed("2+x")], ["x+1", "x+2"], on_done=stop)
        assert made.worker_pids() == []
        assert made.verify([boxed("2+x")], ["x+2"]) == [Verdict.CORRECT]
