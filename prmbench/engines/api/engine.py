"""An engine that is a server: texts go there and back, and stand for token ids as the bytes that they consist of.

A hosted model's own tokens are not known here. So a prompt is its conversation in JSON, an id is a byte of UTF-8, and lengths
count bytes. What the server counts as tokens is in `Client.usage`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from prmbench.data.tokens import TokenOptions, TraceEncoder
from prmbench.engines.api.service import Client, Reply, Service
from prmbench.engines.sampling import Completion, Request, SamplingParams, request_seed
from prmbench.engines.types import Quantity, TokenScores
from prmbench.errors import ArgumentError

END, END_NAME = 256, "<end>"
"""The id that ends a completion; the others are bytes."""
_BYTES = [*(bytes([i]) for i in range(256)), END_NAME.encode()]


def chat_encoder(options: TokenOptions, chat_template: str | None = None) -> TraceEncoder:
    """Make the encoder of conversations with a server.

    Args:
        options: Its system message is sent; arguments of a chat template cannot be.
        chat_template: What the user asks for; only None will do, since the server has its own.

    Raises:
        ArgumentError: A chat template or arguments of one.
    """
    if chat_template is not None:
        raise ArgumentError("chat_template", None, "the server renders conversations itself; leave it out")
    if options.template_args:
        raise ArgumentError("template_arg", None, "the server renders conversations itself; leave it out")
    letters = {letter: i for i, letter in enumerate(_letters())}
    bytewise = Tokenizer(models.BPE({**letters, END_NAME: END}, []))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bytewise.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytewise, eos_token=END_NAME)
    tokenizer.chat_template = "{{ messages | tojson }}"
    return TraceEncoder(tokenizer, options.model_copy(update={"end_of_turn": END_NAME}))


def _letters() -> list[str]:
    """The letter that stands for each byte in byte-level tokenizers, in the order of the bytes."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in shown]
    letters = {byte: chr(byte) for byte in shown} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)]


class ApiEngine:
    """A model behind a server of chat completions.

    Attributes:
        name: Name of the engine.
        source: The model, as the server calls it.
        provides: Quantities that `score` gives: none.
        client: Asks the server.
        served: The model that the server says it is.
    """

    name = "api"
    provides: frozenset[Quantity] = frozenset()

    def __init__(self, source: str, service: Service, client: Client | None = None) -> None:
        """Ask for one token, so that a wrong address, key or name shows before any work.

        Args:
            source: The model, as the server calls it.
            service: The server, and how it is asked.
            client: Asks it; None: one of the service.

        Raises:
            UserError: The server cannot be reached, or refuses.
        """
        self.source, self.client = source, client or Client(service, source)
        hello = [{"role": "user", "content": "Say yes."}]
        self.served = self.client.ask(hello, limit=16, sample=0, settings={}).model or source
        self.client.usage.update(dict.fromkeys(self.client.usage, 0))

    @property
    def vocabulary(self) -> int:
        """Number of ids: bytes, and the end."""
        return END + 1

    @property
    def max_length(self) -> int | None:
        """Longest sequence; not known."""
        return None

    @property
    def identity(self) -> str:
        """Stand-in for a hash of weights: sha256 of the address and the model that it says it is."""
        return hashlib.sha256(json.dumps([self.client.service.public_address, self.served]).encode()).hexdigest()

    def device_and_dtype(self) -> tuple[str, str]:
        """Say where the model computes and in what type: that is not known."""
        return "remote", "unknown"

    def facts(self) -> dict[str, Any]:
        """Say the server and the model that it says it is, for provenance."""
        return {
            "engine": "api",
            "base_url": self.client.service.public_address,
            "served_model": self.served,
            "identity": self.identity,
        }

    def eos_ids(self) -> list[int]:
        """List the id that ends a completion."""
        return [END]

    def generate(
        self, requests: Sequence[Request], stop: frozenset[int], params: SamplingParams, seed: int
    ) -> list[Completion]:
        """Ask for one completion each, several at once. See `prmbench.engines.types.Engine.generate`.

        Args:
            requests: What is to be asked; prompts as `chat_encoder` makes them.
            stop: Not used: the server knows where a turn ends.
            params: How tokens are chosen; a limit on new tokens counts the server's.
            seed: Seed that is sent with each request; whether it decides the reply is the server's affair.

        Returns:
            Completions in the order of the requests. One that was refused is empty.

        Raises:
            UserError: The server refuses or cannot be reached. What was answered is kept.
        """
        settings: dict[str, Any] = {"temperature": params.temperature, "top_p": params.top_p}
        if params.top_k:
            settings["extra_body"] = {"top_k": params.top_k}

        def ask(request: Request) -> Reply:
            messages = json.loads(b"".join(_BYTES[i] for i in request.prompt.tolist()))
            own = {**settings, "seed": request_seed(seed, request.key, request.sample)}
            return self.client.ask(messages, limit=params.max_new_tokens, sample=request.sample, settings=own)

        with ThreadPoolExecutor(self.client.service.concurrency) as pool:
            asked = [pool.submit(ask, request) for request in requests]
            try:
                replies = [one.result() for one in asked]
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)  # those under way are paid for, and are kept
                raise
        return [_completion(reply) for reply in replies]

    def score(
        self, sequences: Sequence[NDArray[np.int64]], first: Sequence[int], want: frozenset[Quantity], *, top: int = 0
    ) -> list[TokenScores]:
        """Refuse: a server says nothing of given tokens. See `prmbench.engines.types.Engine.score`.

        Args:
            sequences: Not used.
            first: Not used.
            want: What is asked for.
            top: Not used.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"the engine api gives texts alone, not {sorted(want)}")

    def usage(self) -> dict[str, Any]:
        """Say what was asked for in this process, what it cost, and which models answered."""
        cost = self.client.cost()
        models = sorted(self.client.models)
        return {**self.client.usage, "models": models, **({} if cost is None else {"cost": round(cost, 6)})}


def _completion(reply: Reply) -> Completion:
    ids = np.frombuffer(reply.text.encode("utf-8", "replace"), dtype=np.uint8).astype(np.int64)
    if reply.ended == "length":
        return Completion(ids, "length")
    return Completion(np.append(ids, END), "stop")


def hosted(source: str, service: Service | None) -> ApiEngine:
    """Reach a hosted model.

    Args:
        source: The model, as the server calls it.
        service: The server; None: OpenAI's.

    Raises:
        ArgumentError: The name is blank.
        UserError: The server cannot be reached, or refuses.
    """
    if not source.strip():
        raise ArgumentError("model", source, "expected the name of a model, as the server calls it")
    return ApiEngine(source, service or Service())
