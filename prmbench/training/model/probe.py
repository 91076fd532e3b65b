"""A probe: what a model says of a fixed sequence, so that what is written can be compared with what was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prmbench.errors import UserError

PROBE_NAME = "probe.npy"
LENGTH = 32
TOLERANCE, HALF_TOLERANCE = 1e-3, 0.1
"""Largest mean difference of a value, in nats, between a model and the same one read back: in float32, and in half precision."""


@torch.no_grad()
def probe(model: Any, *, has_head: bool = False) -> NDArray[np.float64]:
    """Score a fixed sequence of tokens.

    Args:
        model: A causal language model, perhaps wrapped for several processes.
        has_head: Whether its forward gives the values of a head instead (`prmbench.training.model.forward.give_values`).

    Returns:
        Log-probs, or values, of the sequence's tokens after the first. float64, shape [t].
    """
    was_training = model.training
    model.eval()
    embedding = getattr(model, "module", model).get_input_embeddings().weight
    vocabulary = getattr(embedding, "ds_shape", embedding.shape)[0]  # ZeRO-3 empties what it has not gathered
    ids = ((torch.arange(LENGTH) * 7919 + 11) % vocabulary).to(embedding.device)
    columns = torch.arange(1, LENGTH, device=ids.device)
    if has_head:
        values = model(input_ids=ids[None], rows=torch.zeros_like(columns), columns=columns)["values"]
    else:
        logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1].double()
        values = logits.log_softmax(dim=-1).gather(1, ids[1:, None])[:, 0]
    model.train(was_training)
    found: NDArray[np.float64] = values.double().cpu().numpy()
    return found


def compare_probes(trained: NDArray[np.float64], written: NDArray[np.float64], place: Path, *, half: bool) -> None:
    """Compare what was trained with what was written.

    Args:
        trained: The probe of the model in training. float64, shape [t].
        written: The probe of the same model read back. float64, shape [t].
        place: Folder of the checkpoint that was written.
        half: Whether one of them was computed in half precision.

    Raises:
        UserError: They differ by more than rounding.
    """
    difference = float(np.mean(np.abs(trained - written)))
    if not difference <= (HALF_TOLERANCE if half else TOLERANCE):
        raise UserError(
            f"{place}: what is written there is not what was trained: values of a probe differ by {difference:.3g} on average "
            f"({np.mean(trained):.4f} in training, {np.mean(written):.4f} read back)"
        )
