"""Prompt templates by name: how a problem is put to a policy, and how its answer is to be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prmbench.errors import UserError, nearest

AnswerStyle = Literal["boxed", "answer_line", "number", "auto"]


@dataclass(frozen=True)
class PromptTemplate:
    """A named prompt.

    Attributes:
        name: Its name.
        user: The user's message, with the mark ``{problem}`` where the problem goes.
        style: Where the answer is in a completion.
        system: The system message; None is none.
    """

    name: str
    user: str
    style: AnswerStyle
    system: str | None = None

    def render(self, problem: str) -> str:
        """Write the user's message. Only the mark itself is replaced, so that braces in a problem are safe.

        Args:
            problem: The question.

        Returns:
            The message.
        """
        return self.user.replace("{problem}", problem)


EURUS_SYSTEM = """You solve a problem one action at a time. Begin each part of your work with a line that holds the tag of its \
action alone. There are these actions:

[ASSESS] Say what is given and what is asked.
[ADVANCE] Take the next step towards the answer.
[VERIFY] Check what was done so far.
[SIMPLIFY] Split something hard into parts that are easier.
[SYNTHESIZE] Put the results of several parts together.
[PIVOT] Leave an approach that fails for another one.
[OUTPUT] State the result. This is the last action.

End each other part with a line that names the action that follows, such as: Next action: [VERIFY]"""

_STEPWISE = "{problem}\n\nReason step by step"

PROMPT_TEMPLATES = {
    template.name: template
    for template in (
        PromptTemplate("boxed", f"{_STEPWISE}, and put the final answer within \\boxed{{}}.", "boxed"),
        PromptTemplate("bare", "{problem}", "boxed"),
        PromptTemplate("answer-line", f"{_STEPWISE}. End with a line 'Answer: ' and the answer.", "answer_line"),
        PromptTemplate("eurus", "{problem}\n\nPut the final answer within \\boxed{}.", "boxed", EURUS_SYSTEM),
        PromptTemplate("number", f"{_STEPWISE}. The last number is the answer.", "number"),
    )
}


def find_prompt(name: str) -> PromptTemplate:
    """Find a prompt template.

    Args:
        name: Its name.

    Returns:
        The template.

    Raises:
        UserError: There is none of that name. The nearest name is given.
    """
    if name not in PROMPT_TEMPLATES:
        known = ", ".join(PROMPT_TEMPLATES)
        raise UserError(f"prompt template '{name}' is not known{nearest(name, PROMPT_TEMPLATES)}; known: {known}")
    return PROMPT_TEMPLATES[name]
