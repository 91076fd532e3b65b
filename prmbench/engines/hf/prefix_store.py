"""What a decoder knows of prefixes: keys, values and last hidden states of tokens that have run, so that no prefix is run twice.

Prefixes are kept in a tree of token ids. Whatever sequences are asked about, the longest prefix of each that has run is found, and
the rest alone is run. A decoder is causal, so what follows a prefix changes nothing in it. That holds for any sequence of tokens: a
response that grows, or the steps of a solution with marks between them.

Where the state of an architecture cannot be kept so (sliding windows, recurrent states), or comes out otherwise than from the
whole sequence, sequences are run whole: results are right, and nothing is saved.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from prmbench.engines.hf.kv_cache import GrowingLayer, cache_argument, growing_cache
from prmbench.engines.hf.states import same_states

Ids = NDArray[np.int64]


@dataclass(eq=False)
class Node:
    """Tokens in a row that have run.

    Attributes:
        ids: The tokens. int64, shape [t].
        pairs: Their keys and values. Shape [layers, 2, heads, t, width of a head].
        hidden: Their last hidden states. Shape [t, width].
        children: What followed, by its first token.
    """

    ids: Ids
    pairs: torch.Tensor
    hidden: torch.Tensor
    children: dict[int, Node] = field(default_factory=dict)

    def split(self, at: int) -> None:
        """Make the tokens from a place on a child.

        Args:
            at: The place, from 1 to all tokens but one.
        """
        rest = Node(self.ids[at:], self.pairs[..., at:, :], self.hidden[at:], self.children)
        self.ids, self.pairs, self.hidden = self.ids[:at], self.pairs[..., :at, :], self.hidden[:at]
        self.children = {int(rest.ids[0]): rest}


@dataclass(eq=False)
class Prefix:
    """The part of a sequence that has run.

    Attributes:
        length: Its number of tokens.
        parts: The nodes that it goes through, and how many tokens of each belong to it.
    """

    length: int = 0
    parts: list[tuple[Node, int]] = field(default_factory=list)

    def hidden(self) -> list[torch.Tensor]:
        """Last hidden states of its tokens, in pieces. Shape of each [t, width]."""
        return [node.hidden[:used] for node, used in self.parts]


class PrefixStore:
    """Keeps what a decoder knows of prefixes.

    Attributes:
        trunk: The decoder.
        device: Where it computes.
        works: Whether states are kept; otherwise sequences are run whole.
        argument: Name under which the decoder takes its cache; empty: it takes none.
        tokens: Number of tokens that have run, without padding.
        checked_tokens: Number of tokens that were run once more, to see that states are right.
    """

    def __init__(self, trunk: torch.nn.Module, device: torch.device) -> None:
        """Start with nothing.

        Args:
            trunk: The decoder.
            device: Where it computes.
        """
        self.trunk, self.device = trunk, device
        self.tokens, self.checked_tokens = 0, 0
        layers = growing_cache(trunk.config).layers
        self.argument = cache_argument(trunk) or ""
        self.works = bool(self.argument and layers) and all(type(layer) is GrowingLayer for layer in layers)
        self._checked: set[tuple[bool, bool]] = set()
        self._roots: dict[int, Node] = {}

    # The tree

    def find(self, ids: Ids) -> Prefix:
        """Find the longest prefix of a sequence that has run.

        Args:
            ids: The sequence. int64, shape [length].
        """
        found, children = Prefix(), self._roots
        while found.length < len(ids) and (node := children.get(int(ids[found.length]))) is not None:
            rest = ids[found.length :][: len(node.ids)]
            same = node.ids[: len(rest)] == rest
            used = len(rest) if same.all() else int(same.argmin())
            found.parts.append((node, used))
            found.length += used
            if used < len(node.ids):
                break
            children = node.children
        return found

    def add(self, ids: Ids, start: int, pairs: torch.Tensor, hidden: torch.Tensor) -> None:
        """Keep the state of tokens that have run after a prefix that is there.

        Args:
            ids: The sequence, from its beginning. int64, shape [length].
            start: Length of the prefix.
            pairs: Keys and values of the tokens from there on. Shape [layers, 2, heads, length - start, width of a head].
            hidden: Their last hidden states. Shape [length - start, width].
        """
        found = self.find(ids)
        if found.length == len(ids):
            return
        children = self._roots
        if found.parts:
            node, used = found.parts[-1]
            if used < len(node.ids):
                node.split(used)
            children = node.children
        new = found.length - start
        children[int(ids[found.length])] = Node(ids[found.length :], pairs[..., new:, :].clone(), hidden[new:].clone())

    def keep(self, sequences: Iterable[Ids]) -> None:
        """Forget everything but what some sequences go through.

        Args:
            sequences: The sequences.
        """
        wanted = {id(node) for ids in sequences for node, _ in self.find(ids).parts}

        def prune(children: dict[int, Node]) -> dict[int, Node]:
            for node in (kept := {key: one for key, one in children.items() if id(one) in wanted}).values():
                node.children = prune(node.children)
            return kept

        self._roots = prune(self._roots)

    # Running

    @torch.inference_mode()
    def advance(self, sequences: Sequence[Ids]) -> None:
        """Run what has not run of some sequences, to their ends.

        Args:
            sequences: The sequences; each is run once, however often it is there.
        """
        if self.works:
            self._run(list({ids.tobytes(): ids for ids in sequences}.values()))

    @torch.inference_mode()
    def states(self, sequences: Sequence[Ids], positions: Sequence[NDArray[np.int64]]) -> torch.Tensor:
        """Give last hidden states at some positions, as `prmbench.engines.hf.engine.states_at` does.

        Args:
            sequences: Token ids of each sequence. int64, shape [length].
            positions: Positions in each sequence. int64, shape [n].

        Returns:
            Shape [sum of n, width], in the order given. The dtype is that of the model.
        """
        needed = [ids[: int(at.max(initial=-1)) + 1] for ids, at in zip(sequences, positions, strict=True)]
        self.advance([ids for ids in needed if len(ids)])
        if not self.works:
            return self._whole(sequences, positions)
        picked = []
        for ids, at in zip(needed, positions, strict=True):
            if len(at):
                whole = torch.cat(self.find(ids).hidden())
                picked.append(whole[torch.from_numpy(at).to(self.device)])
        return torch.cat(picked)

    def _whole(self, sequences: Sequence[Ids], positions: Sequence[NDArray[np.int64]]) -> torch.Tensor:
        from prmbench.engines.hf.engine import states_at

        self.tokens += sum(map(len, sequences))
        return states_at(self.trunk, self.device, sequences, positions)

    def cache_of(self, prefixes: Sequence[Prefix]) -> tuple[DynamicCache, torch.Tensor]:
        """Lay prefixes side by side in a cache, padded on the left.

        Args:
            prefixes: The prefixes.

        Returns:
            The cache, and where it holds tokens: int64, shape [rows, longest].
        """
        cache = growing_cache(self.trunk.config)
        longest = max(prefix.length for prefix in prefixes)
        mask = torch.zeros((len(prefixes), longest), dtype=torch.long, device=self.device)
        if longest:
            like = next(node.pairs for prefix in prefixes for node, _ in prefix.parts)
            n_layers, _, heads, _, width = like.shape
            side = like.new_zeros((n_layers, 2, len(prefixes), heads, longest, width))
            for row, prefix in enumerate(prefixes):
                at = longest - prefix.length
                mask[row, at:] = 1
                for node, used in prefix.parts:
                    side[:, :, row, :, at : at + used] = node.pairs[..., :used, :]
                    at += used
            for layer, (keys, values) in zip(cache.layers, side, strict=True):
                layer.update(keys, values)
        return cache, mask

    def _run(self, sequences: Sequence[Ids]) -> None:
        """Run what has not run of different sequences, as one batch."""
        todo = [(ids, prefix) for ids in sequences if (prefix := self.find(ids)).length < len(ids)]
        if not todo:
            return
        # What has run on the left, what is to run on the right.
        cache, before = self.cache_of([prefix for _, prefix in todo])
        new = [len(ids) - prefix.length for ids, prefix in todo]
        ids = torch.zeros((len(todo), max(new)), dtype=torch.long)
        now = torch.zeros_like(ids)
        for row, (one, prefix) in enumerate(todo):
            ids[row, : new[row]] = torch.from_numpy(one[prefix.length :])
            now[row, : new[row]] = 1
        mask = torch.cat([before, now.to(self.device)], dim=1)
        positions = torch.tensor([prefix.length for _, prefix in todo])[:, None] + torch.arange(max(new))
        padded = bool((mask == 0).any())
        states = self.trunk(
            input_ids=ids.to(self.device),
            attention_mask=mask if padded else None,
            position_ids=positions.to(self.device),
            use_cache=True,
            **{self.argument: cache},
        ).last_hidden_state
        longest = before.shape[1]
        if not self._holds(cache, [(one, states[row, new[row] - 1]) for row, (one, _) in enumerate(todo)], before):
            self.works, self._roots = False, {}
            return
        # Each row's own part is kept.
        self.tokens += sum(new)
        pairs = stacked(cache, longest)
        for row, (one, prefix) in enumerate(todo):
            self.add(one, prefix.length, pairs[:, :, row, :, : new[row]], states[row, : new[row]])

    def _holds(self, cache: DynamicCache, last: Sequence[tuple[Ids, torch.Tensor]], before: torch.Tensor) -> bool:
        """Whether the cache was written, and the state after the row with the least in it is that of the whole row run again.

        It is looked at once for each way of batching. Arguments: the rows with their last states, and where the cache held tokens.
        """
        longest = before.shape[1]
        if any(layer.keys is None or layer.keys.shape[2] <= longest for layer in cache.layers):
            return False
        way = (len(last) > 1, bool((before == 0).any()))
        if not longest or way in self._checked:
            return True
        self._checked.add(way)
        ids, state = last[int(before.sum(dim=1).argmin())]
        self.checked_tokens += len(ids)
        tokens = torch.from_numpy(ids)[None].to(self.device)
        whole = self.trunk(input_ids=tokens, use_cache=False).last_hidden_state[0, -1]
        return same_states(state, whole)


def stacked(cache: DynamicCache, start: int, rows: Sequence[int] | slice = slice(None)) -> torch.Tensor:
    """Give the keys and values of a cache from a column on.

    Args:
        cache: The cache.
        start: The column.
        rows: The rows that are wanted; all of them by default.

    Returns:
        Shape [layers, 2, rows, heads, columns, width of a head].
    """
    return torch.stack(
        [torch.stack([layer.keys[rows, :, start:], layer.values[rows, :, start:]]) for layer in cache.layers]
    )
