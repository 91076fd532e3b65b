"""Categories of the classes of error, as PRMBench and Socratic-PRMBench group them in their tables."""

from __future__ import annotations

from collections.abc import Sequence

CATEGORIES = {
    # PRMBench
    "simplicity": ("redundency", "circular"),
    "soundness": ("counterfactual", "step_contradiction", "domain_inconsistency", "confidence"),
    "sensitivity": ("missing_condition", "deception", "multi_solutions"),
    # Socratic-PRMBench
    "transformation": ("repeat_inconsistency", "repeat_counterfactual"),
    "decomposition": ("decomposition_unsoundness", "decomposition_redundancy", "decomposition_incompleteness"),
    "regather": ("regather_imprecision", "regather_redundancy", "regather_incompleteness"),
    "deduction": (
        "premise_unsoundness",
        "premise_redundancy",
        "premise_incompleteness",
        "conclusion_invalidity",
        "conclusion_inconsistency",
        "conclusion_counterfactual",
    ),
    "verification": ("detection_error", "correction_error"),
    "integration": (
        "integration_inconsistency",
        "integration_incompleteness",
        "integration_redundancy",
        "integration_unsoundness",
    ),
}
"""Classes by category. The spelling is that of the data."""

ALL = "all classes"


def categories_of(classes: Sequence[str]) -> dict[str, list[str]]:
    """Group classes of error.

    Args:
        classes: Names of classes.

    Returns:
        The classes of each category that has any, and of all; nothing where there are none.
    """
    found = {name: [one for one in members if one in classes] for name, members in CATEGORIES.items()}
    found = {name: members for name, members in found.items() if members}
    return {**found, ALL: list(classes)} if classes else {}
