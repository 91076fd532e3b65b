"""What this package leans on in other libraries: names, arguments, defaults, methods that it replaces or calls, lines it reads.

A failure says which file of ours needs what, of which version of which library, and what is there instead. What an import or a call
shows is found in our code itself. The tables hold what it does not show: what is called on objects, what is inherited, what is left
to a default. What lm-eval takes of a task is held by `tests/integrations/test_lm_eval.py`, which has lm-eval check ours.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any

import numpy as np
import pytest

from prmbench.engines.hf.kv_cache import cache_argument
from prmbench.resources import resource_folder
from prmbench.training.recipes.optimisation import checkpointing_argument
from prmbench.training.rl.batch import PromptSampler

ROOT = resource_folder("training").parent
DISTRIBUTIONS = {
    "accelerate": "accelerate",
    "datasets": "datasets",
    "huggingface_hub": "huggingface_hub",
    "latex2sympy2_extended": "latex2sympy2_extended",
    "math_verify": "math-verify",
    "peft": "peft",
    "safetensors": "safetensors",
    "tokenizers": "tokenizers",
    "transformers": "transformers",
    "trl": "trl",
    "vllm": "vllm",
}
"""Libraries that are watched, by the name they are imported under, and what they are called where they are installed from."""

SLOW = pytest.mark.slow  # vLLM takes half a minute to import
LIBRARIES = [pytest.param(name, marks=SLOW if name == "vllm" else ()) for name in DISTRIBUTIONS]


def named(library: str) -> str:
    """A library with its version."""
    for one in (DISTRIBUTIONS[library], f"{DISTRIBUTIONS[library]}-cpu"):
        try:
            return f"{library} {metadata.version(one)}"
        except metadata.PackageNotFoundError:
            continue
    return library


def require(library: str) -> None:
    if library == "vllm" and importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed (make vllm)")


@cache
def find(dotted: str) -> Any:
    """An object by its place, ``package.module.Class.method``. LookupError names the first part that is not there."""
    parts = dotted.split(".")
    found = importlib.import_module(parts[0])
    for i, part in enumerate(parts[1:], start=2):
        try:
            found = getattr(found, part)
        except AttributeError:
            try:
                found = importlib.import_module(".".join(parts[:i]))
            except ImportError:
                raise LookupError(f"{named(parts[0])} has no {'.'.join(parts[:i])}") from None
    return found


def parameters(of: Callable[..., Any]) -> dict[str, inspect.Parameter] | None:
    """What a function or class takes; None where it takes any name, or Python cannot say."""
    try:
        found = dict(inspect.signature(of).parameters)
    except ValueError:  # a class of another language
        return None
    return None if any(one.kind is one.VAR_KEYWORD for one in found.values()) else found


# What our code shows by itself.


@dataclass(frozen=True)
class Use:
    """An import, or a call with arguments that have names."""

    where: str
    dotted: str
    arguments: tuple[str, ...] = ()

    @property
    def library(self) -> str:
        return self.dotted.split(".")[0]


def uses(source: str, file: str) -> Iterator[Use]:
    """All imports of watched libraries in a source text, and all calls of what was imported."""
    tree, known = ast.parse(source), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in DISTRIBUTIONS:
            for one in node.names:
                known[one.asname or one.name] = f"{node.module}.{one.name}"
                yield Use(f"{file}:{node.lineno}", f"{node.module}.{one.name}")
        elif isinstance(node, ast.Import):
            for one in node.names:
                if one.name.split(".")[0] in DISTRIBUTIONS:
                    known[one.asname or one.name.split(".")[0]] = one.name if one.asname else one.name.split(".")[0]
                    yield Use(f"{file}:{node.lineno}", one.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            names, at = [], node.func
            while isinstance(at, ast.Attribute):
                names.append(at.attr)
                at = at.value
            if isinstance(at, ast.Name) and at.id in known:
                dotted = ".".join([known[at.id], *reversed(names)])
                yield Use(f"{file}:{node.lineno}", dotted, tuple(one.arg for one in node.keywords if one.arg))


def problem(use: Use) -> str | None:
    """What is wrong with a use, in a sentence; None: nothing."""
    try:
        found = find(use.dotted)
    except LookupError as error:
        return f"{use.where} needs {use.dotted}: {error}"
    takes = parameters(found) if use.arguments else None
    gone = [name for name in use.arguments if takes is not None and name not in takes]
    if not gone:
        return None
    return f"{use.where} gives {use.dotted} the argument {gone[0]}: {named(use.library)} takes {', '.join(takes or ())}"


@cache
def all_uses() -> tuple[Use, ...]:
    files = sorted((ROOT / "prmbench").rglob("*.py"))
    return tuple(use for file in files for use in uses(file.read_text(encoding="utf-8"), str(file.relative_to(ROOT))))


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_is_imported_and_called_is_there(library):
    require(library)
    mine = [use for use in all_uses() if use.library == library]
    assert mine, f"nothing uses {library} any more: take it off the list"
    assert not [found for use in mine if (found := problem(use)) is not None]


def test_a_name_and_an_argument_that_are_gone_are_found():
    source = "import peft as p\nfrom trl import Gone, GRPOConfig\nGRPOConfig(beta=0.0, no_such=1)\np.LoraConfig.lost(1)"
    found = [problem(use) for use in uses(source, "a.py")]
    assert found[0] is None
    assert found[1] == f"a.py:2 needs trl.Gone: {named('trl')} has no trl.Gone"
    assert found[2] is None
    assert found[3].startswith(f"a.py:3 gives trl.GRPOConfig the argument no_such: {named('trl')} takes output_dir, ")
    assert found[4] == f"a.py:4 needs peft.LoraConfig.lost: {named('peft')} has no peft.LoraConfig.lost"


# What it does not show.

TRAINER, POLICY = "prmbench.training.model.trainer.GuardedTrainer", "prmbench.training.rl.trainer.PolicyTrainer"
REWARD, STEPS = "prmbench.training.rm.trainer.RewardModelTrainer", "prmbench.training.prm.trainer.StepTrainer"

REPLACED = {
    (TRAINER, "transformers.Trainer"): {
        "train", "training_step", "evaluate", "log", "save_model", "_run_epoch", "_maybe_log_save_evaluate", "_save_checkpoint",
        "_save",
    },
    ("prmbench.training.model.measured_trainer.MeasuredTrainer", "transformers.Trainer"): {"_get_train_sampler"},
    (REWARD, "transformers.Trainer"): {"compute_loss", "evaluate"},
    (STEPS, "transformers.Trainer"): {"compute_loss", "evaluate", "create_optimizer"},
    (POLICY, "trl.GRPOTrainer"): {
        "_get_train_sampler", "_prepare_inputs", "_compute_loss", "create_model_card", "_save_optimizer_and_scheduler",
    },
    ("prmbench.engines.hf.kv_cache.GrowingLayer", "transformers.cache_utils.DynamicLayer"): {"update", "get_seq_length"},
    ("prmbench.training.model.trainer._SaveAndStop", "transformers.TrainerCallback"): {"on_step_end"},
    ("prmbench.training.rl.trainer._StepCallback", "transformers.TrainerCallback"): {"on_pre_optimizer_step", "on_step_end"},
    ("prmbench.training.watch.trackers.InSteps", "transformers.TrainerCallback"): {
        "on_train_begin", "on_log", "on_train_end",
    },
    ("prmbench.engines.vllm.token_mask.NeverSampled", "vllm.v1.sample.logits_processor.LogitsProcessor"): {
        "apply", "is_argmax_invariant", "update_state",
    },
}  # fmt: skip
"""Methods of theirs that a class of ours has in their place: they are called by the library, as the library likes."""

TAKEN = [
    ("engines/hf/attention.py", "transformers.integrations.sdpa_attention.sdpa_attention_forward",
     ["module", "query", "key", "value", "attention_mask", "scaling"]),
    ("engines/hf/kv_cache.py", "transformers.DynamicCache", ["config"]),
    ("engines/hf/kv_cache.py", "transformers.cache_utils.DynamicLayer.lazy_initialization", ["key_states", "value_states"]),
    ("engines/hf/generate.py", "transformers.DynamicCache.batch_select_indices", ["indices"]),
    ("engines/adapters.py", "peft.PeftModel.from_pretrained", ["model", "model_id", "config"]),
    ("engines/adapters.py", "peft.get_peft_model_state_dict", ["model", "save_embedding_layers"]),
    ("training/model/trainer.py", "transformers.Trainer._save", ["output_dir"]),
    ("training/model/trainer.py", "transformers.Trainer.log", ["logs", "start_time"]),
    ("training/rl/trainer.py", "accelerate.Accelerator.reduce", ["tensor", "reduction"]),
    ("training/rl/trainer.py", "trl.models.utils.unwrap_model_for_generation",
     ["model", "accelerator", "gather_deepspeed3_params"]),
    ("training/rl/trainer.py", "trl.GRPOTrainer._generate_single_turn",
     ["prompt_ids", "images", "multimodal_fields", "num_generations"]),
    ("training/recipes/optimisation.py", "transformers.TrainingArguments",
     ["output_dir", "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "bf16",
      "save_strategy", "save_total_limit", "logging_nan_inf_filter", "report_to", "run_name", "project",
      "disable_tqdm", "seed", "use_cpu", "num_train_epochs", "max_steps", "per_device_train_batch_size",
      "per_device_eval_batch_size", "gradient_accumulation_steps", "save_steps", "logging_steps"]),
    ("training/rl/recipe.py", "trl.GRPOConfig",
     ["vllm_mode", "vllm_server_base_url", "vllm_group_port", "vllm_gpu_memory_utilization", "vllm_tensor_parallel_size",
      "vllm_enable_sleep_mode", "vllm_importance_sampling_correction", "vllm_max_model_length"]),
    ("engines/vllm/engine.py", "vllm.LLM.generate", ["prompts", "sampling_params", "use_tqdm"]),
    ("engines/vllm/pooling.py", "vllm.LLM.encode", ["prompts", "pooling_params", "pooling_task", "use_tqdm"]),
    ("engines/vllm/start.py", "vllm.engine.arg_utils.EngineArgs",
     ["model", "dtype", "enforce_eager", "tensor_parallel_size", "trust_remote_code", "disable_log_stats", "skip_tokenizer_init",
      "gpu_memory_utilization", "max_logprobs", "enable_chunked_prefill", "enable_prefix_caching", "additional_config", "runner",
      "convert", "pooler_config", "logits_processors"]),
    ("engines/vllm/token_mask.py", "vllm.v1.sample.logits_processor.LogitsProcessor", ["vllm_config", "device", "is_pin_memory"]),
]  # fmt: skip
"""Arguments of what is called on an object, or given as a dictionary: who needs it, what is called, the arguments by name."""

DEFAULTS = [
    ("training/rl/trainer.py: a rollout batch is used once", "trl.GRPOConfig", {"num_iterations": 1}),
    ("training/rl/trainer.py: pi_old is the distribution that vLLM samples from", "trl.GRPOConfig",
     {"top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0}),
    ("training/rl/trainer.py: a minibatch's loss is the mean over processes", "transformers.TrainingArguments",
     {"average_tokens_across_devices": True}),
    ("training/recipes/optimisation.py: a run that goes on skips what it has trained on", "transformers.TrainingArguments",
     {"ignore_data_skip": False}),
    ("training/rl/reference_step.py: AdamW as PyTorch has it", "transformers.TrainingArguments",
     {"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8}),
    ("training/rl/trainer.py: micro-batches are made by this process", "transformers.TrainingArguments",
     {"dataloader_num_workers": 0}),
    ("engines/adapters.py: an adapter is loaded for scoring", "peft.PeftModel.from_pretrained", {"is_trainable": False}),
    ("engines/vllm/engine.py: log-probs are of the whole distribution", "vllm.SamplingParams",
     {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "min_p": 0.0}),
    ("engines/vllm/engine.py: log-probs are before temperature", "vllm.engine.arg_utils.EngineArgs",
     {"logprobs_mode": "raw_logprobs"}),
]  # fmt: skip
"""Defaults that are left to the library: why, of what, and which."""

NAMED = {
    "transformers.cache_utils.DynamicLayer": ["lazy_initialization", "batch_select_indices", "get_seq_length"],
    "transformers.PreTrainedModel": ["get_decoder", "get_output_embeddings", "get_input_embeddings", "base_model_prefix"],
    "transformers.PretrainedConfig": ["get_text_config"],
    "transformers.AutoModelForCausalLM": ["_model_mapping"],
    "transformers.models.auto.modeling_auto": ["MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES"],
    "transformers.Trainer": ["add_callback", "remove_callback", "is_world_process_zero", "_save"],
    "peft.PeftModel": ["disable_adapter", "get_base_model", "from_pretrained"],
    "accelerate.Accelerator": [
        "autocast", "device", "num_processes", "process_index", "reduce", "unwrap_model", "wait_for_everyone",
    ],
    "vllm.config.ModelConfig": ["try_get_generation_config"],
}  # fmt: skip
"""Attributes that are used of their classes and modules, by name."""

LINES = {
    "transformers.Trainer": [
        "self._run_epoch(\n                model=model", "self._get_train_sampler", "self.compute_loss(model, inputs",
        "self._save_optimizer_and_scheduler(", "self.model_accepts_loss_kwargs", "self._loss_shifts_labels",
        'logs["loss"]', 'metrics["train_loss"]',
    ],
    "transformers.integrations.sdpa_attention": ["def sdpa_attention_forward"],
    "trl.GRPOTrainer": [
        "self._step += 1", "self._buffered_inputs", "self._metrics[", "self._dist = ", "self.vllm_generation",
        "return self._compute_loss(model, inputs)",
    ],
    "trl.SFTTrainer": ["self._total_train_tokens", '"num_tokens"', '"completion_mask"'],
}  # fmt: skip
"""Lines of theirs that ours stand beside: the attribute is set, or the method called, inside the library."""


@pytest.mark.parametrize(
    ("ours", "theirs"), [pytest.param(*pair, marks=SLOW if pair[1].startswith("vllm") else ()) for pair in REPLACED]
)
def test_a_method_that_ours_replaces_is_called_with_what_ours_takes(ours, theirs):
    require(theirs.split(".")[0])
    mine, base = find(ours), find(theirs)
    shared = {name for name in vars(mine) if inspect.isfunction(vars(mine)[name]) and hasattr(base, name)} - {
        "__init__"
    }
    assert shared == REPLACED[ours, theirs], (
        f"{ours} replaces other methods of {named(theirs.split('.')[0])} than listed"
    )
    for name in sorted(shared):
        takes = parameters(getattr(mine, name))
        positional = inspect.signature(getattr(base, name)).parameters.values()
        wanted = [one.name for one in positional if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]
        assert takes is None or set(wanted) <= takes.keys(), (
            f"{ours}.{name} takes {', '.join(takes)}; {named(theirs.split('.')[0])} calls it with {', '.join(wanted)}"
        )


@pytest.mark.parametrize(
    ("place", "dotted", "wanted"),
    [pytest.param(*row, marks=SLOW if row[1].startswith("vllm") else ()) for row in TAKEN],
)
def test_arguments_that_are_given_are_taken(place, dotted, wanted):
    require(dotted.split(".")[0])
    assert (ROOT / "prmbench" / place).is_file()
    found = problem(Use(f"prmbench/{place}", dotted, tuple(wanted)))
    assert found is None, found


@pytest.mark.parametrize(
    ("why", "dotted", "wanted"),
    [pytest.param(*row, marks=SLOW if row[1].startswith("vllm") else ()) for row in DEFAULTS],
)
def test_defaults_are_those_that_are_relied_on(why, dotted, wanted):
    require(dotted.split(".")[0])
    assert (ROOT / "prmbench" / why.split(":")[0]).is_file()
    takes = inspect.signature(find(dotted)).parameters
    found = {name: takes[name].default if name in takes else "no such argument" for name in wanted}
    assert found == wanted, f"prmbench/{why}: the defaults of {dotted} in {named(dotted.split('.')[0])} are others"


@pytest.mark.parametrize(
    "dotted", [pytest.param(name, marks=SLOW if name.startswith("vllm") else ()) for name in NAMED]
)
def test_attributes_that_are_used_are_there(dotted):
    require(dotted.split(".")[0])
    gone = [
        name
        for name in NAMED[dotted]
        if not hasattr(find(dotted), name) and name not in inspect.getsource(find(dotted))
    ]
    assert not gone, f"{dotted} of {named(dotted.split('.')[0])} no longer has {gone}"


@pytest.mark.parametrize("dotted", LINES)
def test_lines_that_ours_stand_beside_are_there(dotted):
    source = inspect.getsource(find(dotted))
    gone = [line for line in LINES[dotted] if line not in source]
    assert not gone, f"{dotted} of {named(dotted.split('.')[0])} no longer has {gone}"


@pytest.mark.parametrize("model", ["LlamaModel", "Qwen3Model", "Gemma2Model", "DeepseekV3Model", "MambaModel"])
def test_models_name_their_cache_as_ours_expects(model):
    known = cache_argument(find(f"transformers.{model}"))
    assert known is not None, (
        f"{model} of {named('transformers')} takes its cache under a name that kv_cache.py does not know"
    )


def test_the_argument_that_computes_layers_twice_is_the_one_that_is_not_deprecated(tmp_path):
    """A warning is an error in tests; all trainers of TRL take the argument too."""
    from transformers import TrainingArguments
    from trl import GRPOConfig, SFTConfig

    for made in (TrainingArguments, GRPOConfig, SFTConfig):
        for wanted in (True, False):
            arguments = made(output_dir=str(tmp_path), use_cpu=True, bf16=False, **{checkpointing_argument(): wanted})
            assert arguments.gradient_checkpointing is wanted


def test_trl_gives_a_step_the_prompts_that_ours_lays_out():
    """Where this or a row about TRL fails: read its changelog, mend `PolicyTrainer`, raise TESTED_TRL."""
    from trl import GRPOTrainer
    from trl.trainer.utils import RepeatSampler

    assert GRPOTrainer.loss_is_scaled_for_ga is True, "TRL now lets transformers scale the loss"
    theirs = RepeatSampler(list(range(5)), mini_repeat_count=2, batch_size=2, repeat_count=3, shuffle=False)
    ours = list(PromptSampler(5, 2, 2, 3, seed=0))
    order = np.random.default_rng([0, 0]).permutation(5)
    assert ours == [int(order[i]) for i in theirs], "TRL's loader now wants prompts in another layout"
    assert len(PromptSampler(5, 2, 2, 3, seed=0)) == len(ours) == len(theirs)
