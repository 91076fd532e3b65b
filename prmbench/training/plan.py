"""What a training run will do, before it does it: updates, tokens, and a memory estimate with its arithmetic.

A recipe makes its own plan (`prmbench.training.recipes.optimisation.Optimisation.plan`), because it knows the sequences, the
forward passes and the models that its run holds. This module turns shapes into numbers for all of them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from prmbench.engines.hf.head import HEAD_BLOCK
from prmbench.training.recipes.lora import LoraOptions
from prmbench.training.recipes.shapes import Backbone, Expected

if TYPE_CHECKING:
    from prmbench.training.recipes.optimisation import Optimisation

GIB = 2**30


@dataclass(frozen=True)
class MemoryItem:
    """One line of a memory estimate.

    Attributes:
        name: What the memory holds.
        bytes: How much it is.
        how: The arithmetic behind it.
        sharded: Whether FSDP or ZeRO-3 divides it among the devices.
    """

    name: str
    bytes: int
    how: str
    sharded: bool = False


@dataclass(frozen=True)
class TrainingPlan:
    """What a dry run finds.

    Attributes:
        parameters: Number of weights.
        trained: Number of weights that are trained.
        data_from: Where the size of the data comes from.
        records: Number of units trained on: chats, pairs or problems.
        rows: Number of sequences of one unit.
        tokens_per_row: Tokens of one sequence on average.
        tokens: Tokens of all updates, without padding.
        steps: Number of steps, as max_steps counts them.
        updates: Number of updates: those of all steps.
        memory: Memory of one device, at the longest sequences, when nothing is sharded.
    """

    parameters: int
    trained: int
    data_from: str
    records: int
    rows: int
    tokens_per_row: int
    tokens: int
    steps: int
    updates: int
    memory: list[MemoryItem]

    def total(self, devices: int = 1) -> int:
        """Add up the memory of one device.

        Args:
            devices: Number of devices among which everything that can be sharded is shared.

        Returns:
            Bytes.
        """
        return sum(item.bytes // devices if item.sharded else item.bytes for item in self.memory)

    def as_json(self, devices: int) -> str:
        """Give the plan as JSON, for scripts.

        Args:
            devices: Number of devices, as in `total`.
        """
        totals = {"total_bytes": self.total(), "devices": devices, "total_bytes_sharded": self.total(devices)}
        return json.dumps({**asdict(self), **totals}, indent=2)

    def _steps(self) -> str:
        if self.updates == self.steps:
            return f"{self.steps:,} updates"
        return f"{self.steps:,} of {self.updates // self.steps} updates"

    def text(self, devices: int) -> str:
        """Give the plan in words, for people.

        Args:
            devices: Number of devices, as in `total`.
        """
        lines = [
            f"parameters  {self.parameters:,}, {self.trained:,} of them trained",
            f"data        {self.records:,} records x {self.rows} sequences x {self.tokens_per_row:,} tokens ({self.data_from})",
            f"steps       {self._steps()}, {self.tokens:,} tokens",
            "memory      of one device, at the longest sequences:",
        ]
        lines += [f"  {item.bytes / GIB:8.2f} GiB  {item.name}: {item.how}" for item in self.memory]
        lines.append(f"  {self.total() / GIB:8.2f} GiB  together")
        if devices > 1:
            shared = f"on each of {devices} devices, weights, gradients and moments sharded"
            lines.append(f"  {self.total(devices) / GIB:8.2f} GiB  {shared}")
        return "\n".join(lines)


def parameter_count(shape: Backbone) -> int:
    """Count the weights of a Llama- or Qwen3-like model, its output layer and norms included.

    Args:
        shape: The model's shapes.
    """
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    layer = shape.width * (2 * query + 2 * key) + 3 * shape.width * shape.intermediate + 2 * shape.width
    layer += 2 * shape.head_dim if shape.qk_norm else 0
    embeddings = shape.vocabulary * shape.width * (1 if shape.tied else 2)
    return embeddings + shape.layers * layer + shape.width


def adapter_count(shape: Backbone, lora: LoraOptions) -> int:
    """Count the weights of an adapter on every linear layer but the output layer.

    Args:
        shape: The model's shapes.
        lora: The adapter's options; only the rank counts.
    """
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    sides = [(shape.width, query), (shape.width, key), (shape.width, key), (query, shape.width)]
    sides += [(shape.width, shape.intermediate)] * 2 + [(shape.intermediate, shape.width)]
    return shape.layers * lora.rank * sum(a + b for a, b in sides)


def trained_count(shape: Backbone, lora: LoraOptions | None) -> int:
    """Count the weights that a run trains.

    Args:
        shape: The model's shapes.
        lora: The adapter's options; None where all weights are trained.
    """
    return adapter_count(shape, lora) if lora else parameter_count(shape)


def activation_numbers(shape: Backbone) -> tuple[int, int]:
    """Count the numbers that autograd keeps of one token in one layer without checkpointing.

    The counts are those of transformers' Llama and Qwen3; a test holds them to what autograd really keeps.

    Args:
        shape: The model's shapes.

    Returns:
        Numbers around norms, which have the precision of the residual, and numbers of linear layers and attention.
    """
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    norms = 6 * shape.width + (2 * (query + key) if shape.qk_norm else 0)
    return norms, 2 * query + 2 * key + 4 * shape.intermediate


@dataclass(frozen=True)
class Memory:
    """Makes the lines of a memory estimate, from what a recipe says of types, adapter and checkpointing.

    Attributes:
        recipe: The recipe.
        shape: Shapes of its backbone.
        parameters: Number of weights of the model that is trained.
        trained: Number of weights that are trained.
    """

    recipe: Optimisation
    shape: Backbone
    parameters: int
    trained: int

    @property
    def weight_bytes(self) -> int:
        """Bytes of one weight of the model."""
        return 2 if self.recipe.dtype in ("bfloat16", "float16") else 4

    @property
    def compute_bytes(self) -> int:
        """Bytes of one number of the forward pass, on the devices that such estimates are for."""
        return 4 if self.recipe.bf16 is False else 2

    def learned_bytes(self, lora: LoraOptions | None) -> int:
        """Return the bytes of one weight that is trained: an adapter is float32 whatever the weights are.

        Args:
            lora: The adapter's options; None where all weights are trained.
        """
        return 4 if lora else self.weight_bytes

    def weights(self) -> list[MemoryItem]:
        """Return the lines of the model that is trained: weights, gradients, moments."""
        size, learned = self.weight_bytes, self.learned_bytes(self.recipe.lora)
        items = [
            MemoryItem("weights", self.parameters * size, f"{self.parameters:,} x {size} bytes", sharded=True),
            MemoryItem("gradients", self.trained * learned, f"{self.trained:,} x {learned}", sharded=True),
            MemoryItem("AdamW moments", self.trained * 2 * learned, f"{self.trained:,} x 2 x {learned}", sharded=True),
        ]
        if self.compute_bytes < size:
            how = f"{self.parameters:,} x 2, of the forward pass"
            items.append(MemoryItem("bfloat16 copies", self.parameters * 2, how, sharded=True))
        return items

    def model(self, name: str, remark: str = "") -> MemoryItem:
        """Return the line of another model of the same shapes that only computes.

        Args:
            name: What the model is.
            remark: What to add to the arithmetic.
        """
        size = self.weight_bytes
        return MemoryItem(name, self.parameters * size, f"{self.parameters:,} x {size}{remark}")

    def activations(self, tokens: int) -> list[MemoryItem]:
        """Return the lines of what the backward pass needs of the layers.

        Args:
            tokens: Tokens of one forward pass.
        """
        shape, width = self.shape, self.compute_bytes
        norms, linears = activation_numbers(shape)
        layer = norms * 4 + linears * width
        said = f"{tokens:,} tokens x ({norms:,} x 4 + {linears:,} x {width})"
        if not self.recipe.gradient_checkpointing:
            return [MemoryItem("activations", tokens * layer * shape.layers, f"{shape.layers} layers x {said}")]
        how = f"{shape.layers} layers x {tokens:,} tokens x {shape.width:,} x 4"
        return [
            MemoryItem("layer inputs", tokens * shape.layers * shape.width * 4, how),
            MemoryItem("one layer again", tokens * layer, said),
        ]

    def blocks(self, tokens: int, *, gradient: bool) -> list[MemoryItem]:
        """Return the lines of an output layer whose logits are made a block at a time.

        Args:
            tokens: Tokens of one forward pass.
            gradient: Whether the output layer is trained.
        """
        width, vocabulary = self.shape.width, self.shape.vocabulary
        how = f"{tokens:,} states x {width:,} x 4 x 2 + two blocks of {HEAD_BLOCK:,} logits x 4"
        items = [MemoryItem("output layer", tokens * width * 4 * 2 + 2 * HEAD_BLOCK * 4, how)]
        if gradient:
            items.append(MemoryItem("its gradient", vocabulary * width * 4, f"{vocabulary:,} x {width:,} x 4"))
        return items

    def logits(self, tokens: int) -> MemoryItem:
        """Return the line of an output layer whose logits all exist at once.

        Args:
            tokens: Tokens of one forward pass.
        """
        vocabulary = self.shape.vocabulary
        how = f"{tokens:,} tokens x {vocabulary:,} x 4 x 2, with their gradient"
        return MemoryItem("logits", tokens * vocabulary * 4 * 2, how)

    def plan(
        self, data: Expected, data_from: str, rows: int, items: list[MemoryItem], of_update: float | None = None
    ) -> TrainingPlan:
        """Make the plan of the run.

        Args:
            data: The size of the data.
            data_from: Where this size comes from, in words.
            rows: Number of sequences of one record.
            items: The lines of the memory estimate.
            of_update: Number of sequences of one update; None for those of ``batch_size`` records.
        """
        updates = self.recipe.updates(data.records)
        sequences = updates * (self.recipe.batch_size * rows if of_update is None else of_update)
        return TrainingPlan(
            parameters=self.parameters,
            trained=self.trained,
            data_from=data_from,
            records=data.records,
            rows=rows,
            tokens_per_row=data.tokens,
            tokens=int(sequences * data.tokens),
            steps=updates // self.recipe.updates_of_step,
            updates=updates,
            memory=items,
        )
