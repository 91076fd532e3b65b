"""A policy: a language model that is ready to sample completions."""

from __future__ import annotations

from dataclasses import dataclass, field

from prmbench.data.prompts import PromptTemplate
from prmbench.data.tokens import TokenOptions, TraceEncoder
from prmbench.engines.choose import load_engine
from prmbench.engines.loading import LoadOptions, checkpoint_hash, load_tokenizer, locate
from prmbench.engines.types import Engine


@dataclass
class Policy:
    """A policy ready to sample.

    Attributes:
        engine, encoder: its weights and tokenizer. source: as the user named it. hashed: sha256 of the weights.
        stop: token ids that end a completion.
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
    """Load a policy from a folder or Hub id into an engine. tokens: how its conversations are rendered, but for the system message,
    which the prompt has. Raises UserError as `load_engine` and `TraceEncoder` do."""
    options = load_options or LoadOptions()
    folder = locate(source, "--policy")
    rendered = (tokens or TokenOptions()).model_copy(update={"system": prompt.system})
    encoder = TraceEncoder(load_tokenizer(folder, options), rendered, chat_template)
    return Policy(load_engine(engine, folder, options, source), encoder, source, checkpoint_hash(folder))
