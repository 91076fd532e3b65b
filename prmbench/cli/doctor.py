"""What this installation has: versions, devices, engines, data, the cache; and for what is missing, the command that gets it."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from prmbench.errors import first_line
from prmbench.resources import install_command

EXTRAS = {
    "vllm": ("vllm", "sampling, log-probs and heads at scale"),
    "trl": ("train", "prmbench train rl"),
    "openai": ("api", "models behind a server"),
    "fastapi": ("serve", "prmbench serve"),
    "lm_eval": ("lm-eval", "the lm-eval tasks"),
}
"""Optional modules: the extra that installs each, and what it is for."""


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        group: The part of the report: versions, devices, engines, data or cache.
        name: What was looked for.
        found: What is there.
        ok: Whether it is there.
        remedy: What to run where it is not; None: nothing to do.
    """

    group: str
    name: str
    found: str
    ok: bool = True
    remedy: str | None = None


def examine() -> list[Finding]:
    """Look at everything. Never raises: what fails is a finding; nothing is downloaded or written."""
    found: list[Finding] = []
    parts: dict[str, Callable[[], Iterator[Finding]]] = {
        "versions": _versions,
        "devices": _devices,
        "engines": _engines,
        "data": _data,
        "cache": _cache,
    }
    for group, part in parts.items():
        try:
            found += part()
        except Exception as error:  # a broken installation raises what it likes: the others are still looked at
            remedy = f"pip install {error.name}" if isinstance(error, ModuleNotFoundError) and error.name else None
            found.append(
                Finding(group, "check", f"failed ({type(error).__name__}: {first_line(error)})", False, remedy)
            )
    return found


def _versions() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    yield Finding("versions", "python", f"{platform.python_version()} on {platform.platform()}")
    for requirement in map(Requirement, metadata.requires("prmbench") or ()):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue  # of an extra
        try:
            yield Finding("versions", requirement.name, metadata.version(requirement.name))
        except metadata.PackageNotFoundError:
            remedy = f"pip install '{requirement}'"
            yield Finding("versions", requirement.name, "not installed", ok=False, remedy=remedy)


def _devices() -> Iterator[Finding]:
    import torch

    cores = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    yield Finding("devices", "cpu", f"{cores}; float32 by default")
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = f"torch is built for CUDA {built}, and finds no device" if built else "this torch is built without CUDA"
        remedy = "nvidia-smi" if built else "pip install --force-reinstall torch"
        yield Finding("devices", "cuda", f"{why}; with a GPU, try", ok=False, remedy=remedy)
        return
    for index in range(torch.cuda.device_count()):
        free, total = (size / 2**30 for size in torch.cuda.mem_get_info(index))
        name = torch.cuda.get_device_name(index)
        yield Finding("devices", f"cuda:{index}", f"{name}, {free:.1f} of {total:.1f} GiB free; bfloat16 by default")


def _engines() -> Iterator[Finding]:
    missing = [name for name in ("torch", "transformers") if util.find_spec(name) is None]
    yield Finding(
        "engines",
        "hf",
        f"{', '.join(missing)} not installed" if missing else "every benchmark and kind",
        ok=not missing,
        remedy=f"pip install {' '.join(missing)}" if missing else None,
    )
    for module, (extra, purpose) in EXTRAS.items():
        if util.find_spec(module) is None:
            remedy = install_command(extra)
            yield Finding("engines", module, f"not installed; for {purpose}", ok=False, remedy=remedy)
        else:
            yield Finding("engines", module, f"{_version_of(module)}, for {purpose}")


def _version_of(module: str) -> str:
    for name in (module, module.replace("_", "-"), f"{module}-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "installed"


def _data() -> Iterator[Finding]:
    from prmbench.data.problem_sets import PROBLEM_SETS
    from prmbench.data.records import SUFFIXES
    from prmbench.data.traces import DATA_DIR_VARIABLE, PROCESSBENCH_SUBSETS

    root = os.environ.get(DATA_DIR_VARIABLE)
    if not root:
        offline = os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
        state = (
            "not set, and the Hub is switched off" if offline else "not set: data comes from the Hub when first used"
        )
        remedy = f"unset HF_HUB_OFFLINE, or export {DATA_DIR_VARIABLE}=FOLDER" if offline else None
        yield Finding("data", DATA_DIR_VARIABLE, state, ok=not offline, remedy=remedy)
        return
    yield Finding(
        "data",
        DATA_DIR_VARIABLE,
        root if Path(root).is_dir() else f"{root}: no such folder",
        ok=Path(root).is_dir(),
        remedy=None if Path(root).is_dir() else f"export {DATA_DIR_VARIABLE}=FOLDER",
    )
    wanted = {f"processbench {name}": f"processbench/{name}" for name in PROCESSBENCH_SUBSETS}
    wanted |= {name: known.file for name, known in PROBLEM_SETS.items()}
    for name, stem in wanted.items():
        file = next((path for end in SUFFIXES if (path := Path(root) / (stem + end)).is_file()), None)
        if file is not None:
            yield Finding("data", name, f"{file.relative_to(root)}, {file.stat().st_size / 2**10:,.0f} KiB")
        elif name.startswith("processbench"):  # a folder that is named is all there is of ProcessBench
            remedy = f"put {stem}.json there, or unset {DATA_DIR_VARIABLE} (it then comes from the Hub)"
            yield Finding("data", name, f"no {stem}.json there", ok=False, remedy=remedy)
        else:
            yield Finding("data", name, f"no {stem}.jsonl there: comes from the Hub when first used")


def _cache() -> Iterator[Finding]:
    from prmbench.engines.reference_cache import LIMIT_VARIABLE, LogprobCache

    store = LogprobCache()
    state = f"{store.path}, {store.size() / 2**20:.1f} MiB of {store.limit / 2**30:g} GiB"
    if store.limit == 0:
        yield Finding("cache", "reference log-probs", f"switched off ({LIMIT_VARIABLE}=0)")
        return
    place = next(folder for folder in (store.path.parent, *store.path.parents) if folder.exists())
    writable = place.is_dir() and os.access(place, os.W_OK)
    remedy = None if writable else "export XDG_CACHE_HOME=FOLDER (one that can be written)"
    found = state if writable else f"{place} cannot be written"
    yield Finding("cache", "reference log-probs", found, ok=writable, remedy=remedy)
