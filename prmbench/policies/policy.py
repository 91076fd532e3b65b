"""A policy: a language model that is ready to sample completions."""

from __future__ import annotations

from dataclasses import dataclass, field

from prmbench.data.prompts import PromptTemplate
from prmbench.data.tokens import TokenOptions, TraceEncoder
from prmbench.engines.checkpoint import checkpoint_hash, locate
from prmbench.engines.load import LoadOptions
from prmbench.engines.registry import load_engine
from prmbench.engines.tokenizer import load_tokenizer
from prmbench.engines.types import Engine


@dataclass
class Policy:
    """A policy that is ready to sample.

    Attributes:
        engine: The engine that holds its weights.
        encoder: Renders and tokenizes its prompts.
        source: The checkpoint, as the user named it.
        hashed: sha256 of its weights.
        stop: Token ids that end a completion.
    """

    engine: Engine
    encoder: TraceEncoder
    source: str
    hashed: str
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
        source: A checkpoint folder or a Hub id.
        prompt: How problems are put to it.
        load_options: Where and how its weights are loaded; None: as `LoadOptions` has it.
        chat_template: A Jinja chat template; None: that of the tokenizer.
        engine: Name of the engine.
        tokens: How its conversations are rendered, apart from the system message, which the prompt has; None: as `TokenOptions` has
            it.

    Returns:
        The policy.

    Raises:
        UserError: There is no such checkpoint, or it cannot be loaded.
    """
    options = load_options or LoadOptions()
    folder = locate(source, "policy")
    rendered = (tokens or TokenOptions()).model_copy(update={"system": prompt.system})
    encoder = TraceEncoder(load_tokenizer(folder, options), rendered, chat_template)
    return Policy(load_engine(engine, folder, options, source), encoder, source, checkpoint_hash(folder))
