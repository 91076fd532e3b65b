"""A language model as critic: asked which paragraph of a solution is the first wrong one (ProcessBench's generative protocol)."""

from __future__ import annotations

from collections.abc import Sequence

from prmbench.verify.extract import extract_answer

PROMPT = """Here is a math problem and a solution to it. The solution is cut into paragraphs, numbered from 0, each between \
tags that carry its number.

<problem>
{problem}
</problem>

{paragraphs}

Go through the solution paragraph by paragraph and check each. Find the first paragraph that contains a mistake. If there is \
no mistake anywhere, the answer is -1. Explain your checks, then give the number of that paragraph, or -1, in \\boxed{}."""


def critic_prompt(problem: str, steps: Sequence[str]) -> str:
    """The user's message. Only the two marks are replaced: braces and marks in the texts are safe."""
    paragraphs = "\n\n".join(f"<paragraph_{i}>\n{step}\n</paragraph_{i}>" for i, step in enumerate(steps))
    before, _, rest = PROMPT.partition("{problem}")
    middle, _, after = rest.partition("{paragraphs}")
    return f"{before}{problem}{middle}{paragraphs}{after}"


def parse_verdict(text: str) -> int | None:
    """The last boxed whole number; None where the last box holds something else, or there is none."""
    answer = extract_answer(text, "boxed")
    if answer is None:
        return None
    try:
        return int(answer.strip().strip("$").strip())
    except ValueError:
        return None


def vote(verdicts: Sequence[int | None]) -> int | None:
    """The most common verdict, unparsed ones dropped before the vote; of several equally common ones the first given."""
    counts: dict[int, int] = {}
    for verdict in verdicts:
        if verdict is not None:
            counts[verdict] = counts.get(verdict, 0) + 1
    return max(counts, key=lambda v: counts[v]) if counts else None
