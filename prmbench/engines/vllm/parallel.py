"""Data parallel: several vLLM engines, each in a process with devices of its own, used as one.

The class of vLLM refuses data parallel within one process. Requests are seeded one by one, so that it does not matter which engine
gets which. Neighbours are given to the same engine, so that completions of one prompt stay together.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prmbench.engines.load import LoadOptions
from prmbench.engines.types import Quantity
from prmbench.engines.vllm.engine import VLLMEngine, core_groups
from prmbench.errors import ArgumentError, UserError, argument
from prmbench.workers import Worker, serve, start_worker, stop_workers

if TYPE_CHECKING:
    from prmbench.engines.sampling import Completion, Request, SamplingParams
    from prmbench.engines.types import TokenScores

_PATIENCE = 20.0  # seconds that the engines have to give their memory back


class ParallelVLLM:
    """As many vLLM engines as the options ask for. See `prmbench.engines.vllm.engine.VLLMEngine`.

    Attributes:
        source: What errors call the checkpoint.
        provides: Quantities that `score` gives.
        close: Ends the processes and waits for them.
    """

    name = "vllm"
    provides: frozenset[Quantity] = frozenset({"logprob", "topk"})

    def __init__(
        self,
        folder: Path,
        options: LoadOptions,
        source: str,
        *,
        memory_share: float,
        allowed: NDArray[np.int64] | None = None,
    ) -> None:
        """Start the processes and load the checkpoint in each.

        Args:
            folder: The checkpoint folder.
            options: Where and how its weights are loaded, and on how many devices.
            source: What errors call the checkpoint.
            memory_share: Share of the memory of each device that an engine may take, between 0 and 1.
            allowed: Token ids that may be sampled; None: all.

        Raises:
            ArgumentError: There are too few devices.
            UserError: As VLLMEngine.
        """
        self.source = source
        self._workers = [
            start_worker(_work, folder, options, source, memory_share, allowed, environment=place)
            for place in _places(options)
        ]
        # At the program's end too, before multiprocessing waits for processes that wait for this one.
        self.close = Finalize(self, stop_workers, args=(self._workers, _PATIENCE), exitpriority=10)
        self._about: dict[str, Any] = self._receive(self._workers)[0]

    @property
    def vocabulary(self) -> int:
        """Number of logits of one position."""
        return int(self._about["vocabulary"])

    @property
    def max_length(self) -> int | None:
        """Longest sequence that vLLM accepts for this model."""
        return int(self._about["max_length"])

    def device_and_dtype(self) -> tuple[str, str]:
        """Say where the model computes and in what type."""
        device, dtype = self._about["device_and_dtype"]
        return device, dtype

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
    folder: Path,
    options: LoadOptions,
    source: str,
    memory_share: float,
    allowed: NDArray[np.int64] | None,
) -> None:
    """Answer what is asked. The first message says what the engine is."""
    try:
        engine = VLLMEngine(folder, options, source, memory_share=memory_share, allowed=allowed)
    except Exception as error:
        link.send(UserError(str(error)))
        return
    about = {name: getattr(engine, name) for name in ("vocabulary", "max_length")}
    link.send(about | {name: getattr(engine, name)() for name in ("device_and_dtype", "facts", "eos_ids")})
    serve(link, lambda asked: getattr(engine, asked[0])(*asked[1], **asked[2]))
    engine.close()
