"""The shapes of a backbone and the size of its data, so that a run can be planned without either."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from prmbench.data.records import read_json
from prmbench.errors import UserError


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

    @classmethod
    def read(cls, config_file: Path) -> Backbone:
        """Read the shapes of a checkpoint.

        Args:
            config_file: The checkpoint's ``config.json``.

        Returns:
            The shapes.

        Raises:
            UserError: The file lacks a shape, as those of architectures other than Llama's and Qwen3's may.
        """
        config = read_json(config_file)
        try:
            return cls(
                layers=config["num_hidden_layers"],
                width=config["hidden_size"],
                heads=config["num_attention_heads"],
                kv_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
                head_dim=config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
                intermediate=config["intermediate_size"],
                vocabulary=config["vocab_size"],
                tied=config.get("tie_word_embeddings", False),
                qk_norm=config.get("model_type") == "qwen3",
            )
        except KeyError as error:
            raise UserError(
                f"{config_file}: has no {error.args[0]}; a plan knows Llama- and Qwen3-like models"
            ) from None

    def check(self, config_file: Path) -> Backbone:
        """Check these shapes against those of a checkpoint.

        Args:
            config_file: The checkpoint's ``config.json``.

        Returns:
            The shapes, which are the same.

        Raises:
            UserError: A shape differs; the message names it.
        """
        found, wanted = Backbone.read(config_file).model_dump(), self.model_dump()
        for name, value in found.items():
            if value != wanted[name]:
                raise UserError(
                    f"backbone.{name} is {wanted[name]} in the recipe, {value} in {config_file}; mend the recipe"
                )
        return self


class Expected(BaseModel):
    """The size that the data are expected to have, for a dry run without them."""

    model_config = ConfigDict(extra="forbid")

    records: int = Field(ge=1, description="units trained on: chats, pairs or problems")
    tokens: int = Field(ge=1, description="tokens of one sequence on average, prompt included")
