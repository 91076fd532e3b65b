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
    """The prompts of each step, in the layout that TRL's loader wants.

    Each prompt comes as often in a row as it has rollouts, and the whole step once for each of its micro-batches. The order
    depends on the seed and the epoch alone, so that a run goes on after a kill with the prompts that it would have had.
    Prompts that do not fill a step are left out, and have their turn in another epoch's order.
    """

    def __init__(self, n_prompts: int, per_step: int, n: int, parts: int, seed: int) -> None:
        """Make a sampler.

        Args:
            n_prompts: Number of prompts to train on.
            per_step: Prompts that a step samples, over all processes.
            n: Rollouts of a prompt.
            parts: Micro-batches of a step.
            seed: Seed of the order.
        """
        self.n_prompts, self.per_step, self.n, self.parts = n_prompts, per_step, n, parts
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Change to the order of another epoch.

        Args:
            epoch: Number of the epoch, from 0.
        """
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n_prompts // self.per_step * self.per_step * self.n * self.parts

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.n_prompts)
        for start in range(0, self.n_prompts - self.per_step + 1, self.per_step):
            step = np.repeat(order[start : start + self.per_step], self.n)
            yield from np.tile(step, self.parts).tolist()


@dataclass(frozen=True)
class PromptGroup:
    """All rollouts of one prompt.

    Attributes:
        prompt: Token ids of the prompt. int64.
        rollouts: The rollouts.
        sampled: Log-probs of the rollouts' tokens that the sampler returned, NaN where it returned none. float32; None where
            the sampler computes as the trainer does, and nothing is to be compared.
    """

    prompt: NDArray[np.int64]
    rollouts: tuple[Rollout, ...]
    sampled: tuple[NDArray[np.float32], ...] | None = None

    @property
    def accuracy(self) -> float:
        """mu(x), the share of right rollouts."""
        return sum(r.correct for r in self.rollouts) / len(self.rollouts)

    @property
    def truncated(self) -> bool:
        """Whether one of the rollouts was cut at the token limit."""
        return any(r.finish_reason == "length" for r in self.rollouts)


def keep_groups(groups: Sequence[PromptGroup], size: int, algorithm: Algorithm) -> list[PromptGroup]:
    """Keep the first prompts that can teach something.

    Such a prompt has both outcomes among its rollouts, and an accuracy that the method asks for. The preset ``released`` also
    rejects a prompt with a truncated rollout, and fills the rest of the batch with rejected prompts.

    Args:
        groups: All prompts that were sampled.
        size: How many to keep.
        algorithm: The method and its numbers.

    Returns:
        The kept prompts, fewer than `size` where there are not enough.
    """
    low, high = algorithm.rules.keep
    details = algorithm.details

    def teaches(group: PromptGroup) -> bool:
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
        responses: Prompts with their rollouts, one a row.
        rewards: 1 for a verified answer, else 0. float32, shape [b].
        groups: Number of each row's prompt. int64, shape [b].
        mask: Response tokens, which come first in a row. Bool, shape [b, t].
        minibatches: Rows of each minibatch. All rows of a prompt are in one.
        sampled: Log-probs that the sampler returned, NaN where it returned none. float32, shape [b, t]; None: see
            `PromptGroup.sampled`.
    """

    responses: list[Response]
    rewards: Tensor
    groups: Tensor
    mask: Tensor
    minibatches: list[list[int]]
    sampled: Tensor | None = None


def make_batch(groups: Sequence[PromptGroup], n_minibatches: int, seed: Sequence[int]) -> RolloutBatch:
    """Lay prompts out as rows, and deal them to minibatches at random.

    Args:
        groups: The kept prompts.
        n_minibatches: Number of minibatches.
        seed: Seed of the dealing.

    Returns:
        The batch.
    """
    rows = [(g, group.prompt, rollout) for g, group in enumerate(groups) for rollout in group.rollouts]
    counts = torch.tensor([len(rollout.ids) for _, _, rollout in rows])
    order = np.random.default_rng(list(seed)).permutation(len(groups))
    mask = torch.arange(int(counts.max()))[None, :] < counts[:, None]
    returned = [one for group in groups if group.sampled is not None for one in group.sampled]
    sampled = None
    if len(returned) == len(rows):
        sampled = torch.zeros(mask.shape)
        sampled[mask] = torch.from_numpy(np.concatenate(returned))
    deal = [set(part.tolist()) for part in np.array_split(order, n_minibatches)]
    return RolloutBatch(
        responses=[Response(np.concatenate([prompt, one.ids]), len(prompt)) for _, prompt, one in rows],
        rewards=torch.tensor([float(one.correct) for _, _, one in rows]),
        groups=torch.tensor([g for g, _, _ in rows]),
        mask=mask,
        minibatches=[[i for i, (g, _, _) in enumerate(rows) if g in part] for part in deal],
        sampled=sampled,
    )


def share_rows(rows: Sequence[int], lengths: Sequence[int], rank: int, count: int, n_parts: int) -> list[list[int]]:
    """Choose this process's rows of a minibatch, and split them into micro-batches of rows of similar length.

    Args:
        rows: Rows of the minibatch.
        lengths: Lengths of all rows of the batch, in tokens.
        rank: Number of this process.
        count: Number of processes.
        n_parts: Number of micro-batches.

    Returns:
        Rows of each micro-batch; some may be empty.
    """
    longest_first = sorted(rows, key=lambda i: (-lengths[i], i))
    return [part.tolist() for part in np.array_split(np.array(longest_first[rank::count], dtype=np.int64), n_parts)]
