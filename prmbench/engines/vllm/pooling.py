"""vLLM as a pooling model: numbers for every token of a given text, in place of a next token.

Every token is pooled (vLLM's ``ALL``), and the tokens asked for are picked here. vLLM's ``STEP`` would find the marks by their id,
so that a mark inside a text would count as one; and of a language model its ``returned_token_ids`` pick coordinates of the hidden
state, not logits. The prefix cache is off: a token whose state is read from it is not pooled. A long text may be computed in parts
(chunked prefill): vLLM puts the parts together, and the tests hold that to the same numbers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from prmbench.engines.load import LoadOptions
from prmbench.engines.vllm.start import set_environment, start_llm

Task = Literal["token_classify", "token_embed"]
"""``token_classify``: what a head gives for each token; ``token_embed``: the last hidden state of each token."""


class VLLMPooling:
    """Pools with vLLM, within this process.

    Attributes:
        source: What errors call the checkpoint.
        llm: The model in vLLM.
    """

    def __init__(
        self,
        folder: Path,
        options: LoadOptions,
        source: str,
        *,
        task: Task,
        memory_share: float = 0.85,
        **settings: Any,
    ) -> None:
        """Load a checkpoint.

        Args:
            folder: The checkpoint folder, as `prmbench.engines.vllm.layout.write_layout` writes it.
            options: Where and how its weights are loaded.
            source: What errors call the checkpoint.
            task: What is given for each token.
            memory_share: Share of the memory of each device that vLLM may take, between 0 and 1.
            settings: Further arguments of vLLM's class `LLM`.

        Raises:
            UserError: vLLM is not installed, or it cannot load the checkpoint.
        """
        self.source, self.task = source, task
        self._device = options.resolve_device().type
        self._dtype = str(options.resolve_dtype()).removeprefix("torch.")
        set_environment(options)
        from vllm.config import PoolerConfig

        self.llm = start_llm(
            folder,
            options,
            source,
            memory_share,
            runner="pooling",
            convert="classify" if task == "token_classify" else "embed",
            pooler_config=PoolerConfig(task=task, tok_pooling_type="ALL"),
            skip_tokenizer_init=task
            == "token_classify",  # vLLM asks for one where it may compare texts by their states
            **{"enable_prefix_caching": False, "enable_chunked_prefill": True, **settings},
        )

    @property
    def max_length(self) -> int:
        """Longest sequence that is pooled.

        It is one token less than the model has positions. vLLM keeps one for a token that it might sample, here too: a longer text
        that it has begun in parts would wait for ever.
        """
        return int(self.llm.llm_engine.model_config.max_model_len) - 1

    def device_and_dtype(self) -> tuple[str, str]:
        """Say where the model computes and in what type."""
        return self._device, self._dtype

    def pool(
        self, sequences: Sequence[NDArray[np.int64]], positions: Sequence[NDArray[np.int64]]
    ) -> list[NDArray[np.float32]]:
        """Give the numbers of some tokens of each sequence.

        Args:
            sequences: Token ids of each sequence. int64, shape [length].
            positions: Positions in each sequence. int64, shape [n].

        Returns:
            One array a sequence: outputs of the head, without any activation, or hidden states. float32, shape [n, outputs].
        """
        from vllm import PoolingParams

        found = self.llm.encode(
            [{"prompt_token_ids": ids.tolist()} for ids in sequences],
            PoolingParams(use_activation=False),
            pooling_task=self.task,
            use_tqdm=False,
        )
        return [one.outputs.data.float().numpy()[rows] for one, rows in zip(found, positions, strict=True)]

    def close(self) -> None:
        """Give the memory back."""
        with contextlib.suppress(Exception):
            self.llm.llm_engine.engine_core.shutdown()
