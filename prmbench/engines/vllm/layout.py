"""A checkpoint of a reward model, laid out as vLLM reads one: the decoder that it knows, and one head of a name that it knows.

Public PRMs have heads of many names, and configs that name code of their own. vLLM knows a linear layer ``score`` on any decoder
(``convert="classify"``) and the two layers of Qwen2.5-Math-PRM (`Qwen2ForProcessRewardModel`). So a folder is written that links to
the weights, with the head in a file beside them. A weight file that holds a head is copied without it, and those of a decoder that
was saved alone are copied under the names that they have in a language model. All others are links.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prmbench.data.records import read_json
from prmbench.engines.checkpoint import INDEX, loaded_files, weight_names
from prmbench.engines.load import HEAD_LAYERS
from prmbench.errors import UserError, argument

if TYPE_CHECKING:
    import torch

Layer = tuple["torch.Tensor", "torch.Tensor | None"]
"""Weight (shape [outputs, inputs]) and bias (shape [outputs], or None) of a linear layer."""

HEAD_FILE = "head.safetensors"
TOKENIZER_FILES = ("*token*.json", "vocab.json", "*.model", "*.txt", "*.tiktoken")
PROCESS_REWARD = "Qwen2ForProcessRewardModel"
"""vLLM's name for Qwen2 with a head of two layers and a ReLU between them."""


def is_process_reward(model_type: str, layers: Sequence[Layer]) -> bool:
    """Say whether vLLM has a class for a decoder with a head of these layers, all of it.

    Args:
        model_type: ``model_type`` of the config.
        layers: The layers, with a ReLU between them.
    """
    if model_type != "qwen2" or len(layers) != 2 or any(bias is None for _, bias in layers):
        return False
    inner, width = layers[0][0].shape
    return bool(inner == width) and len(layers[1][0]) == 2


def apply_layers(layers: Sequence[Layer], states: torch.Tensor) -> torch.Tensor:
    """Compute linear layers with a ReLU between them.

    Args:
        layers: The layers, the first one first.
        states: What the first layer takes. Shape [rows, inputs].

    Returns:
        Outputs of the last layer. Shape [rows, outputs].
    """
    import torch

    for i, (weight, bias) in enumerate(layers):
        states = torch.nn.functional.linear(torch.relu(states) if i else states, weight, bias)
    return states


def write_layout(folder: Path, target: Path, layers: Sequence[Layer] | None, *, trusted: bool = False) -> None:
    """Write a checkpoint as vLLM reads it.

    Args:
        folder: The checkpoint folder, which is no adapter.
        target: An empty folder.
        layers: Layers of the head. vLLM gets the weight of the first; or all, biases too, where `is_process_reward` says so.
            None: no head; then the tokenizer is put in, which vLLM asks for.
        trusted: Whether code that the checkpoint carries may run.

    Raises:
        UserError: transformers has no language model of this architecture, or the weights are not safetensors.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    # The weights: links to files that vLLM can read as they are, copies of the others.
    config = read_json(folder / "config.json")
    placed: dict[str, str] = {}
    beginning = _beginning(config, weight_names(folder))
    for number, file in enumerate(loaded_files(folder)):
        name = f"model-{number:05}.safetensors"
        with safe_open(file, framework="pt") as weights:
            names = list(weights.keys())
        kept = {beginning + one: one for one in names if not _is_head(one)}
        if list(kept) == names:
            (target / name).symlink_to(file.resolve())
        else:
            whole = load_file(file)
            save_file({new: whole[old] for new, old in kept.items()}, target / name, metadata={"format": "pt"})
        placed |= dict.fromkeys(kept, name)

    # The head.
    native = layers is not None and is_process_reward(str(config.get("model_type")), layers)
    head: dict[str, Any] = {}
    for i, (weight, bias) in enumerate(layers or ()):
        if native:
            head |= {f"score.{2 * i}.weight": weight, f"score.{2 * i}.bias": bias}
        elif i == 0:
            head["score.weight"] = weight
    if head:
        save_file({name: tensor.float().contiguous() for name, tensor in head.items()}, target / HEAD_FILE)
        placed |= dict.fromkeys(head, HEAD_FILE)

    # What says so.
    (target / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    (target / "config.json").write_text(json.dumps(_config(folder, config, layers, native=native, trusted=trusted)))
    for pattern in (*(TOKENIZER_FILES if layers is None else ()), *(("*.py",) if trusted else ())):
        for file in folder.glob(pattern):
            (target / file.name).symlink_to(file.resolve())


def _is_head(name: str) -> bool:
    """Whether a weight is of a head, by its name. The output layer of a language model is none: vLLM leaves it out itself."""
    return bool(set(name.split(".")) & (set(HEAD_LAYERS) - {"lm_head"}))


def _beginning(config: dict[str, Any], names: Iterable[str]) -> str:
    """What the names of weights lack: those of a decoder that was saved alone do not begin with its place in a language model."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    known = AutoModelForCausalLM._model_mapping
    model_type = config.get("model_type")
    if model_type not in CONFIG_MAPPING or (kind := CONFIG_MAPPING[model_type]) not in known:
        return ""
    place = f"{known[kind].base_model_prefix}."
    return "" if any(name.startswith(place) for name in names) else place


def _config(
    folder: Path, config: dict[str, Any], layers: Sequence[Layer] | None, *, native: bool, trusted: bool
) -> dict[str, Any]:
    from transformers.models.auto import modeling_auto as auto

    model_type = str(config.get("model_type"))
    known = auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    names = [one[model_type] for one in known if model_type in one]
    out = {name: value for name, value in config.items() if name not in ("transformers_weights", "auto_map")}
    if names:
        out["architectures"] = [PROCESS_REWARD if native else names[0]]
    elif trusted:
        out["auto_map"] = config.get("auto_map")
    else:
        raise UserError(
            f"{folder / 'config.json'}: transformers has no language model of the type '{model_type}', so vLLM is not asked for "
            f"it; use {argument('engine', 'hf')}"
        )
    if layers is not None:
        labels = len(layers[-1 if native else 0][0])
        out["id2label"] = {str(i): str(i) for i in range(labels)}
        out["label2id"] = {str(i): i for i in range(labels)}
    return out
