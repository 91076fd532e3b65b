"""A decoder in vLLM, for reward models with heads of their own.

Where the head is a linear layer, or begins with one, vLLM computes it, and a few numbers a token come back. Otherwise hidden states
come back, and the reward model goes on from there.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prmbench.engines.checkpoint import is_adapter, max_positions, model_folder, weight_names
from prmbench.engines.load import LoadOptions, load_causal_lm, load_trunk, refuse_heads
from prmbench.engines.vllm.layout import Layer, apply_layers, is_process_reward, write_layout
from prmbench.engines.vllm.parallel import ParallelPooling
from prmbench.engines.vllm.pooling import Task, VLLMPooling
from prmbench.engines.vllm.start import require_vllm
from prmbench.errors import UserError, argument, first_line


class VLLMTrunk:
    """A decoder in vLLM. It is described when it is made, and loaded by `open`, once its head is known.

    Attributes:
        source: What errors call the checkpoint.
        device: Where the numbers are that come back.
        config: Config of transformers, of the part that is a language model.
        engine: The decoder in vLLM; None before `open`.
    """

    def __init__(self, folder: Path, options: LoadOptions, source: str) -> None:
        """Read the config.

        Args:
            folder: The checkpoint folder. An adapter is merged into its base.
            options: Where and how its weights are loaded, and on how many devices.
            source: What errors call the checkpoint.

        Raises:
            UserError: vLLM is not installed, or transformers cannot read the config.
        """
        from transformers import AutoConfig

        require_vllm()
        self.source, self.device = source, torch.device("cpu")
        self.engine: VLLMPooling | ParallelPooling | None = None
        self._folder, self._options = folder, options
        try:
            whole = AutoConfig.from_pretrained(model_folder(folder), trust_remote_code=options.trust_remote_code)
        except Exception as error:
            raise UserError(f"{folder}: its config cannot be read ({first_line(error)})") from None
        self.config, self._model_type = whole.get_text_config(), str(whole.model_type)
        self._merged: tempfile.TemporaryDirectory[str] | None = None
        self._rest: Sequence[Layer] | None = None

    @property
    def width(self) -> int:
        """How many numbers a hidden state has."""
        return int(self.config.hidden_size)

    @property
    def vocabulary(self) -> int:
        """Number of token embeddings."""
        return int(self.config.vocab_size)

    @property
    def max_length(self) -> int | None:
        """Longest sequence that vLLM takes (see `VLLMPooling.max_length`); before `open`, what the config says."""
        return max_positions(self._folder) if self.engine is None else self.engine.max_length

    def device_and_dtype(self) -> tuple[str, str]:
        """Say where the model computes and in what type."""
        return self._options.resolve_device().type, str(self._options.resolve_dtype()).removeprefix("torch.")

    def facts(self) -> dict[str, Any]:
        """Say the architecture, for provenance."""
        return {"architecture": self._model_type, "engine": "vllm"}

    def output_rows(self, tokens: Sequence[int]) -> Layer:
        """Read the rows of some tokens from the output layer of the language model that the decoder is of.

        Args:
            tokens: The token ids.

        Returns:
            Weight, float32, shape [number of tokens, width]; and bias, where the output layer has one.

        Raises:
            UserError: The checkpoint holds a reward model's head, so that its output layer, if any, is left over; or it has no
                output layer of a known name.
        """
        from safetensors import safe_open

        folder = self._whole(load_causal_lm)
        files = weight_names(folder)
        refuse_heads(folder, files)
        tied = ("embed_tokens.weight", "wte.weight") if self.config.tie_word_embeddings else ()
        for ending in ("lm_head.weight", *tied):
            for name in files:
                if name == ending or name.endswith(f".{ending}"):
                    bias = name.removesuffix("weight") + "bias"
                    rows = []
                    for one in (name, bias) if bias in files else (name,):
                        with safe_open(files[one], framework="pt") as tensors:
                            whole = tensors.get_slice(one)
                            rows.append(torch.stack([torch.as_tensor(whole[token]) for token in tokens]).float())
                    return rows[0], rows[1] if len(rows) == 2 else None
        raise UserError(
            f"{folder}: holds no output layer of the name 'lm_head', whose rows vLLM is given; use {argument('engine', 'hf')}"
        )

    def open(self, layers: Sequence[Layer] | None) -> None:
        """Load the decoder into vLLM.

        Args:
            layers: Linear layers of the head, with a ReLU between them, for `outputs`. None: `states` are wanted.

        Raises:
            UserError: vLLM cannot load it.
        """
        task: Task = "token_embed" if layers is None else "token_classify"
        folder = self._whole(load_trunk)
        with tempfile.TemporaryDirectory() as place:  # vLLM has read it once it is loaded
            write_layout(folder, Path(place), layers, trusted=self._options.trust_remote_code)
            if self._options.data_parallel > 1:
                self.engine = ParallelPooling(VLLMPooling, Path(place), self._options, self.source, task=task)
            else:
                self.engine = VLLMPooling(Path(place), self._options, self.source, task=task)
        if self._merged is not None:
            self._merged.cleanup()
        # vLLM has the weight of the first layer; of a head that it knows as a whole it has everything.
        whole = layers is not None and is_process_reward(self._model_type, layers)
        self._rest = [] if whole else layers

    def states(self, sequences: Sequence[NDArray[np.int64]], positions: Sequence[NDArray[np.int64]]) -> torch.Tensor:
        """Compute last hidden states at some positions, where `open` was given no layers.

        Args:
            sequences: Token ids of each sequence. int64, shape [length].
            positions: Positions in each sequence. int64, shape [n].

        Returns:
            float32, shape [sum of n, width], in the order given.
        """
        return self._pool(sequences, positions)

    def outputs(self, sequences: Sequence[NDArray[np.int64]], positions: Sequence[NDArray[np.int64]]) -> torch.Tensor:
        """Compute what the layers that `open` was given make of the last hidden states at some positions.

        Args:
            sequences: Token ids of each sequence. int64, shape [length].
            positions: Positions in each sequence. int64, shape [n].

        Returns:
            Outputs of the last layer. float32, shape [sum of n, outputs], in the order given.
        """
        found = self._pool(sequences, positions)
        if not self._rest:
            return found
        bias = self._rest[0][1]
        found = found if bias is None else found + bias
        return apply_layers(self._rest[1:], torch.relu(found)) if len(self._rest) > 1 else found

    def close(self) -> None:
        """Give the memory back."""
        if self.engine is not None:
            self.engine.close()

    def _pool(self, sequences: Sequence[NDArray[np.int64]], positions: Sequence[NDArray[np.int64]]) -> torch.Tensor:
        assert self.engine is not None
        return torch.from_numpy(np.concatenate(self.engine.pool(sequences, positions)))

    def _whole(self, load: Callable[..., Any]) -> Path:
        """The folder of a checkpoint that is no adapter: one is merged into its base, once."""
        if not is_adapter(self._folder):
            return self._folder
        if self._merged is None:
            self._merged = tempfile.TemporaryDirectory()
            load(self._folder, dataclasses.replace(self._options, device="cpu")).save_pretrained(self._merged.name)
        return Path(self._merged.name)
