"""Work shared between the processes of ``accelerate launch``."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """This process among those that share the work.

    Attributes:
        rank: 0 to count - 1; rank 0 reports and writes the entry. count: number of processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def main(self) -> bool:
        """Whether this process reports and writes the entry."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


def current_share(cpu: bool = False) -> Share:
    """The share of this process; joins the group when it was started as one of several.

    Args:
        cpu: join with the CPU backend even where there is a GPU.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Share()
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=cpu or not torch.cuda.is_available())  # it would not join a group on a CPU by itself
    return Share(state.process_index, state.num_processes)
