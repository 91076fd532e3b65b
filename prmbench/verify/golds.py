"""Gold answers: reading one out of a whole solution, and telling before a run which cannot be read."""

from __future__ import annotations

from prmbench.verify.extract import extract_answer


def read_gold(gold: str) -> str:
    r"""Read a gold answer.

    Args:
        gold: The answer as its source has it. A whole solution is read too: GSM8K's ends with ``#### 18``, MATH's has a box.

    Returns:
        The answer alone; empty where there is none.
    """
    solution, mark, answer = gold.rpartition("####")
    if mark:
        return answer.strip()
    boxed = extract_answer(gold) if r"\boxed" in gold else None
    return boxed or gold.strip()
