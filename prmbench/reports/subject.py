"""One page about one subject: its tables, pictures, and the items it does worst on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prmbench.benchmarks.best_of_n.plot import draw_best_of_n
from prmbench.benchmarks.processbench.metrics import BASELINES, item_scores, predict
from prmbench.benchmarks.processbench.schema import POLICIES, SubsetResult, quoted
from prmbench.data.traces import Trace
from prmbench.errors import UserError
from prmbench.reports.compare import (
    ALL_TYPES,
    PROBE_TYPES,
    AnyEntry,
    Measured,
    find_entry,
    load_measured,
    read_any_entry,
)
from prmbench.reports.leaderboard import Cell, board_cells, board_columns
from prmbench.reports.pages import environment
from prmbench.reports.parts import Picture, Section, Step, Table, Worst, about
from prmbench.reports.plots import calibration, f1_against_threshold, scores_around_errors, to_svg
from prmbench.reports.subject_probes import PROBES
from prmbench.reports.verification import require_valid
from prmbench.results.items import TraceItem, read_described, read_items
from prmbench.results.store import write_atomically
from prmbench.stats.protocols import DIRECT

Floats = NDArray[np.float64]

N_WORST = 10
POLICY_WORDS = {
    "crossfit": "each fold predicted with the threshold of the other four",
    "gsm8k": "chosen on gsm8k, applied to all",
    "oracle": "chosen on these very traces: an upper bound",
    "fixed": "probability 0.5",
    DIRECT: "a critic's own verdict, no threshold",
}


def write_report(paths: Sequence[str | Path], output: Path, traces: Sequence[Trace] | None = None) -> Path:
    """Write the page of one subject.

    Args:
        paths: its entries, of any benchmarks. traces: problem texts, where they are at hand.

    Raises:
        UserError: entries of different subjects, or one that is not what its items say.
    """
    measured = [_load(path) for path in paths]
    first = measured[0].entry.subject
    for one in measured[1:]:
        if one.entry.subject.weights != first.weights:
            raise UserError(
                f"{one.path} is of '{one.name}', {measured[0].path} of '{first.name}' (other weights); a report is of one subject: "
                "use `prmbench compare` for two"
            )
    for one in measured:
        require_valid(one.path, traces)
    makers = {"processbench": _processbench, "best-of-n": _best_of_n, "policy": _policy, **PROBES}
    sections = [makers[one.entry.benchmark.name](one, traces) for one in measured]
    html = (
        environment()
        .get_template("report.html")
        .render(
            subject=first,
            sections=sections,
            entries=[one.entry for one in measured],
            provenance=[_provenance(one) for one in measured],
        )
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, html)
    return output


def _load(path: str | Path) -> Measured:
    file = find_entry(path)
    entry = read_any_entry(file, ALL_TYPES)
    return Measured(file, entry, {}, "") if entry.benchmark.name in PROBE_TYPES else load_measured(file)


def _provenance(one: Measured) -> list[tuple[str, str]]:
    """What the figures can be traced to."""
    entry = one.entry
    rows = [
        ("benchmark", f"{entry.benchmark.name}, version {entry.benchmark.version}"),
        ("fingerprint", entry.benchmark.fingerprint),
        *((f"data of {name}", data.data_hash) for name, data in entry.benchmark.subsets.items()),
        *((f"weights: {role}", sha) for role, sha in entry.subject.weights.items()),
        ("items", f"{entry.items.n:,} in {entry.items.file}, sha256 {entry.items.sha256}" if entry.items else "none"),
    ]
    if entry.provenance is not None:
        p = entry.provenance
        rows += [
            ("computed on", f"{p.engine}, {p.device}, {p.dtype}"),
            ("chat template", p.template_hash),
            ("versions", ", ".join(f"{name} {version}" for name, version in p.versions.items())),
            ("seed, resamples", f"{p.seed}, {p.n_resamples:,}"),
        ]
    return rows


def _processbench(one: Measured, traces: Sequence[Trace] | None) -> Section:
    entry = one.entry
    items = read_described(one.path.parent, entry.items, read_items)
    beta, main = entry.subject.beta, one.protocol
    subsets = list(entry.benchmark.subsets)
    used = [policy for policy in POLICIES if any(policy in p.mean for p in entry.metrics.protocols.values())]
    used = ["crossfit", *used] if used == [DIRECT] else used  # of the baselines
    rows = [
        (name, [Cell.of(result.mean.get(policy)) for policy in used])
        for name, result in [
            *entry.metrics.protocols.items(),
            *((f"baseline: {kind}", entry.metrics.baselines[kind]) for kind in BASELINES),
        ]
    ]
    tables = [("F1 in %, mean over subsets, by step score and threshold", Table(["step score", *used], rows))]
    if len(subsets) > 1:
        by_subset = [
            (
                name,
                [Cell.of(here.f1 if (here := quoted(result.subsets[s].policies)) else None) for s in subsets],
            )
            for name, result in entry.metrics.protocols.items()
        ]
        tables.append(("F1 in % by subset, crossfit thresholds", Table(["step score", *subsets], by_subset)))
    found = entry.metrics.protocols[main].subsets
    for subset in subsets:
        for title, groups in (
            ("position of the first error", found[subset].by_position),
            ("generator", found[subset].by_generator),
        ):
            cells = [
                (f"{g.name} ({g.n_error:,} with an error)", [Cell(None if g.acc_error is None else 100 * g.acc_error)])
                for g in groups
                if g.n_error
            ]
            tables.append(
                (f"{subset}: errors found exactly, in %, by {title} ({main})", Table([title, "found"], cells))
            )
    if main == DIRECT:  # votes: there are no scores to draw, nor margins to rank by
        return Section("ProcessBench", [*about(entry), *_votes(found)], tables, [])
    mine = {s: sorted((i for i in items if i.subset == s), key=lambda i: i.id) for s in subsets}
    scores = {s: [item_scores(i, beta)[main] for i in mine[s]] for s in subsets}
    labels = {s: [i.label for i in mine[s]] for s in subsets}
    chosen = {s: {policy: found[s].policies[policy].thresholds for policy in found[s].policies} for s in subsets}
    pictures = [
        Picture(
            to_svg(f1_against_threshold(scores, labels, chosen), "F1 against the threshold"),
            f"F1 of {main} at every threshold. " + "; ".join(f"{p}: {POLICY_WORDS[p]}" for p in used) + ".",
        ),
        Picture(
            to_svg(scores_around_errors(scores, labels), "Step scores around the first error"),
            f"Scores ({main}) of steps without an error in their trace, before the first error, at it, and after: quartiles, 5% to "
            "95%. The number of steps below each.",
        ),
    ]
    for protocol in entry.subject.fixed_thresholds:
        at = [item_scores(i, beta)[protocol] for i in items]
        figure, ece = calibration(items, at)
        pictures.append(
            Picture(
                to_svg(figure, "Reliability"),
                f"Reliability of {protocol}: its sigmoid against the share of steps up to which nothing is wrong (a stricter event "
                f"than a right final answer, which such models are trained on). Expected calibration error {ece:.3f}.",
            )
        )
    worst = _worst(items, entry, main, traces)
    note = f"The {len(worst)} items predicted wrong by the widest margin ({main}, crossfit)."
    if traces is None:
        note += " Their text is not at hand: pass --data."
    return Section("ProcessBench", about(entry), tables, pictures, worst, note)


def _votes(found: Mapping[str, SubsetResult]) -> list[str]:
    return [
        f"{name}: {v.n - v.unparsed:,} of {v.n:,} votes hold a verdict; {v.undecided:,} traces have none and count as wrong"
        for name, result in found.items()
        if (v := result.votes)
    ]


def _worst(items: Sequence[TraceItem], entry: AnyEntry, protocol: str, traces: Sequence[Trace] | None) -> list[Worst]:
    subject = entry.subject
    try:
        predictions = predict(items, subject.beta, subject.fixed_thresholds, protocol=protocol)
    except ValueError:  # a subset with one class only has no thresholds
        return []
    texts = {(t.subset, t.id): t for t in traces or ()}
    found = []
    for subset, one in predictions.items():
        rows = [item_scores(item, subject.beta)[protocol] for item in one.items]
        values = np.concatenate(rows)
        spread = float(np.std(values[np.isfinite(values)])) or 1.0
        for item, row, predicted, threshold in zip(
            one.items, rows, one.predicted.tolist(), one.thresholds, strict=True
        ):
            if predicted == item.label:
                continue
            # What would have had to be the other way: the first error above the threshold, or a right step below it.
            missed = row[item.label] - threshold if item.label >= 0 and row[item.label] >= threshold else 0.0
            wrongly = threshold - row[predicted] if predicted >= 0 and predicted != item.label else 0.0
            trace = texts.get(item.key)
            steps = [
                Step(
                    i,
                    float(score),
                    float(np.clip((score - threshold) / (2 * spread), -1, 1)),
                    trace.steps[i] if trace else None,
                    i == item.label,
                    i == predicted,
                )
                for i, score in enumerate(row)
            ]
            margin = float(max(missed, wrongly)) / spread
            problem = trace.problem if trace else None
            found.append(Worst(item.id, subset, item.generator, item.label, predicted, margin, problem, steps))
    return sorted(found, key=lambda w: (-w.margin, w.subset, w.id))[:N_WORST]


def _best_of_n(one: Measured, _: Sequence[Trace] | None) -> Section:
    entry, metrics = one.entry, one.entry.metrics
    sizes = [str(n) for n in metrics.sizes]
    rows = [(name, [Cell.of(at[n].get("expected")) for n in sizes]) for name, at in metrics.mean.scores.items()]
    rows += [
        (f"baseline: {name}", [Cell.of(at.get(n, {}).get("expected")) for n in sizes])
        for name, at in metrics.mean.baselines.items()
    ]
    table = Table(["score", *(f"@{n}" for n in sizes)], rows)
    picture = Picture(
        to_svg(draw_best_of_n([entry]), "Best-of-N"),
        f"Accuracy of the candidate with the highest {metrics.own} among N, over all subsets of a problem's {metrics.n}.",
    )
    title = "Accuracy in % of the highest-scored candidate, over all subsets of N; the model's own score first"
    return Section("Best-of-N", about(entry), [(title, table)], [picture])


def _policy(one: Measured, _: Sequence[Trace] | None) -> Section:
    entry, metrics = one.entry, one.entry.metrics
    columns = board_columns([entry])
    rows = [("all sets", board_cells(entry, columns))]
    for name, result in metrics.subsets.items():
        at = {**{f"pass@{k}": v for k, v in result.pass_at.items()}, f"avg@{metrics.n}": result.average}
        at |= {f"maj@{metrics.n}": result.majority, "truncated": result.truncated}
        rows.append((name, [Cell.of(at.get(c)) for c in columns]))
    verdicts = [
        (name, [Cell(float(count)) for count in result.verdicts.values()]) for name, result in metrics.subsets.items()
    ]
    kinds = list(next(iter(metrics.subsets.values())).verdicts)
    tables = [
        ("In %", Table(["problems", *columns], rows)),
        ("Completions by verdict", Table(["problems", *kinds], verdicts)),
    ]
    return Section("Policy", about(entry), tables, [])
