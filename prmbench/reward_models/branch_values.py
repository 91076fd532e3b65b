"""Token values of tokens that could follow a state, with the state run through the models once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prmbench.engines.hf.engine import HFEngine
from prmbench.errors import UserError, argument
from prmbench.reward_models.base import RewardModel
from prmbench.reward_models.implicit import ImplicitRewardModel

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def branching_model(model: RewardModel) -> ImplicitRewardModel:
    """Take a reward model as one that gives values of tokens that were not sampled.

    Args:
        model: The reward model.

    Raises:
        UserError: Its token values are no log-ratios, or its engine gives no hidden states.
    """
    if not isinstance(model, ImplicitRewardModel):
        raise UserError(
            f"{model.source}: a {model.kind} model; the probe needs values of tokens that were not sampled, which implicit models "
            f"(a log-ratio to a reference) give: pass one with {argument('reference')}"
        )
    if not isinstance(model.model, HFEngine):  # then the reference's is too: both engines are of one kind
        raise UserError(
            f"{model.source}: the probe needs hidden states of the reward model; load it with the hf engine"
        )
    return model


def branch_values(
    model: ImplicitRewardModel, states: Sequence[Integers], n_prompt: Sequence[int], tokens: Sequence[Integers]
) -> list[tuple[Floats, Floats]]:
    """Give log-ratios of the response tokens of each state, and of tokens that could come next.

    Args:
        model: The reward model, from `branching_model`.
        states: Token ids of prompt and response so far, each int64, shape [length].
        n_prompt: Number of tokens of the prompt in each state.
        tokens: Ids of next tokens for each state, int64, shape [k].

    Returns:
        For each state the values of its response tokens and those of the next tokens, before beta. float64, shapes
        [length - n_prompt] and [k].
    """
    engines = model.model, model.reference.engine()
    assert isinstance(engines[0], HFEngine)
    assert isinstance(engines[1], HFEngine)
    mine = _logprobs(engines[0], states, n_prompt, tokens)
    with model.reference.switched():
        theirs = _logprobs(engines[1], states, n_prompt, tokens)
    return [(a - c, b - d) for (a, b), (c, d) in zip(mine, theirs, strict=True)]


def _logprobs(
    engine: HFEngine, states: Sequence[Integers], n_prompt: Sequence[int], tokens: Sequence[Integers]
) -> list[tuple[Floats, Floats]]:
    # The engine gives the state before a token: a token after the last shows the state itself.
    longer = [np.append(state, 0) for state in states]
    found = engine.score(longer, n_prompt, frozenset({"logprob", "hidden"}))
    last = np.stack([one.hidden[-1] for one in found if one.hidden is not None])
    following = engine.next_logprobs(last, np.stack(tokens))
    return [(one.logprob[:-1], row) for one, row in zip(found, following, strict=True) if one.logprob is not None]
