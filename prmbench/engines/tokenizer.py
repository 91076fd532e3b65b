"""The tokenizer of a checkpoint folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prmbench.engines.load import LoadOptions
from prmbench.errors import UserError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(folder: Path, options: LoadOptions) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a checkpoint folder.

    Args:
        folder: The checkpoint folder.
        options: Whether code that the checkpoint carries is run.

    Returns:
        The tokenizer.

    Raises:
        UserError: There is none, or it cannot be loaded.
    """
    from transformers import AutoTokenizer

    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        raise UserError(f"{folder}: holds no tokenizer (tokenizer.json); save the tokenizer with the model")
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=options.trust_remote_code)
    except Exception as error:
        raise UserError(f"{folder}: the tokenizer cannot be loaded ({first_line(error)})") from None
