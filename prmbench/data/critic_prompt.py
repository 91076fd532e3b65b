"""The prompt that asks a language model for the first wrong step of a solution (ProcessBench's generative protocol)."""

from __future__ import annotations

from collections.abc import Sequence

PROMPT = """Here is a math problem and a solution to it. The solution is cut into paragraphs, numbered from 0, each between \
tags that carry its number.

<problem>
{problem}
</problem>

{paragraphs}

Go through the solution paragraph by paragraph and check each. Find the first paragraph that contains a mistake. If there is \
no mistake anywhere, the answer is -1. Explain your checks, then give the number of that paragraph, or -1, in \\boxed{}."""


def critic_prompt(problem: str, steps: Sequence[str]) -> str:
    """Write the user's message. Only the two marks are replaced, so that braces and marks in the texts are safe.

    Args:
        problem: The question.
        steps: The steps of its solution.

    Returns:
        The message.
    """
    paragraphs = "\n\n".join(f"<paragraph_{i}>\n{step}\n</paragraph_{i}>" for i, step in enumerate(steps))
    before, _, rest = PROMPT.partition("{problem}")
    middle, _, after = rest.partition("{paragraphs}")
    return f"{before}{problem}{middle}{paragraphs}{after}"
