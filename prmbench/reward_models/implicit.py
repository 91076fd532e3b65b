"""Implicit reward models: the log-ratio of a model to its reference (Eqs. 1, 3, 5)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prmbench.data.records import read_json
from prmbench.data.revisions import snapshot_commit
from prmbench.data.tokens import EncodedTrace, TraceEncoder
from prmbench.engines.adapters import switchable
from prmbench.engines.checkpoint import ADAPTER_CONFIG, adapter_base, checkpoint_hash, is_adapter, locate, text_config
from prmbench.engines.hf.engine import HFEngine
from prmbench.engines.load import LoadOptions, load_causal_lm
from prmbench.engines.reference_cache import open_cache
from prmbench.engines.registry import load_engine
from prmbench.engines.tokenizer import has_tokenizer, load_tokenizer
from prmbench.engines.types import Engine
from prmbench.errors import ArgumentError, UserError, argument
from prmbench.reward_models.base import EngineRewardModel, LoadRequest, longest_scored
from prmbench.reward_models.card import Card
from prmbench.reward_models.log_ratio_dtype import choose_dtype
from prmbench.reward_models.reference_model import ReferenceModel, logprobs_of, reference_identity

_PROBE = 64  # number of tokens on which model and reference must differ
MEMORY_SHARE = 0.42
"""Share of the memory of each device that model and reference may reserve each (vLLM)."""


class ImplicitRewardModel(EngineRewardModel):
    """Token value r_t = log pi_phi(y_t given s_t) - log pi_ref(y_t given s_t), before beta.

    Model and reference are two folders of weights, or a PEFT adapter and its base. Then one copy of the weights serves both, where
    the adapter switched off gives the very numbers of its base.

    Attributes:
        encoder: What turns a trace into token ids.
        common: Token ids that mean the same to both, where these are not all; else None.
    """

    encoder: TraceEncoder

    def __init__(
        self,
        model: Engine,
        reference: ReferenceModel,
        encoder: TraceEncoder,
        card: Card,
        common: NDArray[np.int64] | None = None,
    ) -> None:
        """Take what was loaded.

        Args:
            model: The engine that holds pi_phi.
            reference: pi_ref.
            encoder: What turns a trace into token ids.
            card: The card, with the user's settings over it.
            common: Token ids that mean the same to both; None: all of them, and both give as many logits.

        Raises:
            UserError: They give different numbers of logits.
        """
        super().__init__(model, encoder, card)
        if common is None and model.vocabulary != reference.shape.vocabulary:
            raise UserError(
                f"{model.source} has {model.vocabulary:,} logits a position, its reference {reference.source} has "
                f"{reference.shape.vocabulary:,}; a log-ratio needs one vocabulary: pass the reference it was trained against"
            )
        self.reference, self.common = reference, common
        limits = [limit for limit in (model.max_length, reference.shape.max_length) if limit]
        self.max_length = longest_scored(model, min(limits, default=None))

    @classmethod
    def load(cls, request: LoadRequest) -> ImplicitRewardModel:
        """Load model and reference. See `RewardModel.load`.

        Args:
            request: The checkpoint and how to load it.
        """
        # Which folders: the model's, its base where it is an adapter, and the reference's.
        adapter = is_adapter(request.folder)
        if adapter:
            request.refuse_engine("an adapter switched on and off")
        name = request.reference or (_base_name(request) if adapter else None)
        if name is None:
            raise UserError(
                f"{request.source}: an implicit reward model is a ratio; pass {argument('reference')} with the model it was "
                "trained from (usually the SFT checkpoint)"
            )
        folder = locate(name, "reference") if request.reference else adapter_base(request.folder)
        base = _adapter_base(request, folder) if adapter else None
        hashes = {"model": checkpoint_hash(request.folder, base), "reference": checkpoint_hash(folder)}
        on_reference = base is not None and (base == folder or checkpoint_hash(base) == hashes["reference"])

        # How: in one dtype, over the token ids that both know.
        share = None if request.engine == "hf" else MEMORY_SHARE
        copies = [folder] if on_reference else [base or request.folder, folder]
        options, warnings = choose_dtype(request.options, copies, share=share)
        request = dataclasses.replace(request, options=options)
        warnings += _other_reference(request.card, name, hashes["reference"])
        common = common_ids(request.folder, folder, options, base)
        if common is not None and request.engine != "hf":
            raise ArgumentError(
                "engine",
                request.engine,
                "model and reference know different tokens, which only the engine hf leaves out of both",
            )
        encoder = request.encoder(_tokenizer_folder(request.folder, folder))

        # The engines. Both are of one kind: log-probs of two kinds of engines do not cancel.
        load = functools.partial(
            load_engine, request.engine, options=options, memory_share=MEMORY_SHARE, allowed=common
        )
        model, off = _load_model(request, base, load, common)
        if off is not None and on_reference:
            of_base: dict[str, Any] = {"load": lambda: model, "switched": off}
        else:
            of_base = {"load": functools.partial(load, folder=folder, source=name)}
        plain_head = "switched" not in of_base or not isinstance(model, HFEngine) or model.has_plain_head
        identity = reference_identity(
            hashes["reference"], request.engine, options, plain_head=plain_head, common=common
        )
        reference = ReferenceModel(name, identity=identity, cache=open_cache(request.reference_cache), **of_base)

        loaded = cls(model, reference, encoder, request.card, common)
        loaded.hashes, loaded.engine, loaded.warnings = hashes, request.engine, [*warnings, *loaded.nothing_learned()]
        commits = {
            "reference": snapshot_commit(folder),
            "base": None if base in (None, folder) else snapshot_commit(base),
        }
        loaded.commits = {role: commit for role, commit in commits.items() if commit is not None}
        loaded.facts |= {"reference": name} | ({"adapter": True} if adapter else {})
        return loaded

    def encode(self, problem: str, steps: Sequence[str]) -> EncodedTrace:
        """Turn a trace into token ids. See `RewardModel.encode`.

        Args:
            problem: Text of the problem alone.
            steps: Texts of the steps.

        Raises:
            UserError: A token is known to one of model and reference only.
        """
        encoded = super().encode(problem, steps)
        if self.common is not None and len(unknown := np.setdiff1d(encoded.ids, self.common)):
            token = self.encoder.tokenizer.convert_ids_to_tokens(int(unknown[0]))
            raise UserError(
                f"a trace holds the token {token!r}, which {self.source} and its reference {self.reference.source} do not both "
                "know; pass the reference it was trained against"
            )
        return encoded

    def nothing_learned(self) -> list[str]:
        """Warn where model and reference give the very same numbers, so that every score is 0."""
        known = np.arange(self.vocabulary) if self.common is None else self.common
        ids = [known[np.linspace(0, len(known) - 1, min(_PROBE, self.max_length or _PROBE)).astype(np.int64)]]
        mine, theirs = logprobs_of(self.model, ids, [1])[0], self.reference.logprobs(ids, [1])[0]
        self.reference.cached_tokens = 0  # of traces alone
        if (mine != theirs).any():
            return []
        return [
            f"{self.model.source} and its reference {self.reference.source} compute the same, so that every score is 0: "
            "the model is not trained, or the reference is not the one that it was trained from"
        ]

    def token_values(self, batch: Sequence[EncodedTrace]) -> list[NDArray[np.float64]]:
        """Give the log-ratio. See `RewardModel.token_values`.

        Args:
            batch: The traces, from `encode`.
        """
        ids = [trace.ids for trace in batch]
        first = [trace.n_prompt for trace in batch]
        theirs = self.reference.logprobs(ids, first)
        return [a - b for a, b in zip(logprobs_of(self.model, ids, first), theirs, strict=True)]

    def decoders(self) -> list[Engine]:
        """Model and reference. See `RewardModel.decoders`."""
        return [self.model, self.reference.engine()]

    @property
    def cached_tokens(self) -> int:
        """Tokens, since loading, whose reference log-probs were in the cache."""
        return self.reference.cached_tokens


Off = Callable[[], AbstractContextManager[Any]] | None
"""A context in which a model with an adapter computes the numbers of its base; None where it cannot."""


def _load_model(
    request: LoadRequest, base: Path | None, load: Callable[..., Engine], common: NDArray[np.int64] | None
) -> tuple[Engine, Off]:
    """Load pi_phi; of an adapter with the way to switch it off."""
    if base is None:
        return load(folder=request.folder, source=request.source), None
    model, off = switchable(load_causal_lm(base, request.options), request.folder)
    return HFEngine(model, request.source, common), off


def _adapter_base(request: LoadRequest, reference: Path) -> Path:
    """Find the base of an adapter: what its config names, else the reference, whose place may be known here alone."""
    try:
        return adapter_base(request.folder)
    except UserError:
        return reference


def _other_reference(card: Card, name: str, weights: str) -> list[str]:
    """Warn where the reference is not the one that the model was trained against."""
    if card.reference_weights in (None, weights):
        return []
    return [
        f"the reference {name} has the weights {weights[:12]}, the model was trained against {card.reference_weights[:12]}: "
        "its values are not those that it was trained to give"
    ]


def _base_name(request: LoadRequest) -> str:
    name = read_json(request.folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not name:
        raise UserError(
            f"{request.folder}/{ADAPTER_CONFIG}: names no base model; pass {argument('reference')} with the base"
        )
    return str(name)


def _tokenizer_folder(folder: Path, fallback: Path) -> Path:
    return folder if has_tokenizer(folder) else fallback


def common_ids(
    folder: Path, reference: Path, options: LoadOptions, base: Path | None = None
) -> NDArray[np.int64] | None:
    """Find the token ids that mean the same to two checkpoints.

    A model may have more logits than its tokenizer has tokens, and one of the two a token more, such as one for padding.

    Args:
        folder: Folder of a model.
        reference: Folder of its reference.
        options: Whether code that a checkpoint carries may run.
        base: Folder of the base of the model, where it is an adapter; None: the one that its config names.

    Returns:
        The ids in ascending order, int64; None where both have the same tokens and equally many logits.

    Raises:
        UserError: A token has another id in one of the two, or an id another token; tokenizers of one size may still differ.
    """
    mine, theirs = _vocabularies(folder, reference, options)
    others = set(theirs.values())
    _refuse_different(folder, reference, mine, theirs, {t for t, i in mine.items() if t in theirs or i in others})
    sizes = [size for one in (base or folder, reference) if (size := text_config(one).get("vocab_size")) is not None]
    if mine == theirs and len(set(sizes)) < 2:
        return None
    ids = np.unique(np.fromiter((i for token, i in mine.items() if token in theirs), dtype=np.int64))
    return ids[ids < min(sizes, default=len(mine) + len(theirs))]


def check_same_vocabulary(folder: Path, reference: Path, options: LoadOptions) -> None:
    """Check that two checkpoints mean the same tokens by the same ids. Tokenizers of one size may still differ.

    Args:
        folder: Folder of a model.
        reference: Folder of its reference.
        options: Whether code that a checkpoint carries may run.

    Raises:
        UserError: A token has another id in one of the two, or is in one alone.
    """
    mine, theirs = _vocabularies(folder, reference, options)
    _refuse_different(folder, reference, mine, theirs, mine.keys() | theirs.keys())


def _vocabularies(folder: Path, reference: Path, options: LoadOptions) -> tuple[dict[str, int], dict[str, int]]:
    """The ids of the tokens of two checkpoints; one without a tokenizer has that of the other."""
    places = _tokenizer_folder(folder, reference), _tokenizer_folder(reference, folder)
    mine = load_tokenizer(places[0], options).get_vocab()
    return mine, mine if places[1] == places[0] else load_tokenizer(places[1], options).get_vocab()


def _refuse_different(
    folder: Path, reference: Path, mine: dict[str, int], theirs: dict[str, int], tokens: Collection[str]
) -> None:
    different = sorted(token for token in tokens if mine.get(token) != theirs.get(token))
    if different:
        token = different[0]
        raise UserError(
            f"{folder} and its reference {reference} differ in {len(different):,} tokens of their vocabularies "
            f"({token!r} is {mine.get(token)} and {theirs.get(token)}); pass the reference it was trained against"
        )


def shared_logits(folder: Path, others: Sequence[Path], options: LoadOptions) -> int | None:
    """Find how many logits, from the first on, mean the same to several checkpoints. A training takes log-probs over these alone.

    Args:
        folder: Folder of a model.
        others: Folders of its reference and the like.
        options: Whether code that a checkpoint carries may run.

    Returns:
        Their number; None where all checkpoints have the same tokens and equally many logits.

    Raises:
        UserError: A token has another id in one of them, or one that they do not share is among the others.
    """
    found = [ids for other in others if (ids := common_ids(folder, other, options)) is not None]
    if not found:
        return None
    size = min(map(len, found))
    if any(ids[size - 1] != size - 1 for ids in found):
        raise UserError(
            f"{folder} and {', '.join(map(str, others))}: tokens that they do not share are in the midst of their vocabularies; "
            "start from checkpoints of one vocabulary"
        )
    return size
