"""A step's rollouts: which prompts are kept, who works on which rows, what one minibatch is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

from prmbench.data.rollouts import Rollout
from prmbench.training.data.pairs import Response
from prmbench.training.rl.methods import Algorithm


class PromptSampler(Sampler[int]):
    """The prompts of each step, every one n times in a row, the whole step once for each of its micro-batches (as TRL's loader
    wants them); in an order that is of the seed and the epoch alone, so that a run goes on after a kill with the prompts it would
    have had. What does not fill a step is left out, and is in another epoch's order.
    """

    def __init__(self, n_prompts: int, per_step: int, n: int, parts: int, seed: int) -> None:
        self.n_prompts, self.per_step, self.n, self.parts, self.seed, self.epoch = (
            n_prompts,
            per_step,
            n,
            parts,
            seed,
            0,
        )

    def set_epoch(self, epoch: int) -> None:
        """Another order for another epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n_prompts // self.per_step * self.per_step * self.n * self.parts

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.n_prompts)
        for start in range(0, self.n_prompts - self.per_step + 1, self.per_step):
            step = np.repeat(order[start : start + self.per_step], self.n)
            yield from np.tile(step, self.parts).tolist()


@dataclass(frozen=True)
class Group:
    """All rollouts of one prompt. prompt: its token ids, int64."""

    prompt: NDArray[np.int64]
    rollouts: tuple[Rollout, ...]

    @property
    def accuracy(self) -> float:
        """mu(x): the share of right ones."""
        return sum(r.correct for r in self.rollouts) / len(self.rollouts)

    @property
    def truncated(self) -> bool:
        """Whether one of them was cut at the token limit."""
        return any(r.finish_reason == "length" for r in self.rollouts)


def keep_groups(groups: Sequence[Group], size: int, algorithm: Algorithm) -> list[Group]:
    """The first `size` prompts that can teach something: both outcomes among their rollouts, an accuracy that the method asks for.

    Too few: fewer are kept (preset ``released``: rejected ones fill the rest, and a prompt with a truncated rollout is rejected).
    """
    low, high = algorithm.needs.keep or (0.0, 1.0)
    details = algorithm.details

    def teaches(group: Group) -> bool:
        inside = 0 < group.accuracy < 1 and low <= group.accuracy <= high
        return inside and not (details.reject_truncated and group.truncated)

    kept = [group for group in groups if teaches(group)]
    if details.fill:
        kept += [group for group in groups if not teaches(group)]
    return kept[:size]


@dataclass(frozen=True)
class RolloutBatch:
    """The kept rollouts of a step, the same in every process.

    Attributes:
        responses: prompts with their rollouts, one a row. rewards: float32, shape [b]: 1 for a verified answer.
        groups: int64, shape [b]: number of the row's prompt. mask: bool, shape [b, t]: response tokens, first in their row.
        minibatches: rows of each, whole prompts together.
    """

    responses: list[Response]
    rewards: Tensor
    groups: Tensor
    mask: Tensor
    minibatches: list[list[int]]


def make_batch(groups: Sequence[Group], n_minibatches: int, seed: Sequence[int]) -> RolloutBatch:
    """Lay groups out as rows and deal prompts to minibatches at random."""
    rows = [(g, group.prompt, rollout) for g, group in enumerate(groups) for rollout in group.rollouts]
    counts = torch.tensor([len(rollout.ids) for _, _, rollout in rows])
    order = np.random.default_rng(list(seed)).permutation(len(groups))
    deal = [set(part.tolist()) for part in np.array_split(order, n_minibatches)]
    return RolloutBatch(
        responses=[Response(np.concatenate([prompt, one.ids]), len(prompt)) for _, prompt, one in rows],
        rewards=torch.tensor([float(one.correct) for _, _, one in rows]),
        groups=torch.tensor([g for g, _, _ in rows]),
        mask=torch.arange(int(counts.max()))[None, :] < counts[:, None],
        minibatches=[[i for i, (g, _, _) in enumerate(rows) if g in part] for part in deal],
    )


def share_rows(rows: Sequence[int], lengths: Sequence[int], rank: int, count: int, n_parts: int) -> list[list[int]]:
    """This process's rows of a minibatch, in n_parts micro-batches of rows of similar length; some may be empty."""
    longest_first = sorted(rows, key=lambda i: (-lengths[i], i))
    return [part.tolist() for part in np.array_split(np.array(longest_first[rank::count], dtype=np.int64), n_parts)]
