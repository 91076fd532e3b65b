"""Best-of-N figures from items alone: no model, no text (DESIGN 4.4)."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from prmbench.data.records import LARGE, check_fields, check_number, read_records
from prmbench.errors import UserError
from prmbench.results.items import check_answers
from prmbench.results.schema import Estimate, Record
from prmbench.reward_models.objectives import Convention
from prmbench.stats.bootstrap import share_interval
from prmbench.stats.calibration import margin_logit, sigmoid
from prmbench.stats.repeats import mean_resamples, pass_at_k
from prmbench.stats.selection import AGGREGATIONS, aggregate, expected_best, expected_vote, first_best, subsets

Floats = NDArray[np.float64]

ESTIMATORS = ("expected", "first")
N_SUBSETS = 200
"""Subsets drawn for votes, which have no closed form, where there are more."""


class BestOfNSubset(Record):
    """One set of candidates."""

    scores: dict[str, dict[str, dict[str, Estimate]]] = Field(
        description="accuracy of the highest score: by score (own first), N, estimator (expected: over all subsets of N "
        "candidates; first: of the first N)"
    )
    baselines: dict[str, dict[str, dict[str, Estimate]]] = Field(
        description="the same for pass (any right), majority, weighted_majority (votes weigh the probability that the own score "
        "stands for), mean (what a random choice gets), shortest, longest"
    )


class BestOfNMetrics(Record):
    """Figures of a best-of-n entry."""

    own: str = Field(description="which score is the model's own convention")
    n: int = Field(description="candidates of each problem")
    sizes: list[int] = Field(description="N")
    subsets: dict[str, BestOfNSubset] = Field(description="by set of candidates")
    mean: BestOfNSubset = Field(description="plain mean over the sets")


@dataclass(frozen=True)
class CandidateItem:
    """What is kept of one candidate: no text.

    Attributes:
        subset, id, sample, digest: of the candidate. correct: verified. answer: class of its answer among its problem's, -1: none.
        length: response tokens, end of turn included. n_tokens: int64, shape [n_steps].
        sums: token values summed over each step, before beta; total: over the whole response, end of turn included.
        scores: of step-valued models, shape [n_steps], instead.
        weighted: Total with weights that decay with the position, of models whose own way to score a response that is (EndoRM).
    """

    subset: str
    id: str
    sample: int
    digest: str
    correct: bool
    answer: int
    length: int
    n_tokens: NDArray[np.int64]
    sums: Floats | None
    total: float | None
    scores: Floats | None
    weighted: float | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What names an item within a run."""
        return self.subset, f"{self.id}/{self.sample}"

    def line(self) -> str:
        """One JSON line, numbers exact."""
        fields = {
            name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in self.__dict__.items()
        }
        return json.dumps({name: value for name, value in fields.items() if value is not None}) + "\n"


def parse_candidate(place: str, fields: Any) -> CandidateItem:
    """Check one item's fields. Raises UserError that names the place and the field."""
    kinds: dict[str, type] = {"subset": str, "id": str, "sample": int, "digest": str, "correct": bool, "answer": int}
    kinds |= {"length": int, "n_tokens": list}
    kept = check_fields(place, fields, kinds, "an item")
    values = fields.get("scores") if "scores" in fields else fields.get("sums")
    if ("scores" in fields) == ("sums" in fields and "total" in fields) or not isinstance(values, list):
        raise UserError(f"{place}: expected either 'sums' and 'total', or 'scores'")
    if len(values) != len(fields["n_tokens"]):
        raise UserError(f"{place}: 'n_tokens' and the scores must be lists of one length, one number a step")
    for name, low in (("sample", 0), ("answer", -1), ("length", 0)):
        check_number(place, name, fields[name], low=low, whole=True)
    for count in fields["n_tokens"]:
        check_number(place, "n_tokens", count, low=0, whole=True)
    numbers = [*values, *(fields[name] for name in ("total", "weighted") if name in fields)]
    if not all(type(v) in (int, float) and (abs(v) < LARGE or v in (math.inf, -math.inf)) for v in numbers):
        raise UserError(f"{place}: scores must be numbers below {LARGE:g}, and none NaN")
    stepwise = "scores" in fields
    return CandidateItem(
        **{name: value for name, value in kept.items() if name != "n_tokens"},
        n_tokens=np.array(fields["n_tokens"], dtype=np.int64),
        sums=None if stepwise else np.array(values, dtype=np.float64),
        total=None if stepwise else float(fields["total"]),
        scores=np.array(values, dtype=np.float64) if stepwise else None,
        weighted=float(fields["weighted"]) if "weighted" in fields else None,
    )


def read_candidates(path: Path) -> list[CandidateItem]:
    """Read an items file. Raises UserError for a broken line, a wrong field, or the same item twice."""
    seen: dict[tuple[str, str], CandidateItem] = {}
    for place, fields in read_records(path):
        item = parse_candidate(place, fields)
        if item.key in seen:
            raise UserError(f"{place}: candidate '{item.key[1]}' is there twice; delete one of the lines")
        seen[item.key] = item
    check_answers(path, seen.values())
    return list(seen.values())


def candidate_scores(item: CandidateItem, convention: Convention) -> dict[str, float]:
    """Every score of one candidate, the model's own first.

    ``sum`` and ``token_mean`` are over all response tokens; ``min``, ``last``, ``product`` and ``mean`` over steps' process
    scores.
    """
    if item.length == 0:  # its prompt left no room: there is nothing to choose
        names = AGGREGATIONS if item.scores is not None else ("token_mean", "sum", *AGGREGATIONS)
        return {convention.own: -math.inf, **dict.fromkeys(names, -math.inf)}
    if item.scores is not None:
        found = {how: aggregate(item.scores, how) for how in AGGREGATIONS}
    else:
        assert item.sums is not None
        assert item.total is not None
        total = convention.beta * item.total
        found = {"token_mean": total / max(item.length, 1), "sum": total}
        if item.weighted is not None:
            found["decayed_sum"] = convention.beta * item.weighted
        found |= {how: aggregate(convention.beta * item.sums, how) for how in AGGREGATIONS}
    if convention.own not in found:
        raise UserError(f"candidate '{item.key[1]}' has no field 'weighted', by which its model scores a response")
    return {convention.own: found[convention.own], **found}


def checked_sizes(counts: Iterable[int], sizes: Sequence[int] | None) -> list[int]:
    """The N to compute: as asked, or powers of two up to the number of candidates, and that number.

    Args:
        counts: candidates of each problem.

    Raises:
        UserError: problems with different numbers of candidates, or N above that number.
    """
    numbers = set(counts)
    if len(numbers) != 1:
        raise UserError(f"problems have {min(numbers)} to {max(numbers)} candidates; expected equally many of each")
    (n,) = numbers
    wanted = sorted(set(sizes or [*(2**k for k in range(n.bit_length()) if 2**k <= n), n]))
    if not 1 <= wanted[0] <= wanted[-1] <= n:
        raise UserError(f"--n {' '.join(map(str, wanted))}: there are {n} candidates of each problem")
    return wanted


def compute_best_of_n(
    items: Sequence[CandidateItem],
    convention: Convention,
    *,
    sizes: Sequence[int] | None = None,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> BestOfNMetrics:
    """All figures of an entry. Intervals resample problems.

    Raises:
        UserError: problems with different numbers of candidates, or N above that number.
    """
    groups: dict[tuple[str, str], list[CandidateItem]] = {}
    for item in items:
        groups.setdefault((item.subset, item.id), []).append(item)
    wanted = checked_sizes([len(group) for group in groups.values()], sizes)
    n = len(next(iter(groups.values())))
    found: dict[str, BestOfNSubset] = {}
    values_of: list[Floats] = []
    resamples_of: list[Floats] = []
    names: list[tuple[str, str, int, str]] = []
    for subset in dict.fromkeys(item.subset for item in items):
        rng = np.random.default_rng([seed, zlib.crc32(subset.encode())])
        rows = []
        for (name, _), group in sorted(groups.items()):
            if name == subset:
                row = _figures(sorted(group, key=lambda i: i.sample), convention, wanted, rng)
                names = list(row)
                rows.append(list(row.values()))
        values = np.array(rows)
        values_of.append(values)
        resamples_of.append(mean_resamples(values, n_resamples=n_resamples, rng=rng))
        found[subset] = _shaped(names, [values], resamples_of[-1])
    return BestOfNMetrics(
        own=convention.own,
        n=n,
        sizes=wanted,
        subsets=found,
        mean=_shaped(names, values_of, np.mean(resamples_of, axis=0)),
    )


def _figures(
    group: Sequence[CandidateItem], convention: Convention, sizes: Sequence[int], rng: np.random.Generator
) -> dict[tuple[str, str, int, str], float]:
    """Figures of one problem, by (scores or baselines, name, N, estimator)."""
    correct = np.array([item.correct for item in group])
    each = [candidate_scores(item, convention) for item in group]
    scores = {name: np.array([one[name] for one in each]) for name in each[0]}
    lengths = np.array([float(item.length) for item in group])
    answers = [item.answer for item in group]
    own = scores[convention.own]
    # A logarithm of a product of probabilities is no logit: its votes are the probabilities themselves.
    weights = np.exp(own) if convention.own == "product" else sigmoid(margin_logit(own, convention.margin or 0.0))
    out: dict[tuple[str, str, int, str], float] = {}
    for size in sizes:
        for name, values in scores.items():
            out["scores", name, size, "expected"] = expected_best(values, correct, size)
            out["scores", name, size, "first"] = first_best(values, correct, size)
        out["baselines", "pass", size, "expected"] = pass_at_k(len(group), int(correct.sum()), size)
        out["baselines", "pass", size, "first"] = float(correct[:size].any())
        votes = {
            "expected": subsets(len(group), size, N_SUBSETS, rng),
            "first": [tuple(range(size))],
        }
        for estimator, drawn in votes.items():
            out["baselines", "majority", size, estimator] = expected_vote(answers, correct, None, drawn)
            out["baselines", "weighted_majority", size, estimator] = expected_vote(answers, correct, weights, drawn)
        for name, by in (("shortest", np.where(lengths > 0, -lengths, -np.inf)), ("longest", lengths)):
            out["baselines", name, size, "expected"] = expected_best(by, correct, size)
            out["baselines", name, size, "first"] = first_best(by, correct, size)
        out["baselines", "mean", size, "expected"] = float(correct.mean())
        out["baselines", "mean", size, "first"] = float(correct[:size].mean())
    return out


def _shaped(names: Sequence[tuple[str, str, int, str]], sets: Sequence[Floats], samples: Floats) -> BestOfNSubset:
    """Means over sets of the sets' means. sets: per set, figures of each problem, shape [n, m]. samples: shape [b, m]."""
    parts: dict[str, dict[str, dict[str, dict[str, Estimate]]]] = {"scores": {}, "baselines": {}}
    for i, (part, name, size, estimator) in enumerate(names):
        columns = [values[:, i] for values in sets]
        low, high = share_interval(columns, samples[:, i]) if len(samples) else (None, None)
        estimate = Estimate(value=float(np.mean([column.mean() for column in columns])), low=low, high=high)
        parts[part].setdefault(name, {}).setdefault(str(size), {})[estimator] = estimate
    return BestOfNSubset(**parts)
