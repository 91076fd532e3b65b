"""The vLLM engine: generation and log-probs at scale (the ``vllm`` extra).

Its log-probs differ from those of the Hugging Face engine by its kernels and types, so a log-ratio never mixes engines. It gives
log-probs and the likeliest tokens only. Random numbers are those of vLLM, seeded for each request by seed, key and sample, so that
a completion does not depend on what else runs, up to the rounding of its kernels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prmbench.engines.checkpoint import text_config
from prmbench.engines.load import LoadOptions
from prmbench.engines.sampling import Completion, Request, SamplingParams, request_seed
from prmbench.engines.types import Quantity, TokenScores
from prmbench.engines.vllm.start import set_environment, start_llm
from prmbench.errors import ArgumentError

if TYPE_CHECKING:
    from vllm import LLM

MAX_LOGPROBS = 1024
"""How many of the likeliest tokens of a position it gives at most."""


class VLLMEngine:
    """Generates and scores with vLLM, within this process, so that nothing of it is left when the process is killed.

    Attributes:
        source: What errors call the checkpoint.
        provides: Quantities that `score` gives.
        llm: The model in vLLM.
    """

    name = "vllm"
    provides: frozenset[Quantity] = frozenset({"logprob", "topk"})

    def __init__(
        self,
        folder: Path,
        options: LoadOptions | None = None,
        source: str = "the model",
        *,
        memory_share: float = 0.85,
        allowed: NDArray[np.int64] | None = None,
    ) -> None:
        """Load a checkpoint.

        Args:
            folder: The checkpoint folder.
            options: Where and how its weights are loaded; None: as `LoadOptions` has it.
            source: What errors call the checkpoint.
            memory_share: Share of the memory of each device that this engine may take, between 0 and 1. Lower it to have two
                engines in one process.
            allowed: Token ids that may be sampled; None: all. Log-probs are those over all.

        Raises:
            UserError: vLLM is not installed, or it cannot load the checkpoint.
        """
        options = options or LoadOptions()
        self.source = source
        self._config = text_config(folder)
        self._device = options.resolve_device().type
        self._dtype = str(options.resolve_dtype()).removeprefix("torch.")
        set_environment(options)
        settings: dict[str, Any] = {"max_logprobs": MAX_LOGPROBS}
        if self._device == "cpu":
            # A prompt cut in parts draws a sample for each and takes it back, which a CPU's random generator cannot.
            settings["enable_chunked_prefill"] = False
        if allowed is not None and len(never := np.setdiff1d(np.arange(self.vocabulary), allowed)):
            from prmbench.engines.vllm.token_mask import KEY, NeverSampled

            settings |= {"logits_processors": [NeverSampled], "additional_config": {KEY: never.tolist()}}
        self.llm: LLM = start_llm(folder, options, source, memory_share, **settings)

    @property
    def vocabulary(self) -> int:
        """Number of logits of one position."""
        return int(self._config["vocab_size"])

    @property
    def max_length(self) -> int | None:
        """Longest sequence that vLLM accepts for this model."""
        return int(self.llm.llm_engine.model_config.max_model_len)

    def device_and_dtype(self) -> tuple[str, str]:
        """Say where the model computes and in what type."""
        return self._device, self._dtype

    def facts(self) -> dict[str, Any]:
        """Say the architecture, for provenance."""
        return {"architecture": self._config.get("model_type"), "engine": "vllm"}

    def eos_ids(self) -> list[int]:
        """List the token ids that the checkpoint's own generation settings stop at."""
        own = self.llm.llm_engine.model_config.try_get_generation_config().get("eos_token_id")
        return own if isinstance(own, list) else [] if own is None else [own]

    def generate(
        self, requests: Sequence[Request], stop: frozenset[int], params: SamplingParams, seed: int
    ) -> list[Completion]:
        """Sample one completion for each request. See `prmbench.engines.types.Engine.generate`.

        Args:
            requests: What is to be sampled.
            stop: Token ids that end a completion.
            params: How tokens are chosen.
            seed: Seed of all random numbers.

        Returns:
            Completions in the order of the requests.
        """
        from vllm import SamplingParams as VLLMParams

        limit = self.max_length
        given = [[] if r.forced is None else [r.forced] for r in requests]
        prompts = [[*r.prompt.tolist(), *start] for r, start in zip(requests, given, strict=True)]
        rooms = [r.limit(params.max_new_tokens, limit) - len(start) for r, start in zip(requests, given, strict=True)]
        out = [
            Completion(np.array(start, dtype=np.int64), "stop" if set(start) & stop else "length") for start in given
        ]
        # A first token that ends the completion, or fills it, leaves nothing to ask for.
        asked = [i for i, start in enumerate(given) if rooms[i] > 0 and not set(start) & stop]
        wanted = [
            VLLMParams(
                temperature=params.temperature,
                top_p=params.top_p,
                top_k=params.top_k or -1,
                max_tokens=rooms[i],
                stop_token_ids=sorted(stop),
                ignore_eos=True,
                seed=request_seed(seed, requests[i].key, requests[i].sample),
                detokenize=False,
            )
            for i in asked
        ]
        found = self.llm.generate([{"prompt_token_ids": prompts[i]} for i in asked], wanted, use_tqdm=False)
        for i, one in zip(asked, found, strict=True):
            ids = np.array([*given[i], *one.outputs[0].token_ids], dtype=np.int64)
            out[i] = Completion(ids, "length" if one.outputs[0].finish_reason == "length" else "stop")
        return out

    def score(
        self,
        sequences: Sequence[NDArray[np.int64]],
        first: Sequence[int],
        want: frozenset[Quantity],
        *,
        top: int = 0,
    ) -> list[TokenScores]:
        """Score one batch. See `prmbench.engines.types.Engine.score`.

        Args:
            sequences: Token ids of each sequence. int64, shape [length].
            first: Position, at least 1, of the first token asked for in each sequence.
            want: Quantities to return: ``logprob`` and ``topk``.
            top: How many of the likeliest tokens ``topk`` returns.

        Returns:
            What was asked for, one for each sequence.

        Raises:
            ValueError: vLLM does not give a quantity.
            ArgumentError: More of the likeliest tokens are asked for than `MAX_LOGPROBS`.
        """
        from vllm import SamplingParams as VLLMParams

        if unknown := want - self.provides:
            raise ValueError(f"vLLM does not give {sorted(unknown)}, only {sorted(self.provides)}; use the hf engine")
        if top > MAX_LOGPROBS:
            raise ArgumentError(
                "engine", "vllm", f"it gives {MAX_LOGPROBS:,} likeliest tokens, not {top:,}; use the hf engine"
            )
        asked = VLLMParams(max_tokens=1, temperature=0, prompt_logprobs=top if "topk" in want else 0, detokenize=False)
        prompts = [{"prompt_token_ids": ids.tolist()} for ids in sequences]
        found = self.llm.generate(prompts, asked, use_tqdm=False)
        return [
            _token_scores(one.prompt_logprobs, ids, start, want, top)
            for one, ids, start in zip(found, sequences, first, strict=True)
        ]

    def next_logprobs_after(self, sequences: Sequence[NDArray[np.int64]], tokens: Sequence[int]) -> NDArray[np.float64]:
        """Give the log-probs that some tokens have as the next one after each sequence.

        Sequences that begin alike share the work: vLLM keeps the states of their common beginning.

        Args:
            sequences: Token ids of each sequence, each shorter than `max_length`. int64, shape [length].
            tokens: The tokens. Any will do, likely or not.

        Returns:
            Log-probs over the whole vocabulary. float64, shape [number of sequences, number of tokens].
        """
        from vllm import SamplingParams as VLLMParams

        asked = VLLMParams(max_tokens=1, temperature=0, logprob_token_ids=list(tokens), detokenize=False)
        found = self.llm.generate([{"prompt_token_ids": ids.tolist()} for ids in sequences], asked, use_tqdm=False)
        rows = [one.outputs[0].logprobs[0] for one in found]
        return np.array([[row[token].logprob for token in tokens] for row in rows], dtype=np.float64)

    def close(self) -> None:
        """Give the memory back."""
        with contextlib.suppress(Exception):
            self.llm.llm_engine.engine_core.shutdown()


def _token_scores(
    prompt_logprobs: Any, ids: NDArray[np.int64], start: int, want: frozenset[Quantity], top: int
) -> TokenScores:
    rows = [prompt_logprobs[t] for t in range(start, len(ids))]
    logprob = np.array([row[int(ids[start + i])].logprob for i, row in enumerate(rows)], dtype=np.float64)
    if "topk" not in want:
        return TokenScores(logprob=logprob)
    ranked = [sorted(row.items(), key=lambda pair: pair[1].rank)[:top] for row in rows]
    return TokenScores(
        logprob=logprob if "logprob" in want else None,
        topk_ids=np.array([[token for token, _ in row] for row in ranked], dtype=np.int64),
        topk_logprobs=np.array([[value.logprob for _, value in row] for row in ranked], dtype=np.float64),
    )
