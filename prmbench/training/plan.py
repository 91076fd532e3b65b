"""What a training run will do, before it does it: updates, tokens, and a memory estimate with its arithmetic.

A recipe makes its own plan (`prmbench.training.recipes.optimisation.Optimisation.plan`), because it knows the sequences, the
forward passes and the models that its run holds. This module turns shapes into numbers for all of them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

from prmbench.engines.hf.head import HEAD_BLOCK
from prmbench.training.recipes.lora import LoraOptions
from prmbench.training.recipes.shapes import Backbone, Expected

if TYPE_CHECKING:
    from prmbench.training.recipes.optimisation import Optimisation

GIB = 2**30

Part = Literal["weights", "gradients", "moments", "copies", "other models", "whole"]
Sharding = Literal["ddp", "zero1", "zero2", "zero3", "fsdp"]

SHARDED: dict[str, frozenset[str]] = {
    "ddp": frozenset(),
    "zero1": frozenset({"moments"}),
    "zero2": frozenset({"moments", "gradients"}),
    "zero3": frozenset({"moments", "gradients", "weights", "copies", "other models"}),
    "fsdp": frozenset({"moments", "gradients", "weights", "copies", "other models"}),
}
"""What each way of launching divides among the devices."""


@dataclass(frozen=True)
class MemoryItem:
    """One line of a memory estimate.

    Attributes:
        name: What the memory holds.
        bytes: How much it is.
        how: The arithmetic behind it.
        part: What it is of a model, which stays between two updates, and which a launch may divide (`SHARDED`); ``other models`` is
            all of one beside the one that is trained, and ``whole`` of one that no launch divides. None for what comes and goes
            with a forward pass.
    """

    name: str
    bytes: int
    how: str
    part: Part | None = None


@dataclass(frozen=True)
class Launch:
    """Where a run is to be started.

    Attributes:
        devices: Number of devices.
        sharding: What they divide: a key of `SHARDED`.
        device_gib: Memory of a device, in GiB; None: not known, and taken as 80 for vLLM's share.
        throughput: Tokens a second of one device; None: not known.
    """

    devices: int = 1
    sharding: Sharding = "fsdp"
    device_gib: float | None = None
    throughput: float | None = None

    @property
    def memory_gib(self) -> float:
        """Memory of a device, in GiB."""
        return 80.0 if self.device_gib is None else self.device_gib


@dataclass(frozen=True)
class SamplerShare:
    """What vLLM takes of a training device.

    Attributes:
        share: Share of the device's memory.
        weights: Bytes of the weights that one device holds.
        token: Bytes of the key-value cache of one token on one device.
        sleeps: Whether the memory is given back while the policy is updated.
    """

    share: float
    weights: int
    token: int
    sleeps: bool

    def size(self, launch: Launch) -> int:
        """Return the bytes that it takes of a device.

        Args:
            launch: Says the memory of a device.
        """
        return round(self.share * launch.memory_gib * GIB)

    def line(self, launch: Launch) -> str:
        """Say the arithmetic.

        Args:
            launch: Says the memory of a device.
        """
        room = self.size(launch) - self.weights
        how = f"vLLM: {self.share:g} of {launch.memory_gib:g} GiB, {self.weights / GIB:.2f} GiB of it weights"
        if room <= 0:
            return f"{how}, which do not fit: raise vllm.gpu_memory_utilization or vllm.tensor_parallel_size"
        asleep = "; it sleeps while the policy is updated" if self.sleeps else ""
        return f"{how}; room for about {room // self.token:,} tokens of cache{asleep}"


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
        gathered: What a device that holds a part of the weights has gathered of the rest at a time.
        sampler: What vLLM takes of a training device; None where it is not on one.
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
    gathered: MemoryItem
    sampler: SamplerShare | None = None

    def on_device(self, launch: Launch) -> list[MemoryItem]:
        """List what one device of a launch holds of the training, without vLLM.

        Args:
            launch: Where the run is started.
        """
        divided = SHARDED[launch.sharding] if launch.devices > 1 else frozenset()
        items = [
            replace(item, bytes=-(-item.bytes // launch.devices)) if item.part in divided else item
            for item in self.memory
        ]
        if "weights" in divided:
            items.append(self.gathered)
        if launch.sharding == "ddp" and launch.devices > 1:
            own = next(item for item in self.memory if item.part == "gradients")
            items.append(replace(own, name="buckets", how=f"{own.how}, gradients on their way to the other devices"))
        return items

    def total(self, launch: Launch = Launch()) -> int:
        """Add up the memory of one device: the most that is held at a time.

        Args:
            launch: Where the run is started.

        Returns:
            Bytes. Of a vLLM that sleeps, its share counts beside what stays between two updates.
        """
        items = self.on_device(launch)
        training = sum(item.bytes for item in items)
        if self.sampler is None:
            return training
        share = self.sampler.size(launch)
        if not self.sampler.sleeps:
            return training + share
        return max(training, share + sum(item.bytes for item in items if item.part is not None))

    def hours(self, launch: Launch) -> float | None:
        """Return the hours of the run at the launch's throughput; None where none is stated.

        Args:
            launch: Where the run is started.
        """
        if launch.throughput is None:
            return None
        return self.tokens / (launch.throughput * launch.devices) / 3600

    def as_json(self, launch: Launch) -> str:
        """Give the plan as JSON, for scripts.

        Args:
            launch: Where the run is started.
        """
        found = {
            "launch": asdict(launch),
            "total_bytes": self.total(replace(launch, devices=1)),
            "device_bytes": self.total(launch),
            "device_memory": [asdict(item) for item in self.on_device(launch)],
            "sampler_bytes": None if self.sampler is None else self.sampler.size(launch),
            "hours": self.hours(launch),
        }
        return json.dumps({**asdict(self), **found}, indent=2)

    def _steps(self) -> str:
        if self.updates == self.steps:
            return f"{self.steps:,} updates"
        return f"{self.steps:,} of {self.updates // self.steps} updates"

    def text(self, launch: Launch) -> str:
        """Give the plan in words, for people.

        Args:
            launch: Where the run is started.
        """
        # What is done.
        lines = [
            f"parameters  {self.parameters:,}, {self.trained:,} of them trained",
            f"data        {self.records:,} records x {self.rows} sequences x {self.tokens_per_row:,} tokens ({self.data_from})",
            f"steps       {self._steps()}, {self.tokens:,} tokens",
        ]
        hours = self.hours(launch)
        if hours is not None:
            on = "1 device" if launch.devices == 1 else f"{launch.devices} devices"
            lines.append(f"hours       {hours:,.1f} on {on} of {launch.throughput:,.0f} tokens/s")
        # The memory of one device that holds everything.
        lines.append("memory      of one device, at the longest sequences:")
        lines += [_memory_line(item.bytes, f"{item.name}: {item.how}") for item in self.memory]
        if self.sampler is not None:
            lines.append(_memory_line(self.sampler.size(launch), self.sampler.line(launch)))
        lines.append(_memory_line(self.total(replace(launch, devices=1)), "together"))
        # The memory of one device of several.
        if launch.devices > 1:
            parts = sorted(SHARDED[launch.sharding] & {item.part for item in self.memory})
            said = f"on each of {launch.devices} devices ({launch.sharding}): "
            said += (
                f"{', '.join(parts)} divided by {launch.devices}" if parts else "nothing is divided, gradients twice"
            )
            if "weights" in parts:
                said += f"; {self.gathered.bytes / GIB:.2f} GiB {self.gathered.name}: {self.gathered.how}"
            lines.append(_memory_line(self.total(launch), said))
        if launch.device_gib is not None:
            fits = self.total(launch) <= launch.device_gib * GIB
            lines.append(f"fits        {'yes' if fits else 'no'}, into {launch.device_gib:g} GiB")
        return "\n".join(lines)


def _memory_line(size: int, text: str) -> str:
    return f"  {size / GIB:8.2f} GiB  {text}"


def layer_count(shape: Backbone) -> int:
    """Count the weights of one layer of a Llama- or Qwen3-like model, its norms included.

    Args:
        shape: The model's shapes.
    """
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    layer = shape.width * (2 * query + 2 * key) + 3 * shape.width * shape.intermediate + 2 * shape.width
    return layer + (2 * shape.head_dim if shape.qk_norm else 0)


def parameter_count(shape: Backbone) -> int:
    """Count the weights of a Llama- or Qwen3-like model, its output layer and norms included.

    Args:
        shape: The model's shapes.
    """
    embeddings = shape.vocabulary * shape.width * (1 if shape.tied else 2)
    return embeddings + shape.layers * layer_count(shape) + shape.width


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

    @classmethod
    def of(cls, recipe: Optimisation, shape: Backbone, head: int = 0) -> Memory:
        """Count the weights of the model that a recipe trains.

        Args:
            recipe: The recipe.
            shape: Shapes of its backbone.
            head: Weights of a head that stands in the place of the output layer; 0: there is none.
        """
        trained = trained_count(shape, recipe.lora) + head
        if head and not recipe.lora and not shape.tied:
            trained -= shape.vocabulary * shape.width  # the output layer, which is not the embedding
        return cls(recipe, shape, parameter_count(shape) + head, trained)

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
            MemoryItem("weights", self.parameters * size, f"{self.parameters:,} x {size} bytes", "weights"),
            MemoryItem("gradients", self.trained * learned, f"{self.trained:,} x {learned}", "gradients"),
            MemoryItem("AdamW moments", self.trained * 2 * learned, f"{self.trained:,} x 2 x {learned}", "moments"),
        ]
        if self.compute_bytes < size:
            how = f"{self.parameters:,} x 2, of the forward pass"
            items.append(MemoryItem("bfloat16 copies", self.parameters * 2, how, "copies"))
        return items

    def model(self, name: str, remark: str = "", *, whole: bool = False) -> MemoryItem:
        """Return the line of another model of the same shapes.

        Args:
            name: What the model is.
            remark: What to add to the arithmetic.
            whole: Whether every device holds all of it, whatever the launch divides.
        """
        size = self.weight_bytes
        part: Part = "whole" if whole else "other models"
        return MemoryItem(name, self.parameters * size, f"{self.parameters:,} x {size}{remark}", part)

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

    def gathered(self) -> MemoryItem:
        """Return what a device gathers of weights that are divided: two layers at a time, embedding and output layer throughout."""
        shape, width = self.shape, self.compute_bytes
        rows = shape.vocabulary * (1 if shape.tied else 2)
        layer = layer_count(shape)
        how = f"({rows:,} x {shape.width:,} + 2 layers x {layer:,}) x {width}"
        return MemoryItem("gathered", (rows * shape.width + 2 * layer) * width, how)

    def sampler(self, share: float, tensor_parallel: int, *, sleeps: bool) -> SamplerShare:
        """Return what vLLM takes of a training device.

        Args:
            share: Share of the device's memory.
            tensor_parallel: Devices that share one copy of the weights.
            sleeps: Whether the memory is given back while the policy is updated.
        """
        shape, width = self.shape, self.compute_bytes
        token = 2 * shape.layers * -(-shape.kv_heads // tensor_parallel) * shape.head_dim * width
        return SamplerShare(share, -(-self.parameters * width // tensor_parallel), token, sleeps)

    def plan(
        self,
        data: Expected,
        data_from: str,
        rows: int,
        items: list[MemoryItem],
        of_update: float | None = None,
        sampler: SamplerShare | None = None,
    ) -> TrainingPlan:
        """Make the plan of the run.

        Args:
            data: The size of the data.
            data_from: Where this size comes from, in words.
            rows: Number of sequences of one record.
            items: The lines of the memory estimate.
            of_update: Number of sequences of one update; None for those of ``batch_size`` records.
            sampler: What vLLM takes of a training device.
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
            gathered=self.gathered(),
            sampler=sampler,
        )
