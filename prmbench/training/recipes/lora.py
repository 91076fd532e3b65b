"""Low-rank adapters in a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from prmbench.errors import UserError, first_line

if TYPE_CHECKING:
    from peft import LoraConfig


class LoraOptions(BaseModel):
    """A low-rank adapter, which is trained instead of all weights."""

    model_config = ConfigDict(extra="forbid")

    rank: int = Field(128, ge=1, le=1 << 16, description="rank of the adapter's matrices")
    alpha: int = Field(128, ge=1, description="scaling factor; the adapter's output is multiplied by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of the adapter's inputs that are dropped in training")
    targets: str | list[str] = Field("all-linear", description="modules that carry the adapter")
    merge: bool = Field(True, description="save the merged weights, so that the result is an ordinary checkpoint")

    def config(self, save_whole: list[str] | None = None) -> LoraConfig:
        """Make PEFT's configuration.

        Args:
            save_whole: Modules that are trained in full beside the adapter.
        """
        from peft import LoraConfig

        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.targets,
            exclude_modules=save_whole,
            modules_to_save=save_whole,
            task_type="CAUSAL_LM",
        )


def add_adapter(model: Any, lora: LoraOptions, save_whole: list[str] | None = None) -> Any:
    """Put an adapter into a model.

    Args:
        model: A transformers model; it is changed in place.
        lora: The adapter's options.
        save_whole: Modules that are trained in full beside the adapter.

    Returns:
        The PEFT model around it.

    Raises:
        UserError: The model has no such targets; or the output layer is one, whose log-probs are computed outside it.
    """
    import warnings

    from peft import get_peft_model

    # PEFT warns of tied weights. They are taken apart when an adapter on them is merged.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"peft\.")
    head = model.get_output_embeddings()
    try:
        adapted = get_peft_model(model, lora.config(save_whole))
    except ValueError as error:
        raise UserError(f"lora.targets {lora.targets}: {first_line(error)}") from None
    if adapted.get_base_model().get_output_embeddings() is not head:
        raise UserError("lora.targets: the output layer cannot carry an adapter here; leave it out")
    return adapted
