"""Step-labelled data sets as they come, each record turned into one of our own (`prmbench.data.traces`).

A format is found by the fields of a record, or named. Texts stay as they are. Labels are words here, because numbers mean different
things in different sets: 0 is neutral in PRM800K and wrong in Hard2Verify.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from prmbench.data.records import check_object, check_steps, check_text, parse_json, shown
from prmbench.errors import ArgumentError, UserError, nearest

StepLabel = Literal["right", "wrong", "neutral", "unknown"]
"""What is known of a step. Neutral is neither a mistake nor progress."""

RATINGS: dict[int | None, StepLabel] = {1: "right", 0: "neutral", -1: "wrong", None: "unknown"}
"""Labels by PRM800K's ratings."""

MARK = "ки"
"""What stands after every step of a Math-Shepherd input; its label has + or - in its place."""

DECRYPTED = "a list (decrypt the records first, with the data set's own code)"
_SECTION = re.compile(r"^[ \t]*section[ \t]*(\d{1,6})[ \t]*:", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class StepFormat:
    """How the records of a data set are read.

    Attributes:
        name: What it is called.
        fields: The fields that a record of it has, by which it is found.
        convert: Makes one of our records of one of its own, given the place for messages and its number in the file, from 0.
        names: What it calls our fields, for messages; those that are not here have our name.
        repeats: Whether a record with an id that was already used is passed over, as the authors' own evaluation does.
    """

    name: str
    fields: tuple[str, ...]
    convert: Callable[[str, int, Any], dict[str, Any]]
    names: dict[str, str] = field(default_factory=dict)
    repeats: bool = False


def find_format(place: str, record: Any) -> StepFormat | None:
    """Find the format of a record by its fields. A field that is null counts as absent where another format then fits.

    Args:
        place: Where the record is from, for messages.
        record: The record.

    Returns:
        The format; None for a record of our own, or of nothing that is known.

    Raises:
        UserError: It has most of the fields of one format, and not all. The missing one is named.
    """
    if not isinstance(record, dict):
        return None
    given = {name for name, value in record.items() if value is not None}
    for names in (given, set(record)):
        if {"problem", "steps"} <= names and ("ratings" not in names or {"labels", "error_steps"} & names):
            return None
        for one in FORMATS.values():
            if names.issuperset(one.fields):
                return one
    if {"problem", "steps"} & given:
        return None
    near = max(FORMATS.values(), key=lambda one: len(given.intersection(one.fields)) / len(one.fields))
    if 2 * len(given.intersection(near.fields)) > len(near.fields):
        check_object(place, record, near.fields, f"a record of {near.name}")
    return None


def named_format(name: str) -> StepFormat:
    """Return the format of a name.

    Args:
        name: The name.

    Raises:
        ArgumentError: There is none; the nearest name is given.
    """
    if name not in FORMATS:
        raise ArgumentError("form", name, f"not known{nearest(name, FORMATS)}; expected {', '.join(FORMATS)}")
    return FORMATS[name]


def _id(record: dict[str, Any], name: str, number: int) -> Any:
    """The id of a record; its number where it has none."""
    return str(number) if record.get(name) is None else record[name]


def errors_past_end(record: Any) -> int:
    """Count the numbers in ``error_steps`` that are past the last step, and so have no effect.

    Args:
        record: A record of our own, or of PRMBench.
    """
    if not isinstance(record, dict) or not isinstance(record.get("error_steps"), list):
        return 0
    name, first = ("modified_process", 1) if "modified_process" in record else ("steps", 0)
    steps = record.get(name)
    last = len(steps) - 1 + first if isinstance(steps, list) else 0
    return sum(isinstance(i, int) and i > last for i in record["error_steps"])


def _prmbench(place: str, number: int, record: Any) -> dict[str, Any]:
    """PRMBench and Socratic-PRMBench. An error step past the last step has no effect, as in PRMBench's own evaluation."""
    steps, wrong = check_steps(place, record["modified_process"], "modified_process"), record["error_steps"]
    numbers = isinstance(wrong, list) and all(type(i) is int and i >= 1 for i in wrong)
    if not numbers:
        raise UserError(
            f"{place}: field 'error_steps' is {shown(wrong)}; expected a list of step numbers, counted from 1"
        )
    of = check_text(place, "classification", record["classification"])
    return {
        "id": f"{of}_{check_text(place, 'idx', record['idx'], number=True)}",
        "problem": record["modified_question"],
        "steps": list(steps),
        "labels": ["wrong" if i in wrong else "right" for i in range(1, len(steps) + 1)],
        "error_class": of,
    }


def _prm800k(place: str, number: int, record: Any) -> dict[str, Any]:
    """PRM800K as released: the path that was taken.

    Of each step it is the chosen completion; else the labeller's own text, which is right; else, where the solution ends with an
    error, the first completion. Other completions are left out.
    """
    question, label = record["question"], record["label"]
    check_object(f"{place}, field 'question'", question, ("problem",), "an object with problem")
    check_object(f"{place}, field 'label'", label, ("steps",), "an object with steps")
    if not isinstance(label["steps"], list):
        raise UserError(f"{place}: field 'label.steps' is {shown(label['steps'])}; expected a list")
    steps, ratings = [], []
    for i, step in enumerate(label["steps"]):
        check_object(f"{place}, field 'label.steps[{i}]'", step, ("completions",), "an object with completions")
        completions, chosen, human = (
            step["completions"] or [],
            step.get("chosen_completion"),
            step.get("human_completion"),
        )
        if not isinstance(completions, list):
            name = f"label.steps[{i}].completions"
            raise UserError(f"{place}: field '{name}' is {shown(completions)}; expected a list of completions, or null")
        if chosen is not None and not (type(chosen) is int and 0 <= chosen < len(completions)):
            expected = f"null, or the index of one of its {len(completions)} completions"
            raise UserError(
                f"{place}: field 'label.steps[{i}].chosen_completion' is {shown(chosen)}; expected {expected}"
            )
        if chosen is None and human is None and not completions:
            break
        taken = completions[chosen] if chosen is not None else human or completions[0]
        check_object(f"{place}, step {i}", taken, ("text", "rating"), "a completion with text and rating")
        steps.append(check_text(place, f"label.steps[{i}]: the text of what was taken", taken["text"], blank=True))
        ratings.append(1 if chosen is None and human else taken["rating"])
        if chosen is None and not human:
            break
    return {"id": str(number), "problem": question["problem"], "steps": steps, "labels": _rated(place, ratings)}


def _rated_steps(place: str, number: int, record: Any) -> dict[str, Any]:
    """Steps with PRM800K's ratings beside them."""
    check_object(place, record, ("problem",), "a record of rated-steps with its problem")
    kept = {name: record[name] for name in ("problem", "label", "generator", "error_class") if name in record}
    labels = _rated(place, record["ratings"])
    return {"id": _id(record, "id", number), **kept, "steps": record["steps"], "labels": labels}


def _rated(place: str, ratings: Any) -> list[StepLabel]:
    if not isinstance(ratings, list) or not all(type(r) in (int, type(None)) and r in RATINGS for r in ratings):
        raise UserError(f"{place}: the ratings are {shown(ratings)}; expected a list of 1, 0, -1 or null")
    return [RATINGS[rating] for rating in ratings]


def _math_shepherd(place: str, number: int, record: Any) -> dict[str, Any]:
    """Math-Shepherd: one text with a mark after each step, and the same text with + or - for the marks."""
    text, label = (check_text(place, name, record[name]) for name in ("input", "label"))
    *marked, rest = text.split(MARK)
    labels: list[StepLabel] = []
    at = 0
    for piece in marked:
        sign = label[at + len(piece) : at + len(piece) + 1]
        if not label.startswith(piece, at) or sign not in ("+", "-"):
            raise UserError(
                f"{place}: field 'label' differs from 'input' at step {len(labels)}; expected the same text, + or - for {MARK}"
            )
        labels.append("right" if sign == "+" else "wrong")
        at += len(piece) + 1
    if label[at:].strip() != rest.strip():
        raise UserError(
            f"{place}: field 'label' differs from 'input' after step {len(labels) - 1}; expected the same text to the end"
        )
    if not marked or "Step 1:" not in marked[0]:
        raise UserError(
            f"{place}: field 'input' has no 'Step 1:' before its first {MARK}; expected a problem and marked steps"
        )
    start = marked[0].rindex("Step 1:")
    problem, marked[0] = marked[0][:start], marked[0][start:]
    if not problem.strip():
        raise UserError(f"{place}: field 'input' has no problem before 'Step 1:'; expected a problem and marked steps")
    steps = [piece.strip() for piece in marked]
    if rest.strip():  # after the last mark nothing is said
        steps, labels = [*steps, rest.strip()], [*labels, "unknown"]
    return {"id": str(number), "problem": problem.strip(), "steps": steps, "labels": labels}


def _hard2verify(place: str, number: int, record: Any) -> dict[str, Any]:
    """Hard2Verify, decrypted: 1 for a right step, 0 for a wrong one."""
    steps, labels = (_listed(place, name, record[name]) for name in ("model_response_by_step", "human_labels"))
    if not all(type(one) in (int, bool) and one in (0, 1) for one in labels):
        raise UserError(f"{place}: field 'human_labels' is {shown(labels)}; expected a list of 1 (right) and 0 (wrong)")
    return {
        "id": _id(record, "unique_id", number),
        "problem": record["question"],
        "steps": steps,
        "labels": [bool(one) for one in labels],
    }


def _listed(place: str, field: str, value: Any, expected: str = DECRYPTED) -> list[Any]:
    """A list that may stand as JSON text."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = parse_json(f"{place}, field '{field}'", value.encode(errors="replace"))
    if not isinstance(value, list):
        raise UserError(f"{place}: field '{field}' is {shown(value)}; expected {expected}")
    return value


def _deltabench(place: str, number: int, record: Any) -> dict[str, Any]:
    """DeltaBench: one text of numbered sections, and the numbers of those with an error and of those without use.

    Both are errors in its own evaluation, which passes over everything after the last one: what is there has no label.
    """
    texts = [name for name in ("sections_content", "section_content") if record.get(name) is not None]
    if not texts:
        raise UserError(f"{place}: field 'sections_content' is missing; expected the text of its sections")
    steps = _sections(place, texts[0], check_text(place, texts[0], record[texts[0]]))
    wrong: set[int] = set()
    for name in ("reason_error_section_numbers", "reason_unuseful_section_numbers"):
        numbers = _listed(place, name, record.get(name, []), "a list of section numbers, counted from 1")
        if not all(type(i) is int and 1 <= i <= len(steps) for i in numbers):
            raise UserError(
                f"{place}: field '{name}' is {shown(numbers)}; expected a list of section numbers, 1 to {len(steps)}"
            )
        wrong.update(numbers)
    last = max(wrong, default=len(steps))
    of = record.get("task_l1")
    return {
        "id": _id(record, "id", number),
        "problem": record["question"],
        "steps": steps,
        "labels": ["wrong" if i in wrong else "right" if i <= last else "unknown" for i in range(1, len(steps) + 1)],
        **({} if of is None else {"error_class": of}),
    }


def _sections(place: str, field: str, text: str) -> list[str]:
    """Split a text at ``section1:``, ``section2:`` and so on, each at the beginning of a line."""
    cuts: list[tuple[int, int]] = []
    for found in _SECTION.finditer(text):
        if int(found[1]) == len(cuts) + 1:
            cuts.append(found.span())
        elif found[0] == f"section{found[1]}:" and int(found[1]) > len(cuts):
            raise UserError(
                f"{place}: field '{field}' has section {found[1]} after section {len(cuts)}; expected the numbers 1, 2, 3 and so on"
            )
    if not cuts or text[: cuts[0][0]].strip():
        raise UserError(
            f"{place}: field '{field}' does not begin with 'section1:'; expected a text of numbered sections"
        )
    ends = [start for start, _ in cuts[1:]] + [len(text)]
    return [text[after:end].strip() for (_, after), end in zip(cuts, ends, strict=True)]


def _trl(place: str, number: int, record: Any) -> dict[str, Any]:
    """TRL's stepwise supervision: true for a right step."""
    labels = record["labels"]
    if not isinstance(labels, list) or not all(
        type(one) is bool or (type(one) is int and one in (0, 1)) for one in labels
    ):
        raise UserError(
            f"{place}: field 'labels' is {shown(labels)}; expected a list of true (right) and false (wrong)"
        )
    return {
        "id": _id(record, "id", number),
        "problem": record["prompt"],
        "steps": record["completions"],
        "labels": [bool(one) for one in labels],
    }


FORMATS = {
    one.name: one
    for one in (
        StepFormat(
            "prmbench",
            ("modified_process", "modified_question", "error_steps", "classification", "idx"),
            _prmbench,
            {"problem": "modified_question"},
            repeats=True,
        ),
        StepFormat(
            "deltabench",
            ("question", "reason_error_section_numbers"),
            _deltabench,
            {"problem": "question", "error_class": "task_l1"},
        ),
        StepFormat("prm800k", ("question", "label"), _prm800k, {"problem": "question.problem", "steps": "label.steps"}),
        StepFormat("rated-steps", ("steps", "ratings"), _rated_steps, {"labels": "ratings"}),
        StepFormat("math-shepherd", ("input", "label"), _math_shepherd),
        StepFormat(
            "hard2verify",
            ("question", "model_response_by_step", "human_labels"),
            _hard2verify,
            {"id": "unique_id", "problem": "question", "steps": "model_response_by_step", "labels": "human_labels"},
        ),
        StepFormat(
            "trl-stepwise", ("prompt", "completions", "labels"), _trl, {"problem": "prompt", "steps": "completions"}
        ),
    )
}
"""All formats by name. Socratic-PRMBench has PRMBench's."""
