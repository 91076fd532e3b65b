"""A policy: a language model that is ready to sample completions."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from prmbench.data.prompts import PromptTemplate
from prmbench.data.revisions import snapshot_commit
from prmbench.data.tokens import TokenOptions, TraceEncoder
from prmbench.engines.checkpoint import checkpoint_hash, locate
from prmbench.engines.load import LoadOptions
from prmbench.engines.registry import load_engine
from prmbench.engines.tokenizer import load_tokenizer, token_ids
from prmbench.engines.types import Engine
from prmbench.policies.prompt_record import PromptRecord, prompt_differences


@dataclass
class Policy:
    """A policy that is ready to sample.

    Attributes:
        engine: The engine that holds its weights.
        encoder: Renders and tokenizes its prompts.
        source: The checkpoint, as the user named it.
        hashed: sha256 of its weights.
        warnings: What puts its figures at risk, in whole sentences.
        commit: Commit of its repository on the Hub; None of a local folder.
        stop: Token ids that end a completion.
    """

    engine: Engine
    encoder: TraceEncoder
    source: str
    hashed: str
    warnings: Sequence[str] = ()
    commit: str | None = None
    stop: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        self.stop = frozenset({self.encoder.end_of_turn, *self.engine.eos_ids()})


def load_policy(
    source: str,
    prompt: PromptTemplate,
    load_options: LoadOptions | None = None,
    chat_template: str | None = None,
    engine: str = "hf",
    tokens: TokenOptions | None = None,
) -> Policy:
    """Load a policy into an engine.

    Args:
        source: A checkpoint folder or a Hub id; with the engine api, a model as the server calls it.
        prompt: How problems are put to it.
        load_options: Where and how its weights are loaded; None: as `LoadOptions` has it.
        chat_template: A Jinja chat template, or the name of one that the tokenizer has; None: that of the tokenizer.
        engine: Name of the engine.
        tokens: How its conversations are rendered; None: as `TokenOptions` has it. Where they name no system message, it is that of
            the prompt.

    Returns:
        The policy.

    Raises:
        UserError: There is no such checkpoint, or it cannot be loaded.
    """
    options = load_options or LoadOptions()
    if engine == "api":
        from prmbench.engines.api.engine import chat_encoder, hosted

        tokens = (tokens or TokenOptions()).with_system(prompt.system)
        model = hosted(source, options.service)
        return Policy(model, chat_encoder(tokens, chat_template), source, model.identity)
    encoder, folder = policy_encoder(source, prompt, options, chat_template, tokens), locate(source, "policy")
    warnings = [*encoder.warnings, *prompt_differences(folder, PromptRecord.of(encoder, [prompt.name]))]
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    hashed = checkpoint_hash(folder)
    allowed = token_ids(encoder.tokenizer)
    loaded = load_engine(engine, folder, options, source, allowed=allowed)
    return Policy(loaded, encoder, source, hashed, warnings, snapshot_commit(folder))


def policy_encoder(
    source: str,
    prompt: PromptTemplate,
    load_options: LoadOptions,
    chat_template: str | None = None,
    tokens: TokenOptions | None = None,
) -> TraceEncoder:
    """Make what renders and tokenizes a policy's prompts. No weights are loaded.

    Args:
        source: A checkpoint folder or a Hub id.
        prompt: How problems are put to it.
        load_options: Where and how its weights are loaded.
        chat_template: See `load_policy`.
        tokens: See `load_policy`.

    Raises:
        UserError: There is no such checkpoint, or it has no tokenizer or chat template.
    """
    tokenizer = load_tokenizer(locate(source, "policy"), load_options)
    return TraceEncoder(tokenizer, (tokens or TokenOptions()).with_system(prompt.system), chat_template)
