"""Where a step of a response ends, seen from its tokens as they are sampled."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase


class StepEnds:
    """Says whether the tokens of a step have ended it.

    A step ends with the token in which a marker ends: a blank line by default, or a tag or another text. What comes before the
    first word of a step is no end, so several blank lines are one.

    Attributes:
        markers: The texts that end a step.
        longest: Most tokens of a step, which is cut there; 0: it may have any number.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, markers: Sequence[str], longest: int = 0) -> None:
        """Look at the vocabulary when it is first needed.

        Args:
            tokenizer: The policy's tokenizer.
            markers: The texts that end a step; none of them is empty.
            longest: Most tokens of a step; 0: any number.
        """
        self.tokenizer, self.markers, self.longest = tokenizer, tuple(markers), longest
        self._last: dict[int, bool] = {}

    def ended(self, ids: list[int]) -> bool:
        """Say whether a step has ended with its last token.

        Args:
            ids: Token ids of the step so far, at least one.
        """
        if self.longest and len(ids) >= self.longest:
            return True
        if not self.may_end(ids[-1]):
            return False
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        words = text[len(text) - len(text.lstrip()) :]
        return any(marker in words for marker in self.markers)

    def may_end(self, token: int) -> bool:
        """Say whether a marker may end in a token: whether the last letter of one is in its text, or it is a part of a letter.

        Args:
            token: The token's id.
        """
        if token not in self._last:
            text = self.tokenizer.decode([token])
            self._last[token] = "\ufffd" in text or any(marker[-1] in text for marker in self.markers)
        return self._last[token]

    @cached_property
    def ending(self) -> NDArray[np.int64]:
        """All tokens that a marker may end in, in ascending order. int64."""
        known = sorted(set(self.tokenizer.get_vocab().values()))
        return np.array([token for token in known if self.may_end(token)], dtype=np.int64)
