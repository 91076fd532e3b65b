"""Checkpoint folders: finding one, hashing it, and reading single weights of it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prmbench.data.records import file_hash, read_json
from prmbench.data.revisions import split_revision
from prmbench.errors import ArgumentError, UserError, first_line, naming_keywords, nearest_path

if TYPE_CHECKING:
    import torch

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.tiktoken")
"""Names of the files of a checkpoint that are downloaded."""


def locate(source: str, name: str, files: Sequence[str] = FILES) -> Path:
    """Turn a local folder or a Hub id into a local folder that holds the checkpoint.

    Args:
        source: The folder or Hub id, which may have a revision behind it: ``owner/name@REVISION``.
        name: Name of the argument that the source came from, for errors.
        files: Names of the files to download, with ``*``. Some of `FILES` are enough to find out whether there is such a
            repository.

    Returns:
        The folder. A Hub id is downloaded where it is not in the Hub's cache.

    Raises:
        ArgumentError: There is no such folder, and the Hub gives no such repository.
        UserError: The folder holds a pipe or a device, which may never end.
    """
    if (path := local_folder(source, name)) is not None:
        for file in path.iterdir():
            if file.exists() and not (file.is_file() or file.is_dir()):
                raise UserError(f"{file}: is a pipe or a device; a checkpoint holds files, take it out")
        return path
    from huggingface_hub import snapshot_download

    hub_id, revision = split_revision(source)
    download = functools.partial(snapshot_download, hub_id, revision=revision, allow_patterns=list(files))
    try:
        try:
            return Path(download())
        except Exception:  # a commit that is in the cache is still asked for where its list of files is not there too
            with contextlib.suppress(Exception):
                return Path(download(local_files_only=True))
            raise
    except Exception as error:  # offline, no such repository or revision, gated: many kinds
        raise ArgumentError(
            name,
            source,
            f"no such folder, and not to be had from the Hub ({first_line(error)}); "
            "pass the folder of a checkpoint or the id of a public one (owner/name, or owner/name@REVISION)",
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
    hub_id, revision = split_revision(source)
    may_be_id = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", hub_id) and not source.startswith(".")
    if may_be_id and (not near or _is_cached(source)):
        return None
    named = f"{hub_id} --revision {revision}" if revision else source
    fetch = f"; if it is a Hub id, fetch it first: hf download {named}" if may_be_id else " or a Hub id (owner/name)"
    raise ArgumentError(name, source, f"no such folder{near}; pass the folder of a checkpoint{fetch}")


def _is_cached(hub_id: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    name, revision = split_revision(hub_id)
    return isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str)


def is_adapter(folder: Path) -> bool:
    """Say whether a folder holds a PEFT adapter instead of a whole model.

    Args:
        folder: The checkpoint folder.
    """
    return (folder / ADAPTER_CONFIG).exists()


def adapter_base(folder: Path) -> Path:
    """Find the folder of the model that an adapter was trained on.

    Args:
        folder: Folder of the adapter. A base that its config names by a path is looked for beside it first.

    Returns:
        The folder of the base, which may be an adapter too.

    Raises:
        UserError: The config names no base or one that cannot be found, or adapters name each other as base.
    """
    base = _named_base(folder)
    seen, below = {folder.resolve()}, base
    while is_adapter(below):
        if below.resolve() in seen:
            raise UserError(
                f"{folder / ADAPTER_CONFIG}: the base that it names leads back to itself; name another base"
            )
        seen.add(below.resolve())
        below = _named_base(below)
    return base


def _named_base(folder: Path) -> Path:
    config = folder / ADAPTER_CONFIG
    fields = read_json(config)
    name, revision = fields.get("base_model_name_or_path"), fields.get("revision")
    if not isinstance(name, str) or not name:
        raise UserError(f"{config}: names no base model (base_model_name_or_path); write its folder or Hub id into it")
    if (folder / name).is_dir():
        name = str((folder / name).resolve())
    elif isinstance(revision, str) and split_revision(f"{name}@{revision}")[1] is not None and not Path(name).exists():
        name = f"{name}@{revision}"
    try:
        return locate(name, "base_model_name_or_path")
    except UserError as error:
        raise UserError(f"{config}: {error}") from None


def model_folder(folder: Path) -> Path:
    """Find the folder that holds the config of a checkpoint: that of its base, where it is an adapter.

    Args:
        folder: The checkpoint folder.

    Returns:
        A folder that is no adapter.

    Raises:
        UserError: As `adapter_base`.
    """
    while is_adapter(folder):
        folder = adapter_base(folder)
    return folder


def max_positions(folder: Path) -> int | None:
    """Read the longest sequence that a checkpoint was built for from its config.

    Args:
        folder: The checkpoint folder.

    Returns:
        Number of tokens; None where the config does not say.
    """
    found = text_config(folder).get("max_position_embeddings")
    return int(found) if found else None


def text_config(folder: Path) -> dict[str, Any]:
    """Read the config of a checkpoint; of a model that takes images too, the part that is a language model.

    Args:
        folder: The checkpoint folder.

    Returns:
        The config, with what only the whole has left in, and its ``model_type``.
    """
    config = read_json(model_folder(folder) / "config.json")
    inner = config.get("text_config")
    return config | inner | {"model_type": config.get("model_type")} if isinstance(inner, dict) else config


def checkpoint_hash(folder: Path, base: Path | None = None) -> str:
    """Hash the names and contents of the files that decide what a checkpoint computes.

    These are its weight files, ``config.json`` and, of an adapter, ``adapter_config.json`` and all of its base. What the tokenizer
    does shows in the token ids.

    Args:
        folder: The checkpoint folder.
        base: Folder of the base, of an adapter; None: the one that its config names.

    Returns:
        sha256 in hex.

    Raises:
        UserError: The weights are not safetensors within the folder. Other formats can run code when loaded and are refused.
    """
    configs = [path for name in ("config.json", ADAPTER_CONFIG) if (path := folder / name).exists()]
    whole = hashlib.sha256()
    for file in [*weight_files(folder), *configs]:
        whole.update(file.name.encode() + b"\0" + bytes.fromhex(file_hash(file)))
    if is_adapter(folder):
        whole.update(checkpoint_hash(base or adapter_base(folder)).encode())
    return whole.hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """List the weight files of a checkpoint, and check that these are what a loader loads.

    Args:
        folder: The checkpoint folder.

    Returns:
        The .safetensors files of the folder and those that its index names, by name; at least one.

    Raises:
        UserError: There are none, one is missing, lies elsewhere or has another format, or it is not clear which are meant.
    """
    if is_adapter(folder):
        if not (folder / ADAPTER_WEIGHTS).exists():
            raise UserError(f"{folder}: a PEFT adapter without {ADAPTER_WEIGHTS}; save it again as safetensors")
        return [folder / ADAPTER_WEIGHTS]
    # What the config names is loaded, else a single file, else what the index names.
    config = folder / "config.json"
    named = read_json(config).get("transformers_weights") if config.exists() else None
    if named is not None and not (isinstance(named, str) and _inside(folder, named, (".safetensors", ".index.json"))):
        raise UserError(
            f"{config}: transformers_weights is {json.dumps(named)[:60]}; expected a .safetensors file of the folder"
        )
    if named is not None and not (folder / named).exists():
        raise UserError(
            f"{config}: transformers_weights names '{named}', which is not in the folder; download it again"
        )
    files = set(folder.glob("*.safetensors"))
    index = folder / (named or INDEX)
    if index.suffix == ".json" and index.exists():
        names = _shards(folder, index)
        if named is None and (folder / SINGLE).exists() and names != {SINGLE}:
            raise UserError(
                f"{folder}: holds both {SINGLE} and {INDEX} with other files, so it is not clear which weights are meant; "
                "delete the older ones"
            )
        files |= {folder / name for name in names}
    elif named is not None:
        files.add(index)
    if not files:
        others = sorted(p.name for p in folder.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".gguf"})
        hint = f"; found {', '.join(others)}: save it again as safetensors" if others else ""
        raise UserError(f"{folder}: holds no .safetensors weights{hint}")
    return sorted(files)


def loaded_files(folder: Path) -> list[Path]:
    """List those of the weight files that a loader reads. Some folders hold the weights a second time, in another layout.

    Args:
        folder: The checkpoint folder.

    Returns:
        The files, by name.

    Raises:
        UserError: As `weight_files`.
    """
    files = weight_files(folder)
    named = None if is_adapter(folder) else read_json(folder / "config.json").get("transformers_weights")
    first = folder / (named or SINGLE)
    index = first if first.suffix == ".json" else folder / INDEX
    if first in files:
        return [first]
    return sorted(folder / name for name in _shards(folder, index)) if index.exists() else files


def _shards(folder: Path, index: Path) -> set[str]:
    """The names of the files that an index names, which are there and within the folder."""
    weight_map = read_json(index).get("weight_map")
    values = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not values or not all(isinstance(name, str) for name in values):
        raise UserError(f"{index}: holds no weight_map from weights to files; download it again")
    names = sorted(set(values))
    if outside := [name for name in names if not _inside(folder, name, (".safetensors",))]:
        raise UserError(
            f"{index}: names '{outside[0]}', which is no .safetensors file of the folder; copy the weights into it"
        )
    if absent := [name for name in names if not (folder / name).exists()]:
        raise UserError(
            f"{folder}: {len(absent)} of {len(names)} weight files are missing ({absent[0]}); download it again"
        )
    return set(names)


def _inside(folder: Path, name: str, endings: tuple[str, ...]) -> bool:
    """Whether a name is that of a file within a folder, with one of some endings."""
    root = os.path.abspath(folder)
    return name.endswith(endings) and os.path.commonpath([root, os.path.abspath(folder / name)]) == root


@naming_keywords
def read_weights(folder: Path, endings: Sequence[str]) -> dict[str, torch.Tensor]:
    """Read the weights of a checkpoint whose names end in one of some endings.

    Args:
        folder: The checkpoint folder. What an adapter does not have is read from its base.
        endings: Ends of names, such as ``score.weight``; whole parts between dots.

    Returns:
        Weights in float32, by ending. An ending that no weight has is left out.

    Raises:
        UserError: A weight holds NaN or infinite numbers.

    Examples:
        >>> from pathlib import Path
        >>> weights = prmbench.read_weights(Path("CLASSIFIER"), ["score.weight"])
        >>> weights["score.weight"].shape[0]
        2
    """
    from safetensors import safe_open

    found = read_weights(adapter_base(folder), endings) if is_adapter(folder) else {}
    for name, file in weight_names(folder).items():
        for ending in endings:
            if name == ending or name.endswith(f".{ending}"):
                with safe_open(file, framework="pt") as tensors:
                    found[ending] = tensors.get_tensor(name).float()
                refuse_not_finite(name, found[ending], folder)
    return found


def weight_names(folder: Path) -> dict[str, Path]:
    """List the weights of a checkpoint by name.

    Args:
        folder: The checkpoint folder.

    Returns:
        The file that each is in.
    """
    from safetensors import safe_open

    found = {}
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt") as tensors:
                found.update(dict.fromkeys(tensors.keys(), file))
        except Exception as error:
            raise UserError(f"{file}: cannot be read ({first_line(error)}); download it again") from None
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
