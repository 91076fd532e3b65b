"""Data parallel: several vLLM engines, each in a process with devices of its own, used as one.

The class of vLLM refuses data parallel within one process. Requests are seeded one by one, so that it does not matter which engine
gets which. Neighbours are given to the same engine, so that completions of one prompt stay together.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prmbench.engines.load import LoadOptions
from prmbench.engines.types import Quantity
from prmbench.engines.vllm.start import core_groups
from prmbench.errors import ArgumentError, UserError, argument
from prmbench.workers import Worker, serve, start_worker, stop_workers

if TYPE_CHECKING:
    from prmbench.engines.sampling import Completion, Request, SamplingParams
    from prmbench.engines.types import TokenScores

_PATIENCE = 20.0  # seconds that the engines have to give their memory back
_ATTRIBUTES, _METHODS = ("vocabulary", "max_length"), ("device_and_dtype", "facts", "eos_ids")
"""What an engine says of itself, where it has it, once it is loaded."""


class _Copies:
    """As many engines as the options ask for, each in a process of its own.

    Attributes:
        source: What errors call the checkpoint.
        close: Ends the processes and waits for them.
    """

    def __init__(
        self, make: Callable[..., Any], folder: Path, options: LoadOptions, source: str, **settings: Any
    ) -> None:
        """Start the processes and load the checkpoint in each.

        Args:
            make: Class of the engines.
            folder: The checkpoint folder.
            options: Where and how its weights are loaded, and on how many devices.
            source: What errors call the checkpoint.
            settings: Further arguments of the class.

        Raises:
            ArgumentError: There are too few devices.
            UserError: As the class.
        """
        self.source = source
        self._workers = [
            start_worker(_work, make, folder, options, source, settings, environment=place)
            for place in _places(options)
        ]
        # At the program's end too, before multiprocessing waits for processes that wait for this one.
        self.close = Finalize(self, stop_workers, args=(self._workers, _PATIENCE), exitpriority=10)
        self._about: dict[str, Any] = self._receive(self._workers)[0]

    @property
    def max_length(self) -> int | None:
        """Longest sequence that each engine takes."""
        return int(self._about["max_length"])

    def device_and_dtype(self) -> tuple[str, str]:
        """Say where the model computes and in what type."""
        device, dtype = self._about["device_and_dtype"]
        return device, dtype

    def _deal(self, verb: str, dealt: Sequence[Sequence[Any]], *same: Any, **named: Any) -> list[Any]:
        edges = np.linspace(0, len(dealt[0]), len(self._workers) + 1).round().astype(int)
        asked = []
        for worker, start, end in zip(self._workers, edges, edges[1:], strict=False):
            if start < end:
                with contextlib.suppress(BrokenPipeError):  # a process that has ended; its reply says so
                    worker.link.send((verb, [*(one[start:end] for one in dealt), *same], named))
                asked.append(worker)
        return [one for answer in self._receive(asked) for one in answer]

    def _receive(self, workers: Sequence[Worker]) -> list[Any]:
        """Wait for the replies of workers. All are heard before an error is raised: a late one would be taken for the next one."""
        replies = [worker.reply() for worker in workers]
        for reply in replies:
            if isinstance(reply, ChildProcessError):
                raise UserError(
                    f"{self.source}: a vLLM {reply}; start again with {argument('engine', 'hf')}, or with more memory"
                )
            if isinstance(reply, Exception):
                raise reply
        return replies


class ParallelVLLM(_Copies):
    """Generates and scores with several vLLM engines. See `prmbench.engines.vllm.engine.VLLMEngine`.

    Attributes:
        provides: Quantities that `score` gives.
    """

    name = "vllm"
    provides: frozenset[Quantity] = frozenset({"logprob", "topk"})

    @property
    def vocabulary(self) -> int:
        """Number of logits of one position."""
        return int(self._about["vocabulary"])

    def facts(self) -> dict[str, Any]:
        """Say the architecture, for provenance."""
        return dict(self._about["facts"])

    def eos_ids(self) -> list[int]:
        """List the token ids that the checkpoint's own generation settings stop at."""
        return list(self._about["eos_ids"])

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
        return self._deal("generate", [requests], stop, params, seed)

    def score(
        self, sequences: Sequence[NDArray[np.int64]], first: Sequence[int], want: frozenset[Quantity], *, top: int = 0
    ) -> list[TokenScores]:
        """Score one batch. See `prmbench.engines.types.Engine.score`.

        Args:
            sequences: Token ids of each sequence. int64, shape [length].
            first: Position, at least 1, of the first token asked for in each sequence.
            want: Quantities to return: ``logprob`` and ``topk``.
            top: How many of the likeliest tokens ``topk`` returns.

        Returns:
            What was asked for, one for each sequence.
        """
        return self._deal("score", [sequences, first], want, top=top)

    def next_logprobs_after(self, sequences: Sequence[NDArray[np.int64]], tokens: Sequence[int]) -> NDArray[np.float64]:
        """Give the log-probs that some tokens have as the next one after each sequence. See `VLLMEngine`.

        Args:
            sequences: Token ids of each sequence. int64, shape [length].
            tokens: The tokens.

        Returns:
            Log-probs. float64, shape [number of sequences, number of tokens].
        """
        return np.array(self._deal("next_logprobs_after", [sequences], tokens)).reshape(-1, len(tokens))


class ParallelPooling(_Copies):
    """Pools with several vLLM engines. See `prmbench.engines.vllm.pooling.VLLMPooling`."""

    def pool(
        self, sequences: Sequence[NDArray[np.int64]], positions: Sequence[NDArray[np.int64]]
    ) -> list[NDArray[np.float32]]:
        """Give the numbers of some tokens. See `VLLMPooling.pool`.

        Args:
            sequences: Token ids of each sequence. int64, shape [length].
            positions: Positions in each sequence. int64, shape [n].

        Returns:
            One array a sequence. float32, shape [n, outputs].
        """
        return self._deal("pool", [sequences, positions])


def _places(options: LoadOptions) -> list[dict[str, str]]:
    """Give the environment of each process: which devices it has, on a CPU which cores."""
    n, each = options.data_parallel, options.tensor_parallel
    if options.resolve_device().type == "cpu":
        cores = core_groups(n * each, "data_parallel")
        return [{"VLLM_CPU_OMP_THREADS_BIND": "|".join(cores[i * each : (i + 1) * each])} for i in range(n)]
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = named.split(",") if named else [str(i) for i in range(torch.cuda.device_count())]
    if len(devices) < n * each:
        raise ArgumentError(
            "data_parallel",
            n,
            f"with {argument('tensor_parallel', each)} needs {n * each} devices, there are {len(devices)}",
        )
    return [{"CUDA_VISIBLE_DEVICES": ",".join(devices[i * each : (i + 1) * each])} for i in range(n)]


def _work(
    link: Connection,
    make: Callable[..., Any],
    folder: Path,
    options: LoadOptions,
    source: str,
    settings: dict[str, Any],
) -> None:
    """Answer what is asked. The first message says what the engine is."""
    try:
        engine = make(folder, options, source, **settings)
    except Exception as error:
        link.send(UserError(str(error)))
        return
    about = {name: getattr(engine, name) for name in _ATTRIBUTES if hasattr(engine, name)}
    link.send(about | {name: getattr(engine, name)() for name in _METHODS if hasattr(engine, name)})
    serve(link, lambda asked: getattr(engine, asked[0])(*asked[1], **asked[2]))
    engine.close()
