"""Implicit reward models: the log-ratio of a model to its reference (Eqs. 1, 3, 5)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prmbench.data.records import read_json
from prmbench.data.tokens import EncodedTrace, TraceEncoder
from prmbench.engines.checkpoint import checkpoint_hash, locate
from prmbench.engines.hf.engine import HFEngine
from prmbench.engines.load import LoadOptions, check_finite, load_causal_lm
from prmbench.engines.reference_cache import open_cache
from prmbench.engines.registry import load_engine
from prmbench.engines.tokenizer import load_tokenizer
from prmbench.engines.types import Engine
from prmbench.errors import UserError, argument, first_line
from prmbench.reward_models.base import EngineRewardModel, LoadRequest
from prmbench.reward_models.card import Card
from prmbench.reward_models.log_ratio_dtype import choose_dtype
from prmbench.reward_models.reference_model import ReferenceModel, logprobs_of, reference_identity

ADAPTER_CONFIG = "adapter_config.json"
MEMORY_SHARE = 0.42
"""Share of the memory of each device that model and reference may reserve each (vLLM)."""


class ImplicitRewardModel(EngineRewardModel):
    """Token value r_t = log pi_phi(y_t given s_t) - log pi_ref(y_t given s_t), before beta.

    Model and reference are two folders of weights, or a PEFT adapter and its base. Then one copy of the weights serves both, with
    the adapter switched off for the reference.

    Attributes:
        encoder: What turns a trace into token ids.
    """

    encoder: TraceEncoder

    def __init__(self, model: Engine, reference: ReferenceModel, encoder: TraceEncoder, card: Card) -> None:
        """Check that model and reference share one vocabulary.

        Args:
            model: The engine that holds pi_phi.
            reference: pi_ref.
            encoder: What turns a trace into token ids.
            card: The card, with the user's settings over it.

        Raises:
            UserError: They give different numbers of logits.
        """
        super().__init__(model, encoder, card)
        if model.vocabulary != reference.shape.vocabulary:
            raise UserError(
                f"{model.source} has {model.vocabulary:,} logits a position, its reference {reference.source} has "
                f"{reference.shape.vocabulary:,}; a log-ratio needs one vocabulary: pass the reference it was trained against"
            )
        self.reference = reference
        limits = [limit for limit in (model.max_length, reference.shape.max_length) if limit]
        self.max_length = min(limits) if limits else None

    @classmethod
    def load(cls, request: LoadRequest) -> ImplicitRewardModel:
        """Load model and reference. See `RewardModel.load`.

        Args:
            request: The checkpoint and how to load it.
        """
        is_adapter = (request.folder / ADAPTER_CONFIG).exists()
        if is_adapter:
            request.refuse_engine("an adapter switched on and off")
            if not (request.folder / "adapter_model.safetensors").exists():
                raise UserError(
                    f"{request.folder}: a PEFT adapter without adapter_model.safetensors; save it again as safetensors"
                )
        name = request.reference or (_base_of_adapter(request) if is_adapter else None)
        if name is None:
            raise UserError(
                f"{request.source}: an implicit reward model is a ratio; pass {argument('reference')} with the model it was "
                "trained from (usually the SFT checkpoint)"
            )
        folder = locate(name, "reference")
        hashes = {"model": checkpoint_hash(request.folder), "reference": checkpoint_hash(folder)}
        share = None if request.engine == "hf" else MEMORY_SHARE
        options, warnings = choose_dtype(request.options, [request.folder, folder], share=share)
        request = dataclasses.replace(request, options=options)
        warnings += _other_reference(request.card, name, hashes["reference"])
        encoder = request.encoder(_tokenizer_folder(request.folder, folder))
        pair = _load_adapter if is_adapter else _load_both
        model, reference = pair(request, name, folder, hashes["reference"])
        loaded = cls(model, reference, encoder, request.card)
        loaded.hashes, loaded.engine, loaded.warnings = hashes, request.engine, warnings
        loaded.facts |= {"reference": name} | ({"adapter": True} if is_adapter else {})
        return loaded

    def token_values(self, batch: Sequence[EncodedTrace]) -> list[NDArray[np.float64]]:
        """Give the log-ratio. See `RewardModel.token_values`.

        Args:
            batch: The traces, from `encode`.
        """
        ids = [trace.ids for trace in batch]
        first = [trace.n_prompt for trace in batch]
        theirs = self.reference.logprobs(ids, first)
        return [a - b for a, b in zip(logprobs_of(self.model, ids, first), theirs, strict=True)]

    @property
    def cached_tokens(self) -> int:
        """Tokens, since loading, whose reference log-probs were in the cache."""
        return self.reference.cached_tokens


def _load_both(request: LoadRequest, name: str, folder: Path, digest: str) -> tuple[Engine, ReferenceModel]:
    """Load two folders of weights into two engines of one kind: log-probs of two kinds of engines do not cancel."""
    check_same_vocabulary(request.folder, folder, request.options)
    load = functools.partial(load_engine, request.engine, options=request.options, memory_share=MEMORY_SHARE)
    model = load(folder=request.folder, source=request.source)
    reference = ReferenceModel(
        name,
        functools.partial(load, folder=folder, source=name),
        reference_identity(digest, request.engine, request.options),
        open_cache(request.reference_cache),
    )
    return model, reference


def _load_adapter(request: LoadRequest, name: str, folder: Path, digest: str) -> tuple[Engine, ReferenceModel]:
    """Load an adapter and its base into one engine."""
    import torch
    from peft import PeftModel

    base = load_causal_lm(folder, request.options)
    try:
        adapter = PeftModel.from_pretrained(base, str(request.folder)).eval()
    except Exception as error:
        raise UserError(f"{request.folder}: the adapter does not fit {name} ({first_line(error)})") from None
    check_finite(adapter, request.folder)
    engine = HFEngine(adapter.get_base_model(), request.source)
    plain_head = type(engine.head) is torch.nn.Linear
    reference = ReferenceModel(
        name,
        lambda: engine,
        reference_identity(digest, "hf", request.options, plain_head=plain_head),
        open_cache(request.reference_cache),
        switched=adapter.disable_adapter,
    )
    return engine, reference


def _other_reference(card: Card, name: str, weights: str) -> list[str]:
    """Warn where the reference is not the one that the model was trained against."""
    if card.reference_weights in (None, weights):
        return []
    return [
        f"the reference {name} has the weights {weights[:12]}, the model was trained against {card.reference_weights[:12]}: "
        "its values are not those that it was trained to give"
    ]


def _base_of_adapter(request: LoadRequest) -> str:
    name = read_json(request.folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not name:
        raise UserError(
            f"{request.folder}/{ADAPTER_CONFIG}: names no base model; pass {argument('reference')} with the base"
        )
    return str(name)


def _tokenizer_folder(folder: Path, fallback: Path) -> Path:
    return folder if (folder / "tokenizer_config.json").exists() or (folder / "tokenizer.json").exists() else fallback


def check_same_vocabulary(folder: Path, reference: Path, options: LoadOptions) -> None:
    """Check that two checkpoints mean the same tokens by the same ids. Tokenizers of one size may still differ.

    Args:
        folder: Folder of a model.
        reference: Folder of its reference.
        options: Whether code that a checkpoint carries may run.

    Raises:
        UserError: A token has another id in one of the two.
    """
    if _tokenizer_folder(folder, reference) == reference or _tokenizer_folder(reference, folder) == folder:
        return
    mine, theirs = load_tokenizer(folder, options).get_vocab(), load_tokenizer(reference, options).get_vocab()
    different = sorted(token for token in mine.keys() | theirs.keys() if mine.get(token) != theirs.get(token))
    if different:
        token = different[0]
        raise UserError(
            f"{folder} and its reference {reference} differ in {len(different):,} tokens of their vocabularies "
            f"({token!r} is {mine.get(token)} and {theirs.get(token)}); pass the reference it was trained against"
        )


def check_same_logits(folder: Path, reference: Path) -> None:
    """Check that two checkpoints give equally many logits a position, by their configs, so that a log-ratio is defined.

    Args:
        folder: Folder of a model.
        reference: Folder of its reference.

    Raises:
        UserError: They do not.
    """
    sizes = [read_json(one / "config.json").get("vocab_size") for one in (folder, reference)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"{folder} has {sizes[0]} logits a position, {reference} {sizes[1]}; a log-ratio needs one vocabulary"
        )
