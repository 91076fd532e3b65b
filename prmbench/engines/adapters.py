"""PEFT adapters: put on the model that they were trained on, merged into it, or switched off to give it back.

PEFT has some forty kinds of adapters and ways to start one, and not all can be merged or switched off. What a kind does is not
looked up but measured: on a few tokens, against the model as it was before.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from prmbench.data.records import read_json
from prmbench.engines.checkpoint import ADAPTER_CONFIG, ADAPTER_WEIGHTS, refuse_not_finite, weight_files
from prmbench.errors import UserError, first_line, shortened
from prmbench.limits import SECONDS, ends

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

_OFF, _OFF_IN_HALF = 1e-3, 0.1
"""Share of the spread of its outputs by which a merged model may differ from the same adapter beside it, by rounding."""

_PROBE = 48  # number of tokens that are tried


def switchable(model: Any, folder: Path) -> tuple[Any, Callable[[], AbstractContextManager[Any]] | None]:
    """Put an adapter on a language model, and find whether switching it off gives the model back.

    Args:
        model: The base, which is changed.
        folder: Folder of the adapter.

    Returns:
        The model with the adapter; and a context in which it computes the very numbers of the base, or None: then the adapter
        changes the base (PiSSA, OLoRA, trained biases and the like), which has to be loaded apart.

    Raises:
        UserError: The adapter does not fit, or is of a kind that changes more than the layers of the model.
    """
    ids, parameters = _probe(model, folder), list(model.parameters())
    before, weights = _outputs(model, ids), [_bits(parameter) for parameter in parameters]
    adapter = _put_on(model, folder)

    @contextmanager
    def off() -> Iterator[None]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what PEFT warns of is what is measured here
            with adapter.disable_adapter():
                yield

    with off():
        same = torch.equal(_outputs(model, ids), before)
    same = same and weights == [_bits(parameter) for parameter in parameters]
    return model, off if same else None


def merge(load: Callable[[], Any], folder: Path, heads: Sequence[str] = ()) -> Any:
    """Merge an adapter into its base.

    Args:
        load: Loads the base, which returns logits or last hidden states.
        folder: Folder of the adapter.
        heads: Layers of the base that the model at hand lacks. What the adapter has for them is left out.

    Returns:
        The model with the adapter merged.

    Raises:
        UserError: The adapter does not fit, has no effect, or cannot be merged so that the model computes the same.
    """
    model = load()
    ids = _probe(model, folder)
    before = _outputs(model, ids)
    adapter = _put_on(model, folder, heads)
    on = _outputs(model, ids)
    if torch.equal(on, before) and not heads:
        raise UserError(f"{folder}: the adapter has no effect on its base; was it trained, and saved after training?")
    tied = _is_tied(model)
    merged = _merged(adapter, folder)
    # An adapter on one of two tied layers is on the other too, once it is merged: then the output layer gets weights of its own.
    if tied and _off(merged, ids, on) >= 1:
        model = load()
        _untie(model)
        merged = _merged(_put_on(model, folder, heads), folder)
    if _off(merged, ids, on) >= 1:
        raise UserError(
            f"{folder}: a {_kind(adapter)} adapter merged into its base computes something else than beside it, so it cannot be "
            "used here; save a merged checkpoint"
        )
    return merged


def _merged(adapter: PeftModel, folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is merged wrongly is measured
        try:
            return adapter.merge_and_unload().requires_grad_(True)  # PEFT has frozen the base
        except Exception as error:  # a kind that cannot be merged
            raise UserError(
                f"{folder}: a {_kind(adapter)} adapter cannot be merged into its base ({first_line(error)}), as is needed "
                "here; save a merged checkpoint"
            ) from None


def _off(merged: Any, ids: torch.Tensor, on: torch.Tensor) -> float:
    """How far a merged model is from the same adapter beside its base, in units of what rounding explains."""
    half = any(p.dtype in (torch.float16, torch.bfloat16) for p in merged.parameters())
    off = float((_outputs(merged, ids) - on).std() / on.std().clamp(min=1e-6))
    return off / (_OFF_IN_HALF if half else _OFF) if off == off else 1.0


def _put_on(model: Any, folder: Path, heads: Sequence[str] = ()) -> PeftModel:
    """Put an adapter on a model, but for its part on `heads`: all of it, and nothing that does not belong to it."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors.torch import load_file

    _refuse_runaway(folder, model)
    config, ids = _config(folder), _probe(model, folder)
    if saved := getattr(config, "modules_to_save", None):
        config.modules_to_save = [name for name in saved if name not in heads] or None
    weight_files(folder)
    tensors = load_file(folder / ADAPTER_WEIGHTS)
    for name, tensor in tensors.items():
        refuse_not_finite(name, tensor, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what does not fit is counted below
        try:
            _resize(model, tensors)
            adapter = PeftModel.from_pretrained(model, str(folder), config=config).eval()
        except Exception as error:  # PEFT raises what it likes
            raise UserError(f"{folder}: the adapter does not fit its base ({first_line(error)})") from None
    if not torch.equal(_outputs(adapter, ids), _outputs(model, ids)):
        raise UserError(
            f"{folder}: a {_kind(adapter)} adapter does more than change layers of its base, which scoring and sampling here do "
            "not see; save a merged checkpoint"
        )
    wanted = get_peft_model_state_dict(adapter, save_embedding_layers=False)
    # A table that was made longer is in the file, whether or not it was trained.
    extra = [name for name in tensors if name not in wanted and not _is_table(name)]
    extra = [name for name in extra if name.removeprefix("base_model.model.").split(".")[0] not in heads]
    missing = [name for name in wanted if name not in tensors]
    if extra or missing:
        raise UserError(
            f"{folder}: the adapter does not fit its base: {len(extra)} of its weights have no place there, {len(missing)} are "
            f"missing ({', '.join([*extra, *missing][:2])}); is it the base that it was trained on?"
        )
    return adapter


def _config(folder: Path) -> PeftConfig:
    """The config of an adapter, as one that is put on the layers of a model whatever task it was trained for."""
    from peft import PeftConfig

    try:
        config = PeftConfig.from_pretrained(str(folder))
    except Exception as error:
        raise UserError(f"{folder / ADAPTER_CONFIG}: is no config of an adapter ({first_line(error)})") from None
    kind = getattr(config.peft_type, "value", config.peft_type)
    if config.is_prompt_learning or config.is_adaption_prompt:
        raise UserError(
            f"{folder}: a {kind} adapter puts learned states before the text, which scoring and sampling here do not; "
            "pass an adapter on layers (LoRA and the like) or a whole checkpoint"
        )
    if str(getattr(config, "init_lora_weights", "")).startswith("pissa_niter"):
        raise UserError(
            f"{folder}: a {kind} adapter started by a random decomposition of its base (init_lora_weights "
            f"'{config.init_lora_weights}'), which no second run repeats; save it as plain LoRA "
            "(path_initial_model_for_weight_conversion), or a merged checkpoint"
        )
    config.task_type = None
    return config


_MATCH = r"""
import re
forms = ("{}", r"(.*\.)?({})$", r"(^|.*\.){}($|\..*)", r"(?:^|.*?\.){}\.(?P<idx>\d+)\.")
for pattern in given["patterns"]:
    for form in forms:
        with contextlib.suppress(re.error):
            matcher = re.compile(form.replace("{}", pattern))
            for name in given["names"]:
                matcher.fullmatch(name), matcher.match(name)
"""


def _refuse_runaway(folder: Path, model: Any) -> None:
    """Raise UserError where a pattern of an adapter's config does not end on the names of a model's layers."""
    patterns = [text for text in _texts(read_json(folder / ADAPTER_CONFIG)) if set("*+{") & set(text)]
    if patterns and not ends(_MATCH, {"patterns": patterns, "names": [name for name, _ in model.named_modules()]}):
        raise UserError(
            f"{folder / ADAPTER_CONFIG}: a pattern for names of layers ({shortened(patterns[0])}) does not end within "
            f"{SECONDS:g} s; write the names out"
        )


def _texts(value: Any) -> list[str]:
    """All texts in a JSON value, keys among them."""
    if isinstance(value, dict):
        return [text for key, one in value.items() for text in (key, *_texts(one))]
    if isinstance(value, list):
        return [text for one in value for text in _texts(one)]
    return [value] if isinstance(value, str) else []


def _resize(model: Any, tensors: dict[str, torch.Tensor]) -> None:
    """Make the token tables of a model as long as those that come with an adapter."""
    rows = {len(tensor) for name, tensor in tensors.items() if _is_table(name)}
    rows |= {tensor.shape[1] for name, tensor in tensors.items() if "lora_embedding_A" in name}
    has_table = len(rows) == 1 and hasattr(model, "resize_token_embeddings")
    if has_table and rows != {len(model.get_input_embeddings().weight)}:
        model.resize_token_embeddings(rows.pop(), mean_resizing=False)


def _is_table(name: str) -> bool:
    """Whether the weight of a name has a row for each token."""
    layer = [part for part in name.split(".") if part not in ("base_layer", "modules_to_save", "original_module")][-2:]
    return layer in (["embed_tokens", "weight"], ["wte", "weight"], ["lm_head", "weight"])


def _is_tied(model: Any) -> bool:
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return head is not None and head.weight is model.get_input_embeddings().weight


def _untie(model: Any) -> None:
    """Give the output layer weights of its own."""
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False


def _probe(model: Any, folder: Path) -> torch.Tensor:
    """Token ids from all over the vocabulary, and those that an adapter trains by name. int64, shape [1, length]."""
    table = next(m for m in model.modules() if isinstance(m, torch.nn.Embedding)).weight
    ids = torch.linspace(0, len(table) - 1, _PROBE).long().unique().tolist()
    for name in ("trainable_token_indices", "token_indices"):
        named = getattr(_config(folder), name, None) or []
        for some in named.values() if isinstance(named, dict) else [named]:
            ids += [int(i) for i in some if int(i) < len(table)]
    return torch.tensor([ids], device=table.device)


@torch.inference_mode()
def _outputs(model: Any, ids: torch.Tensor) -> torch.Tensor:
    out = model(input_ids=ids, use_cache=False)
    return (out.logits if "logits" in out else out.last_hidden_state)[0].float().cpu()


def _bits(parameter: torch.nn.Parameter) -> int:
    """A sum over the bits of a weight, which an in-place change does not leave as it is."""
    whole = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[parameter.element_size()]
    return int(parameter.detach().contiguous().view(whole).sum(dtype=torch.int64))


def _kind(adapter: PeftModel) -> str:
    return str(adapter.peft_config["default"].peft_type.value)
