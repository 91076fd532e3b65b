"""From what a trainer saved to a checkpoint of its own: adapters merged where asked, pickled arguments left out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from prmbench.reward_models.card import CARD_NAME

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

ADAPTER_NAME = "adapter_config.json"


def export_weights(
    saved: Path, output: Path, merge_into: Callable[[], PreTrainedModel] | None, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Write weights and tokenizer into `output`; weights, adapter and card of an earlier run there are deleted first.

    Args:
        saved: folder of ``Trainer.save_model``. merge_into: loads the model whose adapter `saved` holds; None: copy the files.
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
            if file.is_file() and file.suffix not in (".bin", ".pt", ".md") and file.name != "best.json":
                shutil.copyfile(file, output / file.name)
    tokenizer.save_pretrained(output)
