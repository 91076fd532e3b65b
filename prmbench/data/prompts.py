"""Prompt templates by name: how a problem is put to a policy, and how its answer is to be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prmbench.errors import UserError, nearest

AnswerStyle = Literal["boxed", "answer_line", "number", "auto"]


@dataclass(frozen=True)
class PromptTemplate:
    """A named prompt. user: text with ``{problem}``. system: system message or None. style: where the answer is."""

    name: str
    user: str
    system: str | None
    style: AnswerStyle

    def render(self, problem: str) -> str:
        """The user's message. Only the mark itself is replaced: braces in a problem are safe."""
        return self.user.replace("{problem}", problem)


PROMPT_TEMPLATES = {
    template.name: template
    for template in (
        PromptTemplate(
            "boxed", "{problem}\n\nReason step by step, and put the final answer within \\boxed{}.", None, "boxed"
        ),
        PromptTemplate("bare", "{problem}", None, "boxed"),
        PromptTemplate(
            "answer-line",
            "{problem}\n\nReason step by step. End with a line 'Answer: ' and the answer.",
            None,
            "answer_line",
        ),
        PromptTemplate("number", "{problem}\n\nReason step by step. The last number is the answer.", None, "number"),
    )
}


def find_prompt(name: str) -> PromptTemplate:
    """The template of a name. Raises UserError, with the nearest name, when there is none."""
    if name not in PROMPT_TEMPLATES:
        raise UserError(
            f"prompt template '{name}' is not known{nearest(name, PROMPT_TEMPLATES)}; known: {', '.join(PROMPT_TEMPLATES)}"
        )
    return PROMPT_TEMPLATES[name]
