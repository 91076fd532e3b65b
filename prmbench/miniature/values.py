"""True values by dynamic programming: how likely the demonstrator is to end right from any prefix of a well-formed solution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from prmbench.miniature.solutions import SPLIT_SHARE, Content, Format, Part, write_steps
from prmbench.miniature.world import SPLITS, Chain, World, is_hard


@dataclass(frozen=True)
class Values:
    """True values of one problem's states, for someone who states facts as demonstrations do.

    A state is the number of operations done and the value reached. Right is whatever ends in the problem's answer, as the verifier
    has it.

    Attributes:
        problem: The problem.
        world: Its world.
        split_share: How often a hard operation is split; None always takes the choice with the higher value.
        modal: Whether every fact is stated in its likelier way, as greedy decoding does, and not drawn.
    """

    problem: Chain
    world: World
    split_share: float | None = SPLIT_SHARE
    modal: bool = False

    @cached_property
    def table(self) -> NDArray[np.float64]:
        """Value of every state. Shape [operations + 1, modulus]."""
        n = len(self.problem.operations)
        table = np.zeros((n + 1, self.world.modulus))
        table[n, self.problem.answer(self.world)] = 1.0
        for done in range(n - 1, -1, -1):
            for value in range(self.world.modulus):
                table[done, value] = self._state(done, value, table[done + 1])
        return table

    def _state(self, done: int, value: int, after: NDArray[np.float64]) -> float:
        direct = self._advance(done, value, after)
        if not is_hard(*self.problem.operations[done]):
            return direct
        split = self._simplify(done, value, after)
        if self.split_share is None:
            return max(direct, split)
        return (1 - self.split_share) * direct + self.split_share * split

    def _expect(self, left: int, operator: str, right: int, after: Callable[[int], float]) -> float:
        fact = self.world.fact(left, operator, right)
        if self.modal:
            return after(fact.wrong if fact.error > 0.5 else fact.right)
        return sum(p * after(result) for result, p in fact.results())

    def _advance(self, done: int, value: int, after: NDArray[np.float64]) -> float:
        return self._expect(value, *self.problem.operations[done], lambda result: float(after[result]))

    def _combine(self, done: int, value: int, half: int, after: NDArray[np.float64]) -> float:
        sign = SPLITS[self.problem.operations[done][1]][1]
        return self._expect(half, sign, value, lambda result: float(after[result]))

    def _simplify(self, done: int, value: int, after: NDArray[np.float64]) -> float:
        factor = SPLITS[self.problem.operations[done][1]][0]
        return self._expect(value, "*", factor, lambda half: self._combine(done, value, half, after))

    def of_choices(self, done: int, value: int) -> dict[str, float]:
        """Return the true value of either way to do a hard operation, by its tag.

        Args:
            done: Number of operations done before it.
            value: The value reached.
        """
        after = self.table[done + 1]
        return {
            "<advance>": self._advance(done, value, after),
            "<simplify>": self._simplify(done, value, after),
        }

    def after(self, part: Part, done: int, value: int, result: int) -> float:
        """Return the true value once a computation has stated a result.

        Args:
            part: The computation; its own result is not looked at.
            done: Number of operations done before it.
            value: The value reached before its operation.
            result: The result that it states.
        """
        following = self.table[done + 1]
        return self._combine(done, value, result, following) if part.kind == "simplify" else float(following[result])

    @property
    def start(self) -> float:
        """The value before anything is written."""
        return float(self.table[0, self.problem.start])

    def of_tokens(self, content: Content, form: Format) -> tuple[list[str], NDArray[np.float64]]:
        """Return the tokens of a solution, and the true value after each.

        The value changes where a choice is made: at the action tag of a tagged solution, at the number that is multiplied by
        elsewhere, and at every result.

        Args:
            content: Computations that follow the problem's operations in order, whatever their results, and the answer.
            form: The format.

        Returns:
            The tokens of all steps with a separator between them, shape [t], and the value after each, float64, shape [t].
        """
        texts = write_steps(content, form)
        values: list[float] = []
        current, done, value = self.start, 0, self.problem.start
        # Computations, one after the other: a tag or a number decides how, the last token decides the result.
        for part in content[0]:
            after = self.table[done + 1]
            if part.kind == "advance":
                chosen = self._advance(done, value, after)
            elif part.kind == "simplify":
                chosen = self._simplify(done, value, after)
            else:
                chosen = current
            reached = self.after(part, done, value, part.result)
            if part.kind != "simplify":
                done, value = done + 1, part.result
            # tag and letter, left, operator, right, link, result; prose has neither tag nor letter.
            head = {"tagged": [chosen, chosen], "plain": [current], "prose": []}[form]
            operand = chosen if form == "tagged" else current
            values += [*head, operand, operand, chosen, chosen, reached]
            current = reached
            values.append(current)  # the separator, or the word that joins two halves
        # The answer: it may differ from the value reached.
        final = float(content[1] == self.problem.answer(self.world))
        values += [*([current] if form == "tagged" else []), current, final, final]
        tokens = [token for text in _with_separators(texts) for token in text]
        return tokens, np.array(values)


def _with_separators(steps: Sequence[str]) -> list[list[str]]:
    return [[*(["\n\n"] if i else []), *step.split(" ")] for i, step in enumerate(steps)]


def true_advantages(values: NDArray[np.float64], start: float) -> NDArray[np.float64]:
    """Return the true advantage of each token: how much it changes the value.

    Args:
        values: The value after each token. Shape [t].
        start: The value before the first.
    """
    return np.diff(values, prepend=start)
