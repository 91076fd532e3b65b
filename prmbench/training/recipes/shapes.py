"""The shapes of a backbone and the size of its data, for a dry run without either."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    pass


class Backbone(BaseModel):
    """Shapes of a backbone, so that a dry run needs no checkpoint."""

    model_config = ConfigDict(extra="forbid")

    layers: int = Field(ge=1, description="transformer blocks")
    width: int = Field(ge=1, description="hidden size")
    heads: int = Field(ge=1, description="query heads")
    kv_heads: int = Field(ge=1, description="key and value heads")
    head_dim: int = Field(ge=1, description="width of a head")
    intermediate: int = Field(ge=1, description="width of the gated feed-forward layer")
    vocabulary: int = Field(ge=1, description="rows of the embedding")
    tied: bool = Field(description="whether the output layer is the embedding")
    qk_norm: bool = Field(False, description="whether queries and keys are normalised (Qwen3)")


class Expected(BaseModel):
    """What the data are expected to be, for a dry run without them."""

    model_config = ConfigDict(extra="forbid")

    records: int = Field(ge=1, description="units trained on: chats, or pairs")
    tokens: int = Field(ge=1, description="tokens of one sequence on average, prompt included")
