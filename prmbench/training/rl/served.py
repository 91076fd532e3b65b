"""A reward model that a server holds (`prmbench serve`), in a policy-optimisation run. It is frozen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from prmbench.engines.load import LoadOptions
from prmbench.engines.tokenizer import load_tokenizer
from prmbench.errors import UserError
from prmbench.reward_models.remote import RemoteRewardModel, RewardServer, vocabulary_hash
from prmbench.training.rl.reward import RewardOptions


def check_served(options: RewardOptions, *, candidates: bool, method: str) -> None:
    """Refuse what a server cannot do, before it is asked anything.

    Args:
        options: The recipe's part about the reward model.
        candidates: Whether the method needs values of candidates.
        method: Name of the method.

    Raises:
        UserError: The reward model is to be updated, or to be a ratio against another model, or the method needs more than values
            of sampled tokens.
    """
    if options.update != "frozen":
        raise UserError(
            f"reward_model.update {options.update}: {options.model} is a server, whose model is never updated; set frozen, or "
            "name a checkpoint"
        )
    if candidates:
        raise UserError(
            f"method {method}: needs values of candidate tokens, {options.model} is a server and gives those of sampled tokens; "
            "name a checkpoint, or take method grpo"
        )
    if options.reference != "old" or options.objective is not None:
        name = "objective" if options.reference == "old" else "reference"
        raise UserError(
            f"reward_model.{name}: {options.model} is a server, which was started with its own; leave it out"
        )


def connect(
    options: RewardOptions, policy: Path, load: LoadOptions, *, longest: int, log: Callable[[str], None]
) -> RemoteRewardModel:
    """Ask a server what it holds, and check that it fits the policy.

    Args:
        options: The recipe's part about the reward model.
        policy: Folder of the policy.
        load: Whether code that a checkpoint carries may run.
        longest: Tokens of the longest rollout with its prompt.
        log: Called with a line about what it is.

    Returns:
        The reward model.

    Raises:
        UserError: It cannot be reached, or is of another kind than the recipe says, or does not fit the policy.
    """
    model = RemoteRewardModel(RewardServer(options.model, options.key_variable))
    url, kind = model.source, model.card.kind
    if options.kind not in (None, kind):
        raise UserError(f"reward_model.kind {options.kind}: {url} serves a model of kind {kind}; leave it out")
    if model.served.vocabulary != vocabulary_hash(load_tokenizer(policy, load).get_vocab()):
        raise UserError(
            f"{policy} and the model that {url} serves differ in their vocabularies; token ids mean other tokens there"
        )
    if longest > model.served.max_length:
        raise UserError(
            f"a rollout may have {longest:,} tokens with its prompt, {url} takes {model.served.max_length:,}; lower "
            "max_new_tokens, or serve with --max-tokens"
        )
    against = f", a log-ratio to {model.served.subject.reference}, not to pi_old" if kind == "implicit" else ""
    log(f"reward model: {model.served.subject.name} ({kind}{against}), served at {url}")
    return model
