"""Load a model of a checkpoint folder safely: from safetensors only, complete and finite."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prmbench.data.records import read_json
from prmbench.engines.api.service import Service
from prmbench.engines.attention import missing_for_attention, unknown_attention
from prmbench.engines.checkpoint import adapter_base, is_adapter, refuse_not_finite, text_config, weight_names
from prmbench.errors import ArgumentError, UserError, argument, first_line, nearest, shortened

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class LoadOptions:
    """Where and how weights are loaded, and how a model computes.

    Attributes:
        device: ``auto`` (CUDA where there is one, else CPU), or the name of a torch device.
        dtype: ``auto`` (float32 on a CPU, bfloat16 on CUDA) or one of `DTYPES`.
        trust_remote_code: Whether code that a checkpoint carries is run. It is not unless the user asks.
        attn_implementation: How attention is computed: one of `prmbench.engines.attention.ATTENTION`, or the id of a kernel; None:
            as transformers has it for the architecture, which is sdpa for most. Only the engine hf has a choice.
        padding_free: Whether the sequences of a batch are joined into one row without padding; only with the engine hf.
        liger: Whether the kernels of Liger take the place of norms and feed-forward layers; for training.
        tensor_parallel: Number of devices that share one model. Only vLLM takes more than 1.
        data_parallel: Number of copies of the model, each with devices of its own. Only vLLM takes more than 1.
        service: The server that the engine api asks; None: OpenAI's.
    """

    device: str = "auto"
    dtype: str = "auto"
    trust_remote_code: bool = False
    attn_implementation: str | None = None
    padding_free: bool = False
    liger: bool = False
    tensor_parallel: int = 1
    data_parallel: int = 1
    service: Service | None = None

    def resolve_device(self) -> torch.device:
        """Find the torch device. One of several processes gets a CUDA device of its own.

        Raises:
            ArgumentError: There is no such device, or CUDA is asked for where there is none.
        """
        import torch

        name = self.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cuda":
            name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        try:
            device = torch.device(name)
        except RuntimeError:
            raise ArgumentError("device", self.device, "not a device; expected auto, cpu, cuda or cuda:N") from None
        if device.type == "cuda" and not torch.cuda.is_available():
            raise ArgumentError(
                "device", self.device, f"torch finds no CUDA device here; use {argument('device', 'cpu')}"
            )
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise ArgumentError(
                "device", self.device, f"there are {torch.cuda.device_count()} CUDA devices here, from 0"
            )
        if device.type not in ("cuda", "cpu"):
            try:
                torch.zeros(1, device=device).item()
            except Exception as error:  # torch raises what it likes
                why = f"cannot be used here ({shortened(first_line(error))}); use {argument('device', 'cpu')}"
                raise ArgumentError("device", self.device, why) from None
        return device

    def resolve_dtype(self) -> torch.dtype:
        """Find the torch dtype.

        Raises:
            ArgumentError: The dtype is none of `DTYPES`.
        """
        import torch

        name = self.dtype
        if name == "auto":
            name = "bfloat16" if self.resolve_device().type == "cuda" else "float32"
        if name not in DTYPES:
            raise ArgumentError("dtype", self.dtype, f"expected auto, {', '.join(DTYPES)}{nearest(name, DTYPES)}")
        return getattr(torch, name)


HEADS = {"score.": "classifier", "v_head.": "value_head"}
"""How names of weights begin that are a reward model's head, and the kind of reward model that reads them."""

HEAD_LAYERS = ("lm_head", "score", "concentration", "classifier", "v_head", "value_head")
"""Names of layers on a decoder that are no part of it."""


def load_causal_lm(folder: Path, options: LoadOptions) -> PreTrainedModel:
    """Load a causal language model in eval mode, checked to be complete and finite.

    Of a model that takes images too, it is the part that is a language model that counts.

    Args:
        folder: The checkpoint folder. An adapter is merged into its base.
        options: Where and how its weights are loaded.

    Returns:
        The model, on its device.

    Raises:
        UserError: There is no config, there are no safetensors, or a shard is missing. Or the checkpoint lacks weights, which
            transformers would fill with random numbers. Or a weight is NaN or infinite; it is named. Or a reward model's
            head is beside the weights: its tied or left-over output layer would pass for a language model's. Or an adapter does
            not fit. Or the architecture, or this machine, cannot compute as the options ask.
    """
    if is_adapter(folder):
        from prmbench.engines.adapters import merge

        refuse_heads(folder, (name.removeprefix("base_model.model.") for name in weight_names(folder)))
        return merge(lambda: load_causal_lm(adapter_base(folder), options), folder)
    classes = ("AutoModelForCausalLM", "AutoModelForImageTextToText")
    return _load(folder, options, classes, "a causal language model", heads_are_refused=True)


def load_trunk(folder: Path, options: LoadOptions) -> PreTrainedModel:
    """Load a decoder without any head, checked as `load_causal_lm` checks.

    Code that the checkpoint carries is not run where transformers has the architecture that its config names (``model_type``).

    Args:
        folder: The checkpoint folder. An adapter is merged into its base.
        options: Where and how its weights are loaded.

    Returns:
        The model, on its device.

    Raises:
        UserError: As `load_causal_lm`, but for heads.
    """
    from transformers import CONFIG_MAPPING

    if is_adapter(folder):
        from prmbench.engines.adapters import merge

        return merge(lambda: _headless(load_trunk(adapter_base(folder), options)), folder, HEAD_LAYERS).trunk
    if read_json(folder / "config.json").get("model_type") in CONFIG_MAPPING:
        options = dataclasses.replace(options, trust_remote_code=False)  # its own class would bring its head along
    model = _load(folder, options, ("AutoModel",), "a model of an architecture that transformers knows")
    return model if model.get_output_embeddings() is None else decoder_of(model)


def decoder_of(model: Any) -> Any:
    """Give the decoder of a language model: what makes last hidden states of token ids.

    Args:
        model: A causal language model of transformers.

    Returns:
        The decoder, without an output layer.
    """
    decoder = model.get_decoder()
    while hasattr(decoder, "lm_head"):  # Llama 4 calls its whole language model the decoder
        decoder = decoder.model
    return decoder


def _load(
    folder: Path, options: LoadOptions, classes: Sequence[str], what: str, *, heads_are_refused: bool = False
) -> PreTrainedModel:
    """Load with the first of some classes of transformers that knows the architecture."""
    import transformers

    # What can be told before anything large is read.
    layers, weights = text_config(folder).get("num_hidden_layers"), len(weight_names(folder))
    if isinstance(layers, int) and layers > weights:
        raise UserError(
            f"{folder}: its config names {layers:,} layers, and there are {weights:,} weights; download it again"
        )
    trusted, device = options.trust_remote_code, options.resolve_device()
    if (problem := attention_problem(options)) is not None:
        raise UserError(f"attn_implementation {options.attn_implementation}: {problem}")
    # The class that knows the architecture, and the weights.
    attention = {} if options.attn_implementation is None else {"attn_implementation": options.attn_implementation}
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trusted)
        known = [name for name in classes if type(config) in getattr(transformers, name)._model_mapping]
        model, info = getattr(transformers, (known or classes)[0]).from_pretrained(
            folder,
            dtype=options.resolve_dtype(),
            use_safetensors=True,
            trust_remote_code=trusted,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are reported; they are an error below
            **attention,
        )
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{folder}: cannot be loaded as {what} ({first_line(error)})") from None
    # What the checkpoint has and the model lacks, and the other way round.
    if heads_are_refused:
        refuse_heads(folder, info["unexpected_keys"])
    missing = sorted(info["missing_keys"])
    mismatched = sorted(str(entry) for entry in info["mismatched_keys"])
    if missing or mismatched:
        shown = ", ".join([*missing, *mismatched][:3])
        raise UserError(
            f"{folder}: the weights do not fill the model: {len(missing)} missing, {len(mismatched)} of another shape "
            f"({shown}); is it {what}, and was it saved whole?"
        )
    check_finite(model, folder)
    # The model as it computes.
    model = model.to(device).eval()
    if options.liger:
        from prmbench.engines.hf.liger import apply_liger

        apply_liger(model, str(folder))
    if options.padding_free:
        from prmbench.engines.hf.states import run_without_padding

        run_without_padding(model if model.get_output_embeddings() is None else decoder_of(model), str(folder))
    return model


def attention_problem(options: LoadOptions) -> str | None:
    """Say what is wrong with the attention that options ask for, on this machine.

    Args:
        options: The options.

    Returns:
        What was expected, or is missing; None where nothing is wrong.
    """
    name = options.attn_implementation
    if name is None:
        return None
    return unknown_attention(name) or missing_for_attention(name, options.resolve_device())


def refuse_heads(folder: Path, names: Iterable[str]) -> None:
    """Raise UserError where the name of a weight that a language model has no use for is that of a reward model's head.

    Args:
        folder: The checkpoint folder, for the error.
        names: Names of weights.
    """
    for name in sorted(names):
        for beginning, kind in HEADS.items():
            if name.startswith(beginning):
                raise UserError(
                    f"{folder}: holds the head of a reward model ('{name}'), which a language model has no use for; score with "
                    f"it by {argument('kind', kind)} or {argument('preset')}"
                )


def _headless(trunk: Any) -> Any:
    """A decoder in the place that it has in a model with a head, where adapters look for its layers."""
    import torch

    class Headless(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = trunk.config
            self.add_module(trunk.base_model_prefix, trunk)

        @property
        def trunk(self) -> Any:
            return getattr(self, trunk.base_model_prefix)

        def forward(self, **inputs: Any) -> Any:
            return self.trunk(**inputs)

    return Headless()


def check_finite(model: torch.nn.Module, folder: Path) -> None:
    """Raise UserError, naming the weight, where a weight is NaN or infinite.

    Args:
        model: The model.
        folder: The checkpoint that it was loaded from, for the error.
    """
    for name, parameter in model.named_parameters():
        refuse_not_finite(name, parameter.detach(), folder)


def trained_length(model: Any) -> int | None:
    """Read the longest sequence that a loaded model was built for from its config.

    With LongRoPE it is the length before the rotary factors change. Otherwise what a model says of a shorter sequence would depend
    on whether a longer one is in its batch, and its cache would hold states of the other factors.

    Args:
        model: A model of transformers.

    Returns:
        Number of tokens; None where the config does not say.
    """
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        return int(rope["original_max_position_embeddings"])
    return getattr(config, "max_position_embeddings", None)


def eos_ids(model: Any) -> list[int]:
    """Read the token ids that a loaded model's own generation settings stop at.

    Args:
        model: A model of transformers.

    Returns:
        The token ids; empty where there are none.
    """
    own = getattr(model.generation_config, "eos_token_id", None)
    return own if isinstance(own, list) else [] if own is None else [own]
