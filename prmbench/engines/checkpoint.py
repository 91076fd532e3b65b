"""Checkpoint folders: finding one, hashing it, and reading single weights of it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from prmbench.data.records import read_json
from prmbench.errors import ArgumentError, UserError, first_line, nearest_path

if TYPE_CHECKING:
    import torch


def locate(source: str, name: str) -> Path:
    """Turn a local folder or a Hub id into a local folder that holds the checkpoint.

    Args:
        source: The folder or Hub id.
        name: Name of the argument that the source came from, for errors.

    Returns:
        The folder. A Hub id is downloaded where it is not in the Hub's cache.

    Raises:
        ArgumentError: There is no such folder, and the Hub gives no such repository.
    """
    if (path := local_folder(source, name)) is not None:
        return path
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                source, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.tiktoken"]
            )
        )
    except Exception as error:  # offline, no such repository, gated: many kinds
        raise ArgumentError(
            name,
            source,
            f"no such folder, and not to be had from the Hub ({first_line(error)}); "
            "pass the folder of a checkpoint or the id of a public one (owner/name)",
        ) from None


def local_folder(source: str, name: str) -> Path | None:
    """Find the local folder that a source names, without asking the Hub, so that a typo shows before anything is loaded.

    Args:
        source: A folder or a Hub id.
        name: Name of the argument that the source came from, for errors.

    Returns:
        The folder; None where the source may be a Hub id.

    Raises:
        ArgumentError: The source is neither a folder nor what a Hub id looks like.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise ArgumentError(
            name, source, "is a file; expected the folder of a checkpoint (with config.json and .safetensors)"
        )
    near = nearest_path(path, folders_only=True)
    may_be_id = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source) and not source.startswith(".")
    if may_be_id and (not near or _is_cached(source)):
        return None
    fetch = f"; if it is a Hub id, fetch it first: hf download {source}" if may_be_id else " or a Hub id (owner/name)"
    raise ArgumentError(name, source, f"no such folder{near}; pass the folder of a checkpoint{fetch}")


def _is_cached(hub_id: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(hub_id, "config.json"), str)


def max_positions(folder: Path) -> int | None:
    """Read the longest sequence that a checkpoint was built for from its config.

    Args:
        folder: The checkpoint folder.

    Returns:
        Number of tokens; None where the config does not say.
    """
    config = read_json(folder / "config.json")
    found = config.get("max_position_embeddings", config.get("text_config", {}).get("max_position_embeddings"))
    return int(found) if found else None


def checkpoint_hash(folder: Path) -> str:
    """Hash the names and contents of the files that decide what a checkpoint computes.

    These are its .safetensors files, ``config.json`` and, of an adapter, ``adapter_config.json``. What the tokenizer does shows
    in the token ids.

    Args:
        folder: The checkpoint folder.

    Returns:
        sha256 in hex.

    Raises:
        UserError: There are no .safetensors files. Other formats can run code when loaded and are refused.
    """
    configs = [path for name in ("config.json", "adapter_config.json") if (path := folder / name).exists()]
    whole = hashlib.sha256()
    for file in [*weight_files(folder), *configs]:
        with file.open("rb") as handle:
            whole.update(file.name.encode() + b"\0" + hashlib.file_digest(handle, "sha256").digest())
    return whole.hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """List the .safetensors files of a checkpoint, and check that none of those in its index is missing.

    Args:
        folder: The checkpoint folder.

    Returns:
        The files, by name; at least one.

    Raises:
        UserError: There are none, or one that the index names is missing.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        others = sorted(p.name for p in folder.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".gguf"})
        hint = f"; found {', '.join(others)}: save it again as safetensors" if others else ""
        raise UserError(f"{folder}: holds no .safetensors weights{hint}")
    index = folder / "model.safetensors.index.json"
    if index.exists():
        shards = sorted(set(read_json(index).get("weight_map", {}).values()))
        absent = [name for name in shards if not (folder / name).exists()]
        if absent:
            raise UserError(
                f"{folder}: {len(absent)} of {len(shards)} weight files are missing ({absent[0]}); download it again"
            )
    return files


def read_weights(folder: Path, endings: Iterable[str]) -> dict[str, torch.Tensor]:
    """Read the weights of a checkpoint whose names end in one of some endings.

    Args:
        folder: The checkpoint folder.
        endings: Ends of names, such as ``score.weight``; whole parts between dots.

    Returns:
        Weights in float32, by ending. An ending that no weight has is left out.

    Raises:
        UserError: A weight holds NaN or infinite numbers.
    """
    from safetensors import safe_open

    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  (not a dict)
                for ending in endings:
                    if name == ending or name.endswith(f".{ending}"):
                        found[ending] = tensors.get_tensor(name).float()
                        refuse_not_finite(name, found[ending], folder)
    return found


def refuse_not_finite(name: str, weight: torch.Tensor, folder: Path) -> None:
    """Raise UserError where a weight holds NaN or infinite numbers.

    Args:
        name: Name of the weight.
        weight: The weight. Any shape.
        folder: The checkpoint that it is of, for the error.
    """
    if not bool(weight.isfinite().all()):
        raise UserError(f"{folder}: weight '{name}' holds NaN or infinite numbers; the checkpoint is broken")
