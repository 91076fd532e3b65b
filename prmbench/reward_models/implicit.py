"""Implicit reward models: the log-ratio of a model to its reference (Eqs. 1, 3, 5)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prmbench.data.records import read_json
from prmbench.data.tokens import EncodedTrace, TraceEncoder
from prmbench.engines.choose import load_engine
from prmbench.engines.hf.engine import HFEngine
from prmbench.engines.loading import (
    LoadOptions,
    check_finite,
    checkpoint_hash,
    load_causal_lm,
    load_tokenizer,
    locate,
)
from prmbench.engines.reference_cache import open_cache
from prmbench.engines.types import Engine
from prmbench.errors import UserError, first_line
from prmbench.reward_models.base import LoadRequest, RewardModel, register
from prmbench.reward_models.card import Card
from prmbench.reward_models.reference import Reference, reference_identity


@register("implicit")
class ImplicitRewardModel(RewardModel):
    """Token value r_t = log pi_phi(y_t given s_t) - log pi_ref(y_t given s_t), before beta.

    Two folders of weights, or a PEFT adapter whose base is the reference: then one copy of the weights serves both, with
    the adapter switched off for the reference.
    """

    encoder: TraceEncoder

    def __init__(self, model: Engine, reference: Reference, encoder: TraceEncoder, card: Card) -> None:
        if model.vocabulary != reference.shape.vocabulary:
            raise UserError(
                f"{model.source} has {model.vocabulary:,} logits a position, its reference {reference.source} has "
                f"{reference.shape.vocabulary:,}; a log-ratio needs one vocabulary: pass the reference it was trained against"
            )
        self.model = model
        self.reference = reference
        self.encoder = encoder
        self.card = card
        self.vocabulary = model.vocabulary
        limits = [limit for limit in (model.max_length, reference.shape.max_length) if limit]
        self.max_length = min(limits) if limits else None
        self.hashes = {}
        self.facts = {}

    @classmethod
    def load(cls, request: LoadRequest) -> ImplicitRewardModel:
        """Load model and reference. See `RewardModel.load`."""
        if (request.folder / "adapter_config.json").exists():
            return cls._load_adapter(request)
        if request.reference is None:
            raise UserError(
                f"{request.source}: an implicit reward model is a ratio; pass --reference with the model it was trained "
                "from (usually the SFT checkpoint)"
            )
        reference_folder = locate(request.reference, "--reference")
        hashes = {"model": checkpoint_hash(request.folder), "reference": checkpoint_hash(reference_folder)}
        tokenizer = load_tokenizer(_tokenizer_folder(request.folder, reference_folder), request.options)
        check_same_vocabulary(request.folder, reference_folder, request.options)
        encoder = TraceEncoder(tokenizer, request.card.tokens, request.chat_template)
        # Two engines share a device; and both are of one kind, because log-probs of two engines do not cancel.
        load = functools.partial(load_engine, request.engine, options=request.options, memory_share=0.42)
        model = load(folder=request.folder, source=request.source)
        reference = Reference(
            request.reference,
            functools.partial(load, folder=reference_folder, source=request.reference),
            reference_identity(hashes["reference"], request.engine, request.options),
            open_cache(request.reference_cache),
        )
        loaded = cls(model, reference, encoder, request.card)
        loaded.hashes = hashes
        loaded.facts = {**model.facts(), "reference": request.reference}
        loaded.engine = request.engine
        return loaded

    @classmethod
    def _load_adapter(cls, request: LoadRequest) -> ImplicitRewardModel:
        import torch
        from peft import PeftModel

        request.refuse_engine("an adapter switched on and off")
        if not (request.folder / "adapter_model.safetensors").exists():
            raise UserError(
                f"{request.folder}: a PEFT adapter without adapter_model.safetensors; save it again as safetensors"
            )
        named = read_json(request.folder / "adapter_config.json").get("base_model_name_or_path")
        base = request.reference or named
        if not base:
            raise UserError(f"{request.folder}/adapter_config.json: names no base model; pass --reference BASE")
        base_folder = locate(base, "--reference" if request.reference else f"{request.source}: its base model")
        hashes = {"model": checkpoint_hash(request.folder), "reference": checkpoint_hash(base_folder)}
        tokenizer = load_tokenizer(_tokenizer_folder(request.folder, base_folder), request.options)
        encoder = TraceEncoder(tokenizer, request.card.tokens, request.chat_template)
        model = load_causal_lm(base_folder, request.options)
        try:
            adapter = PeftModel.from_pretrained(model, str(request.folder)).eval()
        except Exception as error:
            raise UserError(f"{request.folder}: the adapter does not fit {base} ({first_line(error)})") from None
        check_finite(adapter, request.folder)
        engine = HFEngine(adapter.get_base_model(), request.source)
        reference = Reference(
            str(base),
            lambda: engine,
            reference_identity(
                hashes["reference"], "hf", request.options, plain_head=type(engine.head) is torch.nn.Linear
            ),
            open_cache(request.reference_cache),
            switched=adapter.disable_adapter,
        )
        loaded = cls(engine, reference, encoder, request.card)
        loaded.hashes = hashes
        loaded.facts = {**engine.facts(), "reference": str(base), "adapter": True}
        return loaded

    def device_and_dtype(self) -> tuple[str, str]:
        """See `RewardModel.device_and_dtype`."""
        return self.model.device_and_dtype()

    def token_values(self, batch: Sequence[EncodedTrace]) -> list[NDArray[np.float64]]:
        """The log-ratio. See `RewardModel.token_values`."""
        ids = [trace.ids for trace in batch]
        first = [trace.n_prompt for trace in batch]
        with_reference = self.reference.logprobs(ids, first)
        out = []
        for mine, theirs in zip(self.model.score(ids, first, frozenset({"logprob"})), with_reference, strict=True):
            assert mine.logprob is not None
            out.append(mine.logprob - theirs)
        return out

    @property
    def cached_tokens(self) -> int:
        """See `RewardModel.cached_tokens`."""
        return self.reference.cached_tokens


def _tokenizer_folder(folder: Path, fallback: Path) -> Path:
    return folder if (folder / "tokenizer_config.json").exists() or (folder / "tokenizer.json").exists() else fallback


def check_same_vocabulary(folder: Path, reference: Path, options: LoadOptions) -> None:
    """Raise UserError unless two checkpoints mean the same tokens by the same ids; tokenizers of one size may still differ."""
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
    """Raise UserError unless two checkpoints' configs say equally many logits a position, so that a log-ratio is defined."""
    sizes = [read_json(one / "config.json").get("vocab_size") for one in (folder, reference)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"{folder} has {sizes[0]} logits a position, {reference} {sizes[1]}; a log-ratio needs one vocabulary"
        )
