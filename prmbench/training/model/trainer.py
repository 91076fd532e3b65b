"""What all trainers share."""

from __future__ import annotations

from typing import Any

from transformers import PrinterCallback, Trainer


class QuietTrainer(Trainer):
    """A transformers Trainer that prints nothing by itself; progress is shown by a callback of ours."""

    def __init__(self, **arguments: Any) -> None:
        """Make the trainer.

        Args:
            **arguments: Arguments of the trainer that this class stands before.
        """
        super().__init__(**arguments)
        self.remove_callback(PrinterCallback)
