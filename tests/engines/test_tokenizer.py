from __future__ import annotations

import shutil

import pytest

from prmbench.engines.load import LoadOptions
from prmbench.engines.tokenizer import load_tokenizer
from prmbench.errors import UserError


def test_no_tokenizer(tiny, tmp_path):
    copy = shutil.copytree(tiny, tmp_path / "copy")
    (copy / "tokenizer.json").unlink()
    (copy / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_tokenizer(copy, LoadOptions())
