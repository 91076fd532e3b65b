"""Send entries or a checkpoint to the Hugging Face Hub: what would be sent, and the sending."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prmbench.benchmarks.base import Measured
from prmbench.benchmarks.registry import load_measured
from prmbench.data.records import decoded, file_hash, read_whole
from prmbench.engines.checkpoint import ADAPTER_CONFIG
from prmbench.errors import ArgumentError, UserError, first_line, printable
from prmbench.reports.exchange import to_hub_results
from prmbench.reports.export import to_markdown, to_model_card
from prmbench.reports.leaderboard import entry_files
from prmbench.reports.verification import require_valid
from prmbench.results.plain_files import require_plain_file
from prmbench.results.schema import ENTRY_NAME
from prmbench.results.store import slug
from prmbench.reward_models.card import CARD_NAME

CONFIGS = ("config.json", ADAPTER_CONFIG)
SENT = (".safetensors", ".json", ".jinja", ".model", ".txt", ".md")
"""Endings of the files of a checkpoint that are sent. States of training runs lie in folders, which are not."""
README = "README.md"


@dataclass(frozen=True)
class Shipment:
    """What is sent.

    Attributes:
        repo: The repository, ``owner/name``.
        repo_type: ``model`` or ``dataset``.
        files: A file or its content, by path in the repository.
    """

    repo: str
    repo_type: str
    files: Mapping[str, Path | bytes]

    def lines(self) -> list[str]:
        """Return a line for each file: path, size in bytes, and the first digits of its sha256."""
        found = []
        for name, content in self.files.items():
            if isinstance(content, bytes):
                size, sha256 = len(content), hashlib.sha256(content).hexdigest()
            else:
                size, sha256 = content.stat().st_size, file_hash(content)
            found.append(f"{printable(name)}: {size:,} bytes, sha256 {sha256[:12]}")
        return found


def pack(paths: Sequence[Path], repo: str) -> Shipment:
    """Choose what to send of a checkpoint and of runs.

    A checkpoint makes a model repository: its weights, tokenizer and card, a README where it has none, and with runs a section on
    them and results for the Hub. Runs alone make a data set repository: their entries and items, and a README with the tables.
    Entries and items hold figures, ids and scores, and no texts.

    Args:
        paths: Folders of runs (or entry files), and at most one folder of a checkpoint.
        repo: The repository, ``owner/name``.

    Raises:
        UserError: A name that is none, several checkpoints, an entry that is not what its items say, an entry of another model than
            the checkpoint, or a file that is none (a link, a folder, a device).
    """
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise ArgumentError("repo", repo, "expected owner/name")
    models = [path for path in paths if any((path / name).is_file() for name in CONFIGS)]
    if len(models) > 1:
        raise UserError(f"{models[0]} and {models[1]}: are two checkpoints; push them one by one")
    measured = []
    for path in paths:
        if path not in models:
            require_valid(path)
            measured.append(load_measured(path, items=False))
    if models:
        return Shipment(repo, "model", _model_files(models[0], measured))
    if not measured:
        raise UserError("push: expected folders of runs, or the folder of a checkpoint")
    files: dict[str, Path | bytes] = {}
    for one in measured:
        name = slug(f"{one.name}-{one.entry.benchmark.name}-{one.entry.benchmark.fingerprint[:8]}")
        for file in entry_files(one.path):
            files[f"entries/{name}/{ENTRY_NAME if file == one.path else file.name}"] = file
    files[README] = f"# Entries of prmbench\n\n{to_markdown(measured)}".encode()
    return Shipment(repo, "dataset", files)


def _model_files(folder: Path, measured: Sequence[Measured]) -> dict[str, Path | bytes]:
    from prmbench.engines.checkpoint import checkpoint_hash

    files: dict[str, Path | bytes] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix in SENT and not file.is_dir():
            require_plain_file(file)
            files[file.name] = file
    if not any(name.endswith(".safetensors") for name in files):
        raise UserError(f"{folder}: holds no .safetensors; only such weights are sent")
    if measured:
        mine = checkpoint_hash(folder)
        for one in measured:
            if mine not in one.entry.subject.weights.values():
                raise UserError(f"{one.path}: is of other weights than {folder}; push it without the checkpoint")
    written = folder / README
    text = decoded(str(written), read_whole(written)).replace("\r\n", "\n") if written.is_file() else _front(folder)
    if measured and "\n## Evaluation\n" not in text:
        text += f"\n{to_model_card(measured)}"
    files[README] = text.encode()
    for one in measured:
        try:
            results = to_hub_results(one)
        except UserError:
            continue  # not of a data set of the Hub
        files[f".eval_results/prmbench-{slug(one.entry.benchmark.name)}.yaml"] = results.encode()
    return files


def _front(folder: Path) -> str:
    """The beginning of a model card for a checkpoint that has none."""
    kind = (
        "a process reward model: its card `prmbench.json` says how it scores"
        if (folder / CARD_NAME).is_file()
        else "a language model"
    )
    use = f"```\nprmbench eval --rm {folder.resolve().name}\n```\n" if (folder / CARD_NAME).is_file() else ""
    return f"---\ntags:\n- prmbench\n---\n\n# {printable(folder.resolve().name)}\n\nThis is {kind}.\n\n{use}"


def push(shipment: Shipment, *, private: bool = True, endpoint: str | None = None) -> str:
    """Send files to the Hub, as one commit. The repository is made where it is not there.

    Args:
        shipment: What is sent.
        private: Whether a new repository is private.
        endpoint: Address of the Hub; None: that of huggingface_hub (the variable HF_ENDPOINT).

    Returns:
        Address of the commit.

    Raises:
        UserError: No token, no right to write there, or the Hub cannot be reached.
    """
    import httpx
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    api: Any = HfApi(endpoint=endpoint)
    operations = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=content if isinstance(content, bytes) else str(content))
        for name, content in shipment.files.items()
    ]
    where: dict[str, str] = {"repo_id": shipment.repo, "repo_type": shipment.repo_type}
    try:
        api.create_repo(**where, private=private, exist_ok=True)
        made = api.create_commit(**where, operations=operations, commit_message="Figures of prmbench")
    except LocalTokenNotFoundError:
        raise UserError("push: there is no token for the Hub; run `hf auth login`, or set HF_TOKEN") from None
    except OfflineModeIsEnabled:
        raise UserError("push: HF_HUB_OFFLINE is set, so the Hub is not asked; unset it") from None
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise UserError(f"push: {shipment.repo}: the Hub refused or was not reached ({first_line(error)})") from None
    return str(made.commit_url)
