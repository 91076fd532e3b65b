"""Work shared between the processes of ``accelerate launch``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

WAIT = timedelta(hours=6)
"""How long processes wait for each other: as long as one of them evaluates or writes what all have made."""


@dataclass(frozen=True)
class Share:
    """This process among those that share the work.

    Attributes:
        rank: Number of this process, from 0 to `count` - 1.
        count: Number of processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def main(self) -> bool:
        """Whether this process is the one that reports and writes the entry."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


def current_share(cpu: bool = False) -> Share:
    """Find the share of this process; it joins the group where it was started as one of several.

    Args:
        cpu: Whether the group uses the CPU backend even where there is a GPU.

    Returns:
        The share.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Share()
    import torch
    from accelerate import PartialState

    # It would not join a group on a CPU by itself. The first to join says how long all wait, so no trainer can say it later.
    state = PartialState(cpu=cpu or not torch.cuda.is_available(), timeout=WAIT)
    return Share(state.process_index, state.num_processes)
