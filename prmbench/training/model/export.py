"""From what a trainer saved to a checkpoint of its own: adapters merged where asked, pickled arguments left out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from prmbench.data.records import read_json
from prmbench.results.store import write_atomically
from prmbench.reward_models.card import CARD_NAME

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

ADAPTER_NAME = "adapter_config.json"


def export_weights(
    saved: Path,
    output: Path,
    merge_into: Callable[[], PreTrainedModel] | None,
    tokenizer: PreTrainedTokenizerFast,
    base: str | None = None,
) -> None:
    """Write weights and tokenizer into a folder; weights, adapter and card of an earlier run there are deleted first.

    Args:
        saved: Folder that ``Trainer.save_model`` wrote.
        output: Folder to write into.
        merge_into: Loads the model into which the saved adapter is merged; None copies the files as they are.
        tokenizer: The tokenizer.
        base: What a copied adapter names as its base, so that no path of this machine is published; None changes nothing.
    """
    output.mkdir(parents=True, exist_ok=True)
    for old in (*output.glob("*.safetensors*"), output / ADAPTER_NAME, output / CARD_NAME):
        old.unlink(missing_ok=True)  # of an earlier run, perhaps of another form
    if merge_into is not None:
        from peft import PeftModel

        merged = PeftModel.from_pretrained(merge_into(), str(saved)).merge_and_unload()
        merged.save_pretrained(output)
    else:
        for file in sorted(saved.iterdir()):
            of_training = file.suffix in (".bin", ".pt", ".pth", ".md") or file.name in (
                "best.json",
                "trainer_state.json",
            )
            if file.is_file() and not of_training:
                shutil.copyfile(file, output / file.name)
    if base is not None and (output / ADAPTER_NAME).exists():
        adapter = read_json(output / ADAPTER_NAME) | {"base_model_name_or_path": base}
        write_atomically(output / ADAPTER_NAME, json.dumps(adapter, indent=2) + "\n")
    tokenizer.save_pretrained(output)
