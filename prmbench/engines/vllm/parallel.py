"""Data parallel: several vLLM engines, each in a process with devices of its own, as one.

vLLM's own class refuses data parallel within one process. Requests are seeded one by one, so that it does not matter which engine
has which; they are dealt out in runs, so that completions of one prompt stay together.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prmbench.engines.loading import LoadOptions
from prmbench.engines.types import Quantity
from prmbench.engines.vllm.engine import VLLMEngine, core_groups
from prmbench.errors import UserError

if TYPE_CHECKING:
    from prmbench.engines.sampling import Completion, Request, SamplingParams
    from prmbench.engines.types import TokenScores


class ParallelVLLM:
    """As many vLLM engines as the options ask for. See `prmbench.engines.vllm.engine.VLLMEngine`.

    Raises (on construction):
        UserError: fewer devices than engines times the devices that share a model; or as VLLMEngine.
    """

    name = "vllm"
    provides: frozenset[Quantity] = frozenset({"logprob", "topk"})

    def __init__(self, folder: Path, options: LoadOptions, source: str, *, memory_share: float) -> None:
        self.source = source
        places = _places(options)
        context = multiprocessing.get_context("spawn")
        self._links: list[Connection] = []
        self._processes: list[SpawnProcess] = []
        # At the program's end too, before multiprocessing waits for processes that wait for this one.
        self.close = Finalize(self, _close, args=(self._links, self._processes), exitpriority=10)
        for place in places:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, place, folder, options, source, memory_share))
            process.start()
            theirs.close()
            self._links.append(ours)
            self._processes.append(process)
        self._about: dict[str, Any] = self._receive(range(len(places)))[0]

    @property
    def vocabulary(self) -> int:
        """Number of logits of one position."""
        return int(self._about["vocabulary"])

    @property
    def max_length(self) -> int | None:
        """Longest sequence vLLM accepts for this model."""
        return int(self._about["max_length"])

    def device_and_dtype(self) -> tuple[str, str]:
        """Where the model computes and in what type."""
        device, dtype = self._about["device_and_dtype"]
        return device, dtype

    def facts(self) -> dict[str, Any]:
        """Architecture, for provenance."""
        return dict(self._about["facts"])

    def eos_ids(self) -> list[int]:
        """Token ids that the checkpoint's own generation settings stop at."""
        return list(self._about["eos_ids"])

    def generate(
        self, requests: Sequence[Request], stop: frozenset[int], params: SamplingParams, seed: int
    ) -> list[Completion]:
        """Sample one completion for each request."""
        return self._deal("generate", [requests], stop, params, seed)

    def score(
        self, sequences: Sequence[NDArray[np.int64]], first: Sequence[int], want: frozenset[Quantity], *, top: int = 0
    ) -> list[TokenScores]:
        """Score one batch."""
        return self._deal("score", [sequences, first], want, top=top)

    def _deal(self, verb: str, dealt: Sequence[Sequence[Any]], *same: Any, **named: Any) -> list[Any]:
        edges = np.linspace(0, len(dealt[0]), len(self._links) + 1).round().astype(int)
        asked = []
        for i, link in enumerate(self._links):
            if edges[i] < edges[i + 1]:
                with contextlib.suppress(BrokenPipeError):  # a process that has ended; hearing it says so
                    link.send((verb, [*(one[edges[i] : edges[i + 1]] for one in dealt), *same], named))
                asked.append(i)
        return [one for answer in self._receive(asked) for one in answer]

    def _receive(self, which: Sequence[int]) -> list[Any]:
        """What processes answer. All are heard before an error is raised: a late answer would be taken for the next one's."""
        answers = []
        for i in which:
            try:
                answers.append(self._links[i].recv())
            except (EOFError, ConnectionResetError):
                self._processes[i].join(timeout=5)
                code = self._processes[i].exitcode
                answers.append(
                    UserError(
                        f"{self.source}: a vLLM process ended (exit code {code}); start again with --engine hf, "
                        "or with more memory"
                    )
                )
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers


def _places(options: LoadOptions) -> list[dict[str, str]]:
    """The environment of each process: which devices it has, on a CPU which cores."""
    n, each = options.data_parallel, options.tensor_parallel
    if options.resolve_device().type == "cpu":
        cores = core_groups(n * each, f"--data-parallel {n}")
        return [{"VLLM_CPU_OMP_THREADS_BIND": "|".join(cores[i * each : (i + 1) * each])} for i in range(n)]
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = named.split(",") if named else [str(i) for i in range(torch.cuda.device_count())]
    if len(devices) < n * each:
        raise UserError(
            f"--data-parallel {n} --tensor-parallel {each}: needs {n * each} devices, there are {len(devices)}"
        )
    return [{"CUDA_VISIBLE_DEVICES": ",".join(devices[i * each : (i + 1) * each])} for i in range(n)]


def _serve(
    link: Connection, place: dict[str, str], folder: Path, options: LoadOptions, source: str, memory_share: float
) -> None:
    """Answer what is asked, until the other end is gone. The first message says what the engine is."""
    os.environ.update(place)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the first process's to answer
    try:
        engine = VLLMEngine(folder, options, source, memory_share=memory_share)
        about = {name: getattr(engine, name) for name in ("vocabulary", "max_length")}
        link.send(about | {name: getattr(engine, name)() for name in ("device_and_dtype", "facts", "eos_ids")})
    except Exception as error:
        link.send(UserError(str(error)))
        return
    while True:
        try:
            verb, positional, named = link.recv()
        except (EOFError, OSError):
            break
        try:
            link.send(getattr(engine, verb)(*positional, **named))
        except Exception as error:
            link.send(error if isinstance(error, (UserError, ValueError)) else RuntimeError(str(error)))
    engine.close()


def _close(links: list[Connection], processes: list[SpawnProcess]) -> None:
    for link in links:
        link.close()
    for process in processes:
        process.join(timeout=20)
        for end in (process.terminate, process.kill):
            if process.is_alive():
                end()
                process.join(timeout=5)
