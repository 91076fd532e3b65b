"""Rewriting an answer by a rule keeps its verdict, changing a digit or a sign flips it: on golds made here and on real ones."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prmbench.data.verdicts import Verdict
from prmbench.verify import Verifier

REAL = [f"policy/{name}.jsonl" for name in ("aime", "amc", "amc23", "math500", "minerva_math", "olympiadbench")]
REAL += [f"problems/{name}.jsonl.gz" for name in ("gsm8k_test", "math_test")]
N_REAL = 2000


def is_expression(gold: str) -> bool:
    """Whether a gold is one value without words, which may be wrapped as mathematics."""
    return not re.search(r"\\text|\\mbox|[=<>]|\\(?:le|ge|ne|in|pm)|,|;|\band\b|\$|%|:|_|[A-Z]{2}|[a-z]{2} ", gold)


def shuffled(gold: str) -> str:
    """A list of numbers, reversed."""
    return ", ".join(reversed(re.split(r",\s*", gold)))


def grouped(gold: str) -> str:
    r"""``1234567`` as ``1\,234\,567``."""
    return re.sub(r"(?<=\d)(?=(?:\d{3})+$)", r"\\,", gold)


ANY = r"(?s:.*)"
REWRITES: list[tuple[str, Callable[[str], str]]] = [
    # (golds that it is for, rule)
    (ANY, lambda g: f"  {g} "),
    (ANY, lambda g: f"{g}."),
    (ANY, lambda g: f"{{{g}}}"),
    (ANY, lambda g: rf"\;{g}\,"),
    (ANY, lambda g: rf"\displaystyle {g}"),
    (ANY, lambda g: rf"\textcolor{{red}}{{{g}}}"),
    (ANY, lambda g: rf"\color{{blue}} {g}"),
    (ANY, lambda g: g.replace(r"\frac", r"\dfrac")),
    (ANY, lambda g: g.replace(r"\left", "").replace(r"\right", "")),
    (ANY, lambda g: re.sub(r"(?<![\d\\]),(?!\d{3})", r",\\ ", g)),
    (r"[^$]*", lambda g: f"${g}$"),
    (r"[^$]*", lambda g: rf"\({g}\)"),
    ("expression", lambda g: rf"\boldsymbol{{{g}}}"),
    ("expression", lambda g: rf"\text{{The answer is }} {g}"),
    ("expression", lambda g: rf"\text{{Answer: }} {g}"),
    ("expression", lambda g: rf"w = {g}"),
    ("expression", lambda g: rf"\left({g}\right)"),
    ("expression", lambda g: g.replace("+", " + ").replace("^", " ^ ")),
    (r"-?\d+(?:\.\d+)?", lambda g: rf"{g}\text{{ units}}"),
    (r"-?\d+(?:\.\d+)?", lambda g: rf"\mathbf{{{g}}}"),
    (r"-?\d+(?:\.\d+)?", lambda g: rf"{g}\,\mathrm{{cm}}^2"),
    (r"-?\d+", lambda g: f"{g}.0"),
    (r"-?\d+(?:\.\d+)?", lambda g: g.translate({ord("-"): "−", **{48 + i: 0xFF10 + i for i in range(10)}})),
    (r"-?[1-9]\d{3,}", grouped),
    (r"-?[1-9]\d{3,}", lambda g: f"{int(g):,}"),
    (r"-?\d{1,2}(?:,\s*-?\d{1,2})+", shuffled),
    (r"-?\d{1,2}(?:,\s*-?\d{1,2})+", lambda g: rf"\{{{g}\}}"),
    (r"-?\d{1,2},\s*-?\d{1,2}", lambda g: g.replace(",", r" \text{ and }")),
    (r"\\frac\{\d+\}\{\d+\}", lambda g: re.sub(r"\\frac\{(\d+)\}\{(\d+)\}", r"\1/\2", g)),
]


def rewritten(gold: str, draw: random.Random) -> str:
    fits = [
        rule for kind, rule in REWRITES if (is_expression(gold) if kind == "expression" else re.fullmatch(kind, gold))
    ]
    return draw.choice(fits)(gold)


def changed(gold: str, draw: random.Random) -> str:
    """Another digit in one place, or another sign in front of a number that is not 0."""
    digits = [m.start() for m in re.finditer(r"\d", gold)]
    if re.fullmatch(r"-?(?:\d*[1-9]\d*|\\frac\{\d+\}\{\d+\}|\d*\\(?:sqrt|pi)\W.*)", gold) and draw.random() < 0.4:
        return gold[1:] if gold.startswith("-") else f"-{gold}"
    at = draw.choice(digits)
    return gold[:at] + draw.choice([d for d in "123456789" if d != gold[at]]) + gold[at + 1 :]


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier(timeout=60) as made:
        yield made


def boxed(answers: list[str]) -> list[str]:
    return [rf"Hence $\boxed{{{answer}}}$" for answer in answers]


whole = st.integers(-9999, 9999).map(str)
positive = st.integers(1, 99).map(str)
single = st.one_of(
    whole,
    st.integers(1000, 9_999_999).map(str),
    st.decimals(-99, 99, places=2, allow_nan=False).map(str),
    st.builds(r"\frac{{{}}}{{{}}}".format, positive, st.integers(2, 9)),
    st.builds(r"{}\sqrt{{{}}}".format, st.integers(2, 9), st.sampled_from([2, 3, 5, 7, 11])),
    st.builds(r"{}+{}\sqrt{{{}}}".format, positive, st.integers(2, 9), st.sampled_from([2, 3, 5])),
    st.builds(r"\frac{{{}\pi}}{{{}}}".format, positive, st.integers(2, 9)),
    st.builds("{}x^2+{}x+{}".format, positive, positive, positive),
    st.builds("{}n-{}".format, positive, positive),
    st.builds("{}+{}i".format, positive, positive),
)
golds = st.one_of(
    single,
    st.lists(st.integers(-99, 99), min_size=2, max_size=4, unique=True).map(lambda n: ", ".join(map(str, n))),
    st.builds("({},{})".format, single, single),
    st.builds("[{},{})".format, st.integers(-99, 0), positive),
    st.builds(r"\begin{{pmatrix}} {} \\ {} \end{{pmatrix}}".format, single, single),
)


def check(verifier: Verifier, golds: list[str], draw: random.Random, n: int) -> None:
    picked = draw.choices(golds, k=n)
    again = [rewritten(gold, draw) for gold in picked]
    verdicts = verifier.verify(boxed(again), picked)
    assert [(g, a) for g, a, v in zip(picked, again, verdicts, strict=True) if v != Verdict.CORRECT] == []
    picked = draw.choices([gold for gold in golds if re.search(r"\d", gold)], k=n)
    other = [changed(gold, draw) for gold in picked]
    verdicts = verifier.verify(boxed(other), picked)
    assert [(g, a) for g, a, v in zip(picked, other, verdicts, strict=True) if v == Verdict.CORRECT] == []


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(made=st.lists(golds, min_size=30, max_size=30), seed=st.integers(0, 10**6))
def test_made_golds(verifier: Verifier, made: list[str], seed: int) -> None:
    check(verifier, made, random.Random(seed), 30)


@pytest.mark.slow
def test_two_thousand_real_golds(verifier: Verifier) -> None:
    """Left out: powers of units, which do not count, and conditions in words, which are not compared."""
    folder = Path(os.environ.get("PRMBENCH_DATA_DIR", "data-not-set"))
    if not folder.is_dir():
        reason = "PRMBENCH_DATA_DIR names no folder"
        if os.environ.get("PRMBENCH_REQUIRE_REAL") == "1":
            pytest.fail(f"PRMBENCH_REQUIRE_REAL is set, but {reason}")
        pytest.skip(reason)
    found = []
    for name in REAL:
        with gzip.open(folder / name, "rt", newline="\n") if name.endswith(".gz") else open(folder / name) as lines:
            found += [json.loads(line)["answer"] for line in lines]
    kept = [gold for gold in dict.fromkeys(found) if not re.search(r"\^\d$|\^\{\d\}$|where", gold)]
    assert len(kept) > 2700
    check(verifier, kept, random.Random(0), N_REAL)
