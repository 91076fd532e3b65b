"""The model that a run starts from, ready to be trained and to be saved."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from prmbench.engines.load import load_causal_lm
from prmbench.errors import UserError
from prmbench.training.model.launch import launch_divides
from prmbench.training.recipes.optimisation import Optimisation

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

LEAST_MOVED = 0.9
SAMPLED = 1 << 20


def load_start(recipe: Optimisation, folder: Path, *, train: bool = True) -> PreTrainedModel:
    """Load a checkpoint that a run trains, or merges an adapter into.

    Args:
        recipe: The recipe; it says the weights' type, and whether all weights are trained.
        folder: The checkpoint.
        train: Whether it is to be trained, and computes as the recipe says; else it is loaded on the CPU, beside the model in
            training.

    Returns:
        The model, with generation settings that can be saved.

    Raises:
        UserError: The checkpoint is broken, or its type is too coarse for the updates.
    """
    options = recipe.load_options if train else recipe.scoring_options
    options = dataclasses.replace(options, dtype=str(options.resolve_dtype()).removeprefix("torch."))
    # Of a model that is divided, each layer goes to the device when it is divided.
    away = not train or launch_divides()
    model = load_causal_lm(folder, dataclasses.replace(options, device="cpu") if away else options)
    mend_generation_settings(model)
    if train and recipe.lora is None and options.dtype != "float32":
        check_moved(model, recipe.learning_rate)
    return model


def mend_generation_settings(model: PreTrainedModel) -> None:
    """Make generation settings such that transformers saves them; those of some public checkpoints are not.

    A temperature without ``do_sample`` (Llama-2-chat) gains it. Of settings that are wrong otherwise only the token ids stay.

    Args:
        model: The model; its settings are changed in place.
    """
    from transformers import GenerationConfig

    own = model.generation_config
    ids = {name: value for name, value in own.to_diff_dict().items() if name.endswith("_token_id")}
    for found in (own, GenerationConfig.from_dict({**own.to_dict(), "do_sample": True}), GenerationConfig(**ids)):
        try:
            found.validate(strict=True)
        except ValueError:
            continue
        model.generation_config = found
        return


def check_moved(model: PreTrainedModel, learning_rate: float) -> None:
    """Refuse weights of half precision that an update would hardly change.

    An update of AdamW is about as large as the learning rate, whatever the gradient. Where that is less than half of the distance
    to the next number of the type, the weight stays as it is.

    Args:
        model: The model whose weights are all trained.
        learning_rate: The learning rate.

    Raises:
        UserError: Less than nine tenths of the weights would move.
    """
    import torch

    weights = torch.cat([parameter.detach().flatten() for parameter in _sampled(model)])
    share, in_float32 = moved(weights, learning_rate), moved(weights.float(), learning_rate)
    if share < LEAST_MOVED:
        kind = str(weights.dtype).removeprefix("torch.")
        raise UserError(
            f"dtype {kind}: at learning_rate {learning_rate:g} an update moves {share:.1%} of the weights (in float32 "
            f"{in_float32:.1%}); set dtype float32, which computes in bfloat16 all the same where bf16 is true, or train an adapter"
        )


def moved(weights: Tensor, step: float) -> float:
    """Return the share of weights that a step up or down changes in their own type.

    Args:
        weights: Weights of one type. Shape [n].
        step: The size of the step.
    """
    wide = weights.double()
    changed = [(wide + sign * step).to(weights.dtype) != weights for sign in (1, -1)]
    return float(sum(one.double().mean() for one in changed)) / 2


def _sampled(model: PreTrainedModel) -> list[Tensor]:
    """Weights at equal distances, about a million of all."""
    stride = max(1, sum(p.numel() for p in model.parameters()) // SAMPLED)
    return [p.flatten()[::stride] for p in model.parameters()]
