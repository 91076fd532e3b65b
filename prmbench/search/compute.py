"""What a forward pass costs, from the shapes of a model: floating-point operations of tokens that run.

A token that runs is multiplied with every weight matrix once: 2 operations a weight. Its attention takes 4 operations for each
token that it looks at and each number of a layer's query heads: a product with the key, and one with the value. Logits take 2
operations for each weight of the output layer, at the positions where they are read. Norms, activations, position codes and the
choice of a token are left out; so is the look-up of embeddings. Of a mixture of experts all experts count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prmbench.engines.types import Engine


@dataclass(frozen=True)
class ModelShape:
    """What a decoder's cost follows from.

    Attributes:
        weights: Numbers in the weight matrices of its layers.
        attention: Query heads times the width of a head, summed over the layers.
        head: Numbers in the output layer.
    """

    weights: int
    attention: int
    head: int

    def forward(self, start: int, end: int, logits: int = 0) -> float:
        """Count the operations of running the tokens from one position to another, after those before them.

        Args:
            start: Position of the first token that runs.
            end: Position after the last one.
            logits: At how many positions logits are computed.
        """
        looked_at = (end * (end + 1) - start * (start + 1)) // 2  # the token at position p looks at p + 1
        return float(2 * self.weights * (end - start) + 4 * self.attention * looked_at + 2 * self.head * logits)


def shape_of_module(model: Any) -> ModelShape:
    """Read the shape of a model of transformers.

    Args:
        model: A decoder, or a language model with its output layer.
    """
    config = model.config.get_text_config()
    head = model.get_output_embeddings()
    embedded = {id(model.get_input_embeddings().weight)} | ({id(head.weight)} if head is not None else set())
    weights = sum(one.numel() for one in model.parameters() if one.dim() > 1 and id(one) not in embedded)
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return ModelShape(weights, config.num_hidden_layers * heads * width, 0 if head is None else head.weight.numel())


def _shape_of_config(config: Any) -> ModelShape:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return shape_of_module(AutoModelForCausalLM.from_config(config))


def shape_of(engine: Engine | Any) -> ModelShape | None:
    """Read the shape of what an engine holds.

    Args:
        engine: An engine, or a decoder that is none.

    Returns:
        The shape; None where the engine does not say it.
    """
    import torch

    model = getattr(engine, "model", None)
    if isinstance(model, torch.nn.Module):
        return shape_of_module(model)
    config = getattr(getattr(getattr(engine, "llm", None), "llm_engine", None), "model_config", None)
    return None if config is None else _shape_of_config(config.hf_config)
