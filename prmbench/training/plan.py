"""What a recipe will do, before it does it: tokens, steps, and a memory estimate with its arithmetic (``--dry-run``)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prmbench.data.problems import load_problems
from prmbench.engines.hf.head import HEAD_BLOCK
from prmbench.errors import UserError
from prmbench.training.objectives import find_objective
from prmbench.training.recipes.lora import LoraOptions
from prmbench.training.recipes.optimisation import Optimisation
from prmbench.training.recipes.shapes import Backbone, Expected
from prmbench.training.rl.recipe import RLRecipe
from prmbench.training.rl.reward import check_reward, reward_kind
from prmbench.training.rm.run import RMRecipe, longest_sequence

GIB = 2**30


@dataclass(frozen=True)
class Item:
    """A line of the memory estimate. how: its arithmetic. sharded: whether FSDP or ZeRO-3 divides it among devices."""

    name: str
    bytes: int
    how: str
    sharded: bool


@dataclass(frozen=True)
class TrainingPlan:
    """A dry run's findings.

    Attributes:
        parameters, trained: numbers of weights. data_from: where the data's size comes from.
        records, rows: units trained on, and sequences of one unit. tokens: of all epochs, padding left out.
        steps: updates. memory: of one device, nothing sharded, at the longest sequences.
    """

    parameters: int
    trained: int
    data_from: str
    records: int
    rows: int
    tokens_per_row: int
    tokens: int
    steps: int
    memory: list[Item]

    def total(self, devices: int = 1) -> int:
        """Bytes of one device when what can be sharded is shared among this many."""
        return sum(item.bytes // devices if item.sharded else item.bytes for item in self.memory)

    def as_json(self, devices: int) -> str:
        """The plan for scripts."""
        totals = {"total_bytes": self.total(), "devices": devices, "total_bytes_sharded": self.total(devices)}
        return json.dumps({**asdict(self), **totals}, indent=2)

    def text(self, devices: int) -> str:
        """The plan for people."""
        lines = [
            f"parameters  {self.parameters:,}, {self.trained:,} of them trained",
            f"data        {self.records:,} records x {self.rows} sequences x {self.tokens_per_row:,} tokens ({self.data_from})",
            f"steps       {self.steps:,} updates, {self.tokens:,} tokens",
            "memory      of one device, at the longest sequences:",
        ]
        lines += [f"  {item.bytes / GIB:8.2f} GiB  {item.name}: {item.how}" for item in self.memory]
        lines.append(f"  {self.total() / GIB:8.2f} GiB  together")
        if devices > 1:
            lines.append(
                f"  {self.total(devices) / GIB:8.2f} GiB  on each of {devices} devices, weights, gradients and moments sharded"
            )
        return "\n".join(lines)


def parameter_count(shape: Backbone) -> int:
    """Weights of a Llama- or Qwen3-like model, output layer and norms included."""
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    layer = shape.width * (2 * query + 2 * key) + 3 * shape.width * shape.intermediate + 2 * shape.width
    layer += 2 * shape.head_dim if shape.qk_norm else 0
    embeddings = shape.vocabulary * shape.width * (1 if shape.tied else 2)
    return embeddings + shape.layers * layer + shape.width


def adapter_count(shape: Backbone, lora: LoraOptions) -> int:
    """Weights of an adapter on every linear layer but the output."""
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    sides = [(shape.width, query), (shape.width, key), (shape.width, key), (query, shape.width)]
    sides += [(shape.width, shape.intermediate)] * 2 + [(shape.intermediate, shape.width)]
    return shape.layers * lora.rank * sum(a + b for a, b in sides)


def activation_numbers(shape: Backbone) -> tuple[int, int]:
    """Numbers that autograd keeps of one token in one layer without checkpointing: (around norms, at the residual's
    precision; of linear layers and attention). Counted on transformers' Llama and Qwen3; a test holds it to that."""
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    norms = 6 * shape.width + (2 * (query + key) if shape.qk_norm else 0)
    return norms, 2 * query + 2 * key + 4 * shape.intermediate


def make_plan(recipe: Optimisation) -> TrainingPlan:
    """Plan a run from the recipe alone, or from the checkpoint and data where they are on this machine.

    Raises:
        UserError: neither a ``backbone`` in the recipe nor a local checkpoint; neither ``expected`` nor a local data file.
    """
    if isinstance(recipe, RLRecipe):
        return _rl_plan(recipe)
    shape = _shape(recipe)
    rows = 2 if isinstance(recipe, RMRecipe) else 1
    data, source = _data(recipe)
    parameters = parameter_count(shape)
    trained = adapter_count(shape, recipe.lora) if recipe.lora else parameters
    if isinstance(recipe, RMRecipe) and recipe.objective == "q_rm":
        parameters, trained = parameters + shape.width, trained + shape.width
        if not recipe.lora and not shape.tied:
            trained -= shape.vocabulary * shape.width  # the output layer has no part
    steps = recipe.updates(data.records)
    return TrainingPlan(
        parameters=parameters,
        trained=trained,
        data_from=source,
        records=data.records,
        rows=rows,
        tokens_per_row=data.tokens,
        tokens=steps * recipe.batch_size * rows * data.tokens,
        steps=steps,
        memory=_memory(recipe, shape, parameters, trained, rows),
    )


def _rl_plan(recipe: RLRecipe) -> TrainingPlan:
    """Records are problems, rows the rollouts of one; tokens are those of all rollouts, rejected prompts' too."""
    check_reward(recipe, recipe.reward_model, _rl_kind(recipe))
    shape = _shape(recipe)
    expected, source = _rl_data(recipe)
    parameters = parameter_count(shape)
    trained = adapter_count(shape, recipe.lora) if recipe.lora else parameters
    steps = recipe.updates(expected.records)
    sampled = recipe.batch_size * recipe.oversample * recipe.n
    recipe.micro_batches(1)
    return TrainingPlan(
        parameters=parameters,
        trained=trained,
        data_from=f"{source}; {sampled:,} rollouts a step, {recipe.batch_size * recipe.n:,} kept, "
        f"{recipe.minibatches} updates on them",
        records=expected.records,
        rows=recipe.n,
        tokens_per_row=expected.tokens,
        tokens=steps // recipe.minibatches * sampled * expected.tokens,
        steps=steps,
        memory=_rl_memory(recipe, shape, parameters, trained),
    )


def _rl_data(recipe: RLRecipe) -> tuple[Expected, str]:
    if recipe.expected is not None:
        return recipe.expected, "expected, by the recipe"
    if not Path(recipe.problems).is_file():
        raise UserError(
            f"{recipe.problems}: no such file here, and the recipe has no 'expected' with its size to plan from"
        )
    n = len(load_problems(recipe.problems))
    return Expected(records=n, tokens=recipe.max_new_tokens), f"counted in {recipe.problems}; rollouts at full length"


def _rl_kind(recipe: RLRecipe) -> str | None:
    """The kind of the reward model: as the recipe or its card says; where neither is here, what the method takes."""
    if recipe.reward_model is None:
        return None
    folder = Path(recipe.reward_model.model).expanduser()
    if recipe.reward_model.kind is None and not folder.is_dir():
        return recipe.needs.rewards[0] if recipe.needs.rewards else "implicit"
    return reward_kind(recipe.reward_model, folder)


def _rl_memory(recipe: RLRecipe, shape: Backbone, parameters: int, trained: int) -> list[Item]:
    size = 2 if recipe.dtype in ("bfloat16", "float16") else 4
    items = _weight_items(recipe, parameters, trained)
    reward = recipe.reward_model
    references = 1 if recipe.method == "spro" and not recipe.lora else 0
    if reward is not None:
        items.append(
            Item("reward model", parameters * size, f"{parameters:,} x {size}, as large as the policy", sharded=False)
        )
        if reward.update != "frozen":
            learns = adapter_count(shape, reward.lora) if reward.lora else parameters
            width = 4 if reward.lora else size  # adapters are float32 whatever the weights
            items.append(
                Item("its gradients and moments", 3 * learns * width, f"{learns:,} x 3 x {width}", sharded=False)
            )
        references += reward.reference not in ("old", *(("start",) if recipe.lora else ()))
    if references:
        items.append(Item("reference", parameters * size, f"{parameters:,} x {size}", sharded=False))
    tokens = recipe.micro_batch_size * recipe.max_length
    items += _activation_items(recipe, shape, tokens)
    items.append(_head_item(shape, tokens))
    if not recipe.lora:
        items.append(_head_gradient_item(shape))
    if recipe.engine == "hf":
        half = 2 if recipe.bf16 is not False else 4
        cache = 2 * shape.layers * shape.kv_heads * shape.head_dim * half
        items.append(
            Item(
                "key-value cache",
                recipe.rollout_tokens * cache,
                f"{recipe.rollout_tokens:,} tokens x 2 x {shape.layers} layers x {shape.kv_heads} x {shape.head_dim} x {half}",
                sharded=False,
            )
        )
    return items


def _weight_items(recipe: Optimisation, parameters: int, trained: int) -> list[Item]:
    size = 2 if recipe.dtype in ("bfloat16", "float16") else 4
    learned = 4 if recipe.lora else size  # adapters are float32 whatever the weights
    items = [
        Item("weights", parameters * size, f"{parameters:,} x {size} bytes", sharded=True),
        Item("gradients", trained * learned, f"{trained:,} x {learned}", sharded=True),
        Item("AdamW moments", trained * 2 * learned, f"{trained:,} x 2 x {learned}", sharded=True),
    ]
    if recipe.bf16 is not False and size == 4:  # on the devices that such estimates are for
        items.append(Item("bfloat16 copies", parameters * 2, f"{parameters:,} x 2, of the forward pass", sharded=True))
    return items


def _activation_items(recipe: Optimisation, shape: Backbone, tokens: int) -> list[Item]:
    width = 2 if recipe.bf16 is not False else 4
    norms, linears = activation_numbers(shape)
    layer = norms * 4 + linears * width
    said = f"{tokens:,} tokens x ({norms:,} x 4 + {linears:,} x {width})"
    if not recipe.gradient_checkpointing:
        whole = tokens * layer * shape.layers
        return [Item("activations", whole, f"{shape.layers} layers x {said}", sharded=False)]
    kept = tokens * shape.layers * shape.width * 4
    how = f"{shape.layers} layers x {tokens:,} tokens x {shape.width:,} x 4"
    return [
        Item("layer inputs", kept, how, sharded=False),
        Item("one layer again", tokens * layer, said, sharded=False),
    ]


def _head_item(shape: Backbone, tokens: int) -> Item:
    states = tokens * shape.width * 4 * 2
    how = f"{tokens:,} states x {shape.width:,} x 4 x 2 + two blocks of {HEAD_BLOCK:,} logits x 4"
    return Item("output layer", states + 2 * HEAD_BLOCK * 4, how, sharded=False)


def _head_gradient_item(shape: Backbone) -> Item:
    how = f"{shape.vocabulary:,} x {shape.width:,} x 4"
    return Item("its gradient", shape.vocabulary * shape.width * 4, how, sharded=False)


def _memory(recipe: Optimisation, shape: Backbone, parameters: int, trained: int, rows: int) -> list[Item]:
    size = 2 if recipe.dtype in ("bfloat16", "float16") else 4
    items = _weight_items(recipe, parameters, trained)
    if isinstance(recipe, RMRecipe) and find_objective(recipe.objective).kind == "implicit":
        own_adapter = recipe.lora is not None and recipe.reference is None
        if recipe.reference_logprobs == "as-needed" and not own_adapter:
            items.append(Item("reference", parameters * size, f"{parameters:,} x {size}", sharded=False))
    longest = recipe.max_length
    if (Path(recipe.model).expanduser() / "config.json").exists() and isinstance(recipe, RMRecipe):
        longest = longest_sequence(recipe, Path(recipe.model).expanduser())
    tokens = recipe.micro_batch_size * rows * longest
    items += _activation_items(recipe, shape, tokens)
    if isinstance(recipe, RMRecipe):
        items.append(_head_item(shape, tokens))
        if not recipe.lora and recipe.objective != "q_rm":
            items.append(_head_gradient_item(shape))
    else:
        items.append(
            Item(
                "logits",
                tokens * shape.vocabulary * 4 * 2,
                f"{tokens:,} tokens x {shape.vocabulary:,} x 4 x 2, with their gradient",
                sharded=False,
            )
        )
    return items


def _shape(recipe: Optimisation) -> Backbone:
    config_file = Path(recipe.model).expanduser() / "config.json"
    if not config_file.exists():
        if recipe.backbone is None:
            raise UserError(
                f"{recipe.model}: no such folder here, and the recipe has no 'backbone' with its shapes to plan from"
            )
        return recipe.backbone
    config = json.loads(config_file.read_text(encoding="utf-8"))
    try:
        found = Backbone(
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
        raise UserError(f"{config_file}: has no {error.args[0]}; a plan knows Llama- and Qwen3-like models") from None
    if recipe.backbone is not None and found != recipe.backbone:
        mine, theirs = found.model_dump(), recipe.backbone.model_dump()
        name = next(key for key in mine if mine[key] != theirs[key])
        raise UserError(
            f"backbone.{name} is {theirs[name]} in the recipe, {mine[name]} in {config_file}; mend the recipe"
        )
    return found


def _data(recipe: Any) -> tuple[Expected, str]:
    if Path(recipe.data).exists() and Path(recipe.model).is_dir():
        return _count(recipe), f"counted in {recipe.data}"
    if recipe.expected is None:
        raise UserError(
            f"{recipe.data}: no such file here, and the recipe has no 'expected' with its size to plan from"
        )
    return recipe.expected, "expected, by the recipe"


def _count(recipe: Any) -> Expected:
    from prmbench.data.prompts import find_prompt
    from prmbench.data.tokens import TraceEncoder
    from prmbench.engines.loading import LoadOptions, load_tokenizer
    from prmbench.training.data.chats import encode_chat, load_chats
    from prmbench.training.data.pairs import load_pairs, split_held_out

    encoder = TraceEncoder(load_tokenizer(Path(recipe.model), LoadOptions()), recipe.tokens)
    if isinstance(recipe, RMRecipe):
        pairs = load_pairs(
            recipe.data,
            encoder,
            find_prompt(recipe.prompt),
            max_length=longest_sequence(recipe, Path(recipe.model)),
            per_prompt=recipe.pairs_per_prompt,
            seed=recipe.seed,
        ).pairs
        kept, _ = split_held_out(pairs, recipe.held_out, recipe.seed)
        lengths = [len(row) for pair in kept for row in pair.rows]
        records = len(kept)
    else:
        lengths = [
            n for chat in load_chats(recipe.data) if (n := len(encode_chat(encoder, chat)[0])) <= recipe.max_length
        ]
        lengths = lengths[: len(lengths) - recipe.held_out]
        records = len(lengths)
    if not lengths:
        raise UserError(f"{recipe.data}: no record is left to train on")
    return Expected(records=records, tokens=max(1, round(sum(lengths) / len(lengths))))
