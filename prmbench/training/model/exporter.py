"""Makes a checkpoint of what a trainer saved. Adapters are merged where that is asked, and pickled arguments are left out.

What is written is read back and compared with what was trained, so that no checkpoint is ever silently another one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prmbench.data.records import read_json
from prmbench.engines.checkpoint import ADAPTER_CONFIG
from prmbench.engines.tokenizer import save_tokenizer
from prmbench.policies.prompt_record import RECORD_NAME
from prmbench.results.store import write_atomically
from prmbench.reward_models.card import CARD_NAME
from prmbench.training.model.probe import PROBE_NAME, compare_probes, probe
from prmbench.training.run_folder import writing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COPIED = (ADAPTER_CONFIG, "config.json", "generation_config.json", "model.safetensors.index.json")
"""Files of a checkpoint, beside its weights; a trainer leaves others among them."""


@dataclass(frozen=True)
class Exporter:
    """Makes checkpoints of what a trainer saved.

    Attributes:
        start: Checkpoint that training started from.
        load: Loads a checkpoint as it is trained, without an adapter.
        tokenizer: The tokenizer.
        merge: Whether an adapter is merged into the weights.
        half: Whether training computes in half precision, so that only coarse differences can be told.
        has_head: Whether the model's forward gives the values of a head.
    """

    start: Path
    load: Callable[[Path], Any]
    tokenizer: PreTrainedTokenizerBase
    merge: bool = True
    half: bool = False
    has_head: bool = False

    def write(self, saved: Path, output: Path, base: str | None = None) -> None:
        """Write weights and tokenizer into a folder, and compare the folder with what was trained.

        Weights, adapter, card and record of prompts of an earlier run in the folder are deleted first.

        Args:
            saved: Folder that ``GuardedTrainer.save_model`` wrote, or a saved state.
            output: Folder to write into.
            base: What a kept adapter names as its base, so that no path of this machine is published; None changes nothing.

        Raises:
            UserError: The folder cannot be written, or does not hold what was trained.
        """
        kept = output / ADAPTER_CONFIG
        with writing(output):
            self._write(saved, output)
            if base is not None and kept.exists():
                adapter = read_json(kept) | {"base_model_name_or_path": base}
                write_atomically(kept, json.dumps(adapter, indent=2) + "\n")
        read_back = self._adapted(output) if kept.exists() else self.load(output)
        trained = np.load(saved / PROBE_NAME, allow_pickle=False)
        compare_probes(trained, probe(read_back, has_head=self.has_head), output, half=self.half)

    def _write(self, saved: Path, output: Path) -> None:
        output.mkdir(parents=True, exist_ok=True)
        for old in (*output.glob("*.safetensors*"), output / ADAPTER_CONFIG, output / CARD_NAME, output / RECORD_NAME):
            old.unlink(missing_ok=True)  # an earlier run may have left another form
        if (saved / ADAPTER_CONFIG).exists() and self.merge:
            merged = self._adapted(saved)
            untie(merged)
            merged.merge_and_unload().save_pretrained(output)
        else:
            for file in sorted(saved.iterdir()):
                if file.suffix == ".safetensors" or file.name in COPIED:
                    shutil.copyfile(file, output / file.name)
        save_tokenizer(self.tokenizer, output)

    def _adapted(self, adapter: Path) -> Any:
        from peft import PeftModel

        return PeftModel.from_pretrained(self.load(self.start), str(adapter))


def untie(model: Any) -> None:
    """Give the output layer its own weights where an adapter on it, or on the embedding, is to be merged and both are one.

    Merged into weights that are shared, the adapter would change both.

    Args:
        model: A PEFT model; it is changed in place.
    """
    import torch

    base = model.get_base_model()
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    adapted = any(hasattr(layer, "base_layer") for layer in (embedding, head))
    if adapted and embedding.weight.data_ptr() == head.weight.data_ptr():
        layer = getattr(head, "base_layer", head)
        layer.weight = torch.nn.Parameter(layer.weight.detach().clone())
        base.config.tie_word_embeddings = False
