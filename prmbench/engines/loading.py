"""Load checkpoints safely: safetensors only, complete, finite, and hashed."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prmbench.data.records import read_json
from prmbench.errors import UserError, first_line, nearest, nearest_path

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class LoadOptions:
    """Where and how weights are loaded.

    Attributes:
        device: "auto" (CUDA where there is one, else CPU), or a torch device name.
        dtype: "auto" (float32 on CPU, bfloat16 on CUDA) or one of `DTYPES`.
        trust_remote_code: run code that a checkpoint carries; off unless the user asks.
        tensor_parallel: devices that share one model. data_parallel: copies of the model, each with devices of its own (vLLM only).
    """

    device: str = "auto"
    dtype: str = "auto"
    trust_remote_code: bool = False
    tensor_parallel: int = 1
    data_parallel: int = 1

    def resolve_device(self) -> torch.device:
        """The torch device; with several processes, this process's own CUDA device.

        Raises:
            UserError: no such device, or CUDA asked for where there is none.
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
            raise UserError(f"--device {self.device}: not a device; expected auto, cpu, cuda or cuda:N") from None
        if device.type == "cuda" and not torch.cuda.is_available():
            raise UserError(f"--device {self.device}: torch finds no CUDA device here; use --device cpu")
        return device

    def resolve_dtype(self) -> torch.dtype:
        """The torch dtype. Raises UserError when it is none of `DTYPES`."""
        import torch

        name = self.dtype
        if name == "auto":
            name = "bfloat16" if self.resolve_device().type == "cuda" else "float32"
        if name not in DTYPES:
            raise UserError(f"--dtype {self.dtype}: expected auto, {', '.join(DTYPES)}{nearest(name, DTYPES)}")
        return getattr(torch, name)


def locate(name: str, flag: str) -> Path:
    """Turn a local folder or a Hub id into a local folder that holds the checkpoint.

    Args:
        flag: the option the name came from, for the error.

    Raises:
        UserError: no such folder and not to be had from the Hub either.
    """
    if (path := local_folder(name, flag)) is not None:
        return path
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                name, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.tiktoken"]
            )
        )
    except Exception as error:  # offline, no such repository, gated: many kinds
        raise UserError(
            f"{flag} {name}: no such folder, and not to be had from the Hub ({first_line(error)}); "
            "pass the folder of a checkpoint or the id of a public one (owner/name)"
        ) from None


def local_folder(name: str, flag: str) -> Path | None:
    """The folder that a name is; None where it may be a Hub id. Quick, so a typo shows before anything is loaded.

    Raises:
        UserError: neither a folder nor what a Hub id looks like.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise UserError(
            f"{flag} {name}: is a file; expected the folder of a checkpoint (with config.json and .safetensors)"
        )
    near = nearest_path(path, folders_only=True)
    may_be_id = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and not name.startswith(".")
    if may_be_id and (not near or _is_cached(name)):
        return None
    fetch = f"; if it is a Hub id, fetch it first: hf download {name}" if may_be_id else " or a Hub id (owner/name)"
    raise UserError(f"{flag} {name}: no such folder{near}; pass the folder of a checkpoint{fetch}")


def _is_cached(name: str) -> bool:
    """Whether a Hub id's files have been fetched before."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json"), str)


def max_positions(folder: Path) -> int | None:
    """Longest sequence that a checkpoint was built for, where its config says."""
    config = read_json(folder / "config.json")
    found = config.get("max_position_embeddings", config.get("text_config", {}).get("max_position_embeddings"))
    return int(found) if found else None


def trained_length(model: Any) -> int | None:
    """Longest sequence that a loaded model was built for, where its config says.

    With LongRoPE the length before its rotary factors change: what a model says of a shorter sequence would depend on whether a
    longer one is in its batch, and what its cache keeps would be of the other factors.
    """
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        return int(rope["original_max_position_embeddings"])
    return getattr(config, "max_position_embeddings", None)


def eos_ids(model: Any) -> list[int]:
    """Token ids that a loaded model's own generation settings stop at."""
    own = getattr(model.generation_config, "eos_token_id", None)
    return own if isinstance(own, list) else [] if own is None else [own]


def checkpoint_hash(folder: Path) -> str:
    """sha256 (hex) over the names and contents of the files that decide what a checkpoint computes: its .safetensors
    files, ``config.json`` and, of an adapter, ``adapter_config.json``. (The tokenizer shows in the token ids.)

    Raises:
        UserError: there are none (other weight formats can run code when loaded and are refused).
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        others = sorted(p.name for p in folder.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".gguf"})
        hint = (
            f"; found {', '.join(others)}: save it again with save_pretrained(safe_serialization=True)"
            if others
            else ""
        )
        raise UserError(f"{folder}: holds no .safetensors weights{hint}")
    configs = [path for name in ("config.json", "adapter_config.json") if (path := folder / name).exists()]
    whole = hashlib.sha256()
    for file in [*files, *configs]:
        with file.open("rb") as handle:
            whole.update(file.name.encode() + b"\0" + hashlib.file_digest(handle, "sha256").digest())
    return whole.hexdigest()


def load_tokenizer(folder: Path, options: LoadOptions) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a checkpoint folder. Raises UserError when there is none."""
    from transformers import AutoTokenizer

    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        raise UserError(f"{folder}: holds no tokenizer (tokenizer.json); save the tokenizer with the model")
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=options.trust_remote_code)
    except Exception as error:
        raise UserError(f"{folder}: the tokenizer cannot be loaded ({first_line(error)})") from None


HEADS = {"score.": "classifier", "v_head.": "value_head"}
"""Beginnings of the names of weights that are a reward model's head, and the kind that reads them."""


def load_causal_lm(folder: Path, options: LoadOptions) -> PreTrainedModel:
    """Load a causal language model in eval mode, checked to be complete and finite.

    Raises:
        UserError: no config, no safetensors, a missing shard, weights that the checkpoint lacks (transformers would fill
            them with random numbers), NaN or infinite weights (the parameter is named), or a reward model's head beside
            the weights: its tied or left-over output layer would pass for a language model's.
    """
    return _load(folder, options, "AutoModelForCausalLM", "a causal language model", heads=HEADS)


def load_trunk(folder: Path, options: LoadOptions) -> PreTrainedModel:
    """Load a decoder without any head, checked as `load_causal_lm` checks. Code that the checkpoint carries is not needed:
    the architecture that its config names (``model_type``) is transformers' own.

    Raises:
        UserError: as `load_causal_lm`, but for heads.
    """
    from transformers import CONFIG_MAPPING

    if read_json(folder / "config.json").get("model_type") in CONFIG_MAPPING:
        options = dataclasses.replace(options, trust_remote_code=False)  # its own class would bring its head along
    return _load(folder, options, "AutoModel", "a model of an architecture that transformers knows")


def _load(
    folder: Path, options: LoadOptions, auto_class: str, what: str, heads: Mapping[str, str] | None = None
) -> PreTrainedModel:
    """Load with a class of transformers; weights that it has no place for are an error where they begin as one of `heads`."""
    import transformers

    read_json(folder / "config.json")
    _check_shards(folder)
    try:
        model, info = getattr(transformers, auto_class).from_pretrained(
            folder,
            dtype=options.resolve_dtype(),
            use_safetensors=True,
            trust_remote_code=options.trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are reported; they are an error below
        )
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{folder}: cannot be loaded as {what} ({first_line(error)})") from None
    for name in sorted(info["unexpected_keys"]):
        for beginning, kind in (heads or {}).items():
            if name.startswith(beginning):
                raise UserError(
                    f"{folder}: holds the head of a reward model ('{name}'), which a language model has no use for; score with "
                    f"it by --kind {kind} or a --preset"
                )
    missing = sorted(info["missing_keys"])
    mismatched = sorted(str(entry) for entry in info["mismatched_keys"])
    if missing or mismatched:
        shown = ", ".join([*missing, *mismatched][:3])
        raise UserError(
            f"{folder}: the weights do not fill the model: {len(missing)} missing, {len(mismatched)} of another shape "
            f"({shown}); is it {what}, and was it saved whole?"
        )
    check_finite(model, folder)
    return model.to(options.resolve_device()).eval()


def read_weights(folder: Path, endings: Iterable[str]) -> dict[str, torch.Tensor]:
    """Weights of a checkpoint whose names end in one of these, as float32, by that ending; what is not there is left out.

    Raises:
        UserError: one holds NaN or infinite numbers.
    """
    from safetensors import safe_open

    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  (not a dict)
                for ending in endings:
                    if name == ending or name.endswith(f".{ending}"):
                        found[ending] = tensors.get_tensor(name).float()
                        _refuse_not_finite(name, found[ending], folder)
    return found


def _check_shards(folder: Path) -> None:
    if not any(folder.glob("*.safetensors")):
        checkpoint_hash(folder)  # words the error
    index = folder / "model.safetensors.index.json"
    if index.exists():
        shards = sorted(set(read_json(index).get("weight_map", {}).values()))
        absent = [name for name in shards if not (folder / name).exists()]
        if absent:
            raise UserError(
                f"{folder}: {len(absent)} of {len(shards)} weight files are missing ({absent[0]}); download it again"
            )


def check_finite(model: torch.nn.Module, folder: Path) -> None:
    """Raise UserError, naming the parameter, when a weight is NaN or infinite."""
    for name, parameter in model.named_parameters():
        _refuse_not_finite(name, parameter.detach(), folder)


def _refuse_not_finite(name: str, weight: torch.Tensor, folder: Path) -> None:
    if not bool(weight.isfinite().all()):
        raise UserError(f"{folder}: weight '{name}' holds NaN or infinite numbers; the checkpoint is broken")
