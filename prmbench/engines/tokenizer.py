"""The tokenizer of a checkpoint folder: loaded so that it gives the ids that its file says, and saved so that others load the same.

transformers rebuilds many tokenizers by the class that their config names, whatever the file ``tokenizer.json`` says. Where that
gives other ids on a probe (spaces, digits, several scripts, every added token), the file itself is used.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prmbench.data.records import read_json
from prmbench.data.tokens import plain_tokenizer
from prmbench.engines.checkpoint import adapter_base, is_adapter
from prmbench.engines.load import LoadOptions
from prmbench.errors import UserError, first_line, shortened

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

FILE = "tokenizer.json"

PROBE = (
    "Tom has 3 apples, buys 14 more and pays 1,234.50 dollars; it's 3*14=42, isn't it?",
    " A space first,  two,   three, and one at the end ",
    "Step 1: Let x be 5.\n\nStep 2: So\tx^2 = 25.\r\n\n\n  - indented\n",
    "$$\\frac{a_{1}}{b} \\le \\sqrt{x^2+1}$$ \\boxed{12}",
    "Die Lösung: Straße, naïve cafe\u0301. Ответ: семь. 答案是三。答えは三。정답 الجواب שלום คำตอบ",
    "\ufb01 \u2460 \u00bd \uff21\uff22 \u00a0\u2009 “quotes” — … \U0001f600\U0001f469\u200d\U0001f52c e\u0301 \u00e9",
    "def f(x):\n    return x  # 0x1F, snake_case, CamelCase, a.b@c.de, https://a.b/c?d=1&e=2",
    "\n",
    " ",
    "x",
)
"""Texts on which two tokenizers of one vocabulary differ where they differ at all in how they treat text."""


def load_tokenizer(folder: Path, options: LoadOptions) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a checkpoint folder.

    Its attribute ``origin`` says what its ids are those of, for provenance.

    Args:
        folder: The checkpoint folder. An adapter without a tokenizer has that of its base.
        options: Whether code that the checkpoint carries is run.

    Returns:
        The tokenizer.

    Raises:
        UserError: There is none, it cannot be loaded, or what transformers makes of its files gives other ids than these.
    """
    from transformers import AutoTokenizer

    while is_adapter(folder) and not has_tokenizer(folder):
        folder = adapter_base(folder)
    if not has_tokenizer(folder):
        raise UserError(f"{folder}: holds no tokenizer ({FILE}); save the tokenizer with the model")
    own = _own(folder)
    try:
        found = AutoTokenizer.from_pretrained(folder, trust_remote_code=options.trust_remote_code)
    except Exception as error:
        if own is None:
            raise UserError(f"{folder}: the tokenizer cannot be loaded ({first_line(error)})") from None
        found = None
    if own is not None:
        origin = FILE
        if found is None or _difference(found, own) is not None:
            rebuilt = "nothing" if found is None else type(found).__name__
            origin, found = f"{FILE}, of which transformers makes {rebuilt}", _of_file(folder, found)
            if (text := _difference(found, own)) is not None:
                raise UserError(
                    f"{folder}: its {FILE} gives other ids for {shortened(json.dumps(text))} than the tokenizer that transformers "
                    "makes of the folder, so scores would be wrong; save the tokenizer again (tokenizer.save_pretrained)"
                )
    else:
        origin = f"files that {type(found).__name__} reads"
        _check_sentencepiece(folder, found)
    # The chat template of a processor, where text and images have one.
    if found.chat_template is None and (folder / "chat_template.json").exists():
        found.chat_template = read_json(folder / "chat_template.json").get("chat_template")
    # What is decoded is what was sampled: no spaces are tidied away.
    found.clean_up_tokenization_spaces = (
        found.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output
    ) = False
    found.origin = origin
    return found


def has_tokenizer(folder: Path) -> bool:
    """Say whether there are files of a tokenizer in a folder.

    Args:
        folder: The checkpoint folder.
    """
    return any((folder / name).exists() for name in (FILE, "tokenizer_config.json", "tokenizer.model", "vocab.json"))


def token_ids(tokenizer: PreTrainedTokenizerBase) -> NDArray[np.int64]:
    """List the ids that a tokenizer has a token for. A model may have more logits, which mean nothing.

    Args:
        tokenizer: The tokenizer.

    Returns:
        The ids in ascending order. int64, shape [n].
    """
    return np.unique(np.fromiter(tokenizer.get_vocab().values(), dtype=np.int64))


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a tokenizer beside a model, so that whoever loads it gets the same ids.

    The class that its config names is changed where transformers would make another tokenizer by it. Beside the configs of some
    models (Qwen 2, Phi 3) transformers does so whatever the class; `load_tokenizer` and the tokenizers library do not.

    Args:
        tokenizer: The tokenizer.
        folder: The checkpoint folder. Its ``config.json`` is there already: it too decides how transformers loads the tokenizer.

    Raises:
        UserError: What was written gives other ids.
    """
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(folder)
    config = folder / "tokenizer_config.json"
    written, own = read_json(config), tokenizer.backend_tokenizer
    # The class that the tokenizer has, where it reads the file as it is; else none of its own, by the name of all versions.
    for name in dict.fromkeys((written.get("tokenizer_class"), "PreTrainedTokenizerFast")):
        if name != "TokenizersBackend":
            fields = json.dumps(written | {"tokenizer_class": name}, indent=2)
            config.write_text(f"{fields}\n", encoding="utf-8")
            if _difference(AutoTokenizer.from_pretrained(folder), own) is None:
                return
    if (text := _difference(load_tokenizer(folder, LoadOptions()), own)) is not None:
        raise UserError(f"{folder}: the tokenizer gives other ids for {shortened(json.dumps(text))} once it is saved")


def _own(folder: Path) -> Tokenizer | None:
    """The tokenizer that the file itself says, with the added tokens of the tokenizer's config; None where there is no file."""
    from tokenizers import AddedToken, Tokenizer

    if not (folder / FILE).exists():
        return None
    try:
        own = Tokenizer.from_file(str(folder / FILE))
        config = folder / "tokenizer_config.json"
        added: dict[str, Any] = read_json(config).get("added_tokens_decoder", {}) if config.exists() else {}
        for _, token in sorted(added.items(), key=lambda pair: int(pair[0])):
            own.add_tokens([AddedToken(**token)])
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{folder / FILE}: cannot be read ({first_line(error)}); download it again") from None
    return own


def _of_file(folder: Path, rebuilt: PreTrainedTokenizerBase | None) -> PreTrainedTokenizerFast:
    """The tokenizer of the file as transformers wraps it; special tokens that only its class names are kept."""
    from transformers import PreTrainedTokenizerFast

    try:
        found = PreTrainedTokenizerFast.from_pretrained(folder)
    except Exception as error:
        raise UserError(f"{folder}: the tokenizer cannot be loaded ({first_line(error)})") from None
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        token = getattr(rebuilt, name, None)
        if (
            getattr(found, name) is None
            and token is not None
            and found.backend_tokenizer.token_to_id(str(token)) is not None
        ):
            setattr(found, name, token)
    return found


def _difference(tokenizer: PreTrainedTokenizerBase, own: Tokenizer) -> str | None:
    """The first text that two tokenizers give other ids, or make other text of the same ids; None where there is none."""
    if not tokenizer.is_fast:
        return ""
    plain = plain_tokenizer(tokenizer)
    own = own.from_str(own.to_str())
    own.no_padding()
    own.no_truncation()
    # Tokens that only transformers adds, because the config names them, are not in the file.
    for number, token in sorted(tokenizer.added_tokens_decoder.items()):
        if own.token_to_id(token.content) is None:
            own.add_tokens([token])
        if own.token_to_id(token.content) != number:
            return token.content
    tokens = [token.content for token in own.get_added_tokens_decoder().values()]
    for text in [*PROBE, *(f"{token}a {token} b\n{token}\n" for token in tokens)]:
        ids = own.encode(text, add_special_tokens=False).ids
        if plain.encode(text, add_special_tokens=False).ids != ids:
            return text
        if plain.decode(ids, skip_special_tokens=False) != own.decode(ids, skip_special_tokens=False):
            return text
    return None


def _check_sentencepiece(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError where a tokenizer that was made of a SentencePiece model gives other ids than SentencePiece."""
    if not (folder / "tokenizer.model").exists():
        return
    texts: Sequence[str] = ["", *PROBE]
    try:
        from sentencepiece import SentencePieceProcessor

        processor = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        wanted = [processor.encode(text) for text in texts]
    except Exception as error:  # not installed, or no model of SentencePiece
        raise UserError(
            f"{folder}: holds a tokenizer.model without {FILE}, and it cannot be checked ({first_line(error)}); save a {FILE}"
        ) from None
    plain = plain_tokenizer(tokenizer)
    for text, ids in zip(texts, wanted, strict=True):
        if plain.encode(text, add_special_tokens=False).ids != ids:
            raise UserError(
                f"{folder}: holds a tokenizer.model without {FILE}, and what transformers makes of it gives other ids for "
                f"{shortened(json.dumps(text))} than SentencePiece, so scores would be wrong; save a {FILE} with it"
            )
