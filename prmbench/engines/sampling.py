"""What is asked of sampling and what comes back. This module needs no torch."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prmbench.data.records import check_object
from prmbench.errors import UserError, printable

FinishReason = Literal["stop", "length"]


class SamplingParams(BaseModel):
    """How completions are sampled. It is part of what makes two entries of policies comparable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float = Field(1.0, ge=0, allow_inf_nan=False, description="temperature; 0 is greedy")
    top_p: float = Field(
        1.0, gt=0, le=1, description="the smallest set of likeliest tokens with at least this mass is kept"
    )
    top_k: int = Field(0, ge=0, description="this many likeliest tokens are kept; 0 keeps all")
    max_new_tokens: int = Field(
        2048, ge=1, description="most tokens of a completion; one that is cut here counts as wrong"
    )


def recorded_params(place: str, fields: object) -> SamplingParams:
    """Check the sampling parameters that a run or an entry recorded.

    Args:
        place: Where they stand, for errors.
        fields: The JSON value.

    Returns:
        The parameters.

    Raises:
        UserError: One is missing, not known or wrong; it is named.
    """
    check_object(place, fields, tuple(SamplingParams.model_fields), "sampling parameters")
    try:
        return SamplingParams.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(printable(str(part)) for part in first["loc"])
        raise UserError(f"{place}: {where}: {first['msg'].lower()}") from None


def uniforms(seed: int, key: str, sample: int, size: int) -> NDArray[np.float64]:
    """Draw the random numbers of one completion.

    They depend on the arguments alone. So a completion does not depend on what else is in its batch, on the batch size or on an
    interruption.

    Args:
        seed: Seed of the run.
        key: Id of the problem.
        sample: Number of the sample among those of its problem.
        size: How many random numbers are drawn. More of them begin with the same ones.

    Returns:
        float64 in [0, 1). Shape [size].
    """
    return np.random.default_rng([seed, zlib.crc32(key.encode()), sample]).random(size)


def request_seed(seed: int, key: str, sample: int) -> int:
    """Give the seed of one request. It depends on the arguments alone.

    Args:
        seed: Seed of the run.
        key: Id of the problem.
        sample: Number of the sample among those of its problem.

    Returns:
        A number from 0 to 2**31 - 1.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}:{sample}".encode()).digest()[:4], "big") >> 1


@dataclass(frozen=True)
class Request:
    """One completion to sample.

    Attributes:
        prompt: Token ids of the prompt. int64, shape [p].
        key: Id that its random numbers depend on.
        sample: Number that its random numbers depend on too.
        room: Most tokens that it may have; None leaves it to the parameters.
        forced: Id of its first token, so that only the rest is sampled; None samples this one too. Requests that differ in it alone
            share the computation of their prompt.
    """

    prompt: NDArray[np.int64]
    key: str
    sample: int
    room: int | None = None
    forced: int | None = None

    def limit(self, max_new_tokens: int, max_length: int | None) -> int:
        """Give the number of tokens that it may have.

        Args:
            max_new_tokens: Most tokens as the parameters say.
            max_length: Longest sequence of the model; None where it is not known.

        Returns:
            The smallest of the limits. It is below 1 where the prompt leaves no room.
        """
        limits = [max_new_tokens, self.room, max_length and max_length - len(self.prompt)]
        return min(limit for limit in limits if limit is not None)


@dataclass(frozen=True)
class Completion:
    """A sampled completion.

    Attributes:
        ids: Token ids, the one that ended it included. int64, shape [t].
        finish_reason: ``stop`` where a token ended it, ``length`` where it was cut.
    """

    ids: NDArray[np.int64]
    finish_reason: FinishReason
