"""`load_reward_model`: from a folder or Hub id, a card and a user's flags to a ready model."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

from prmbench.engines.loading import LoadOptions, locate
from prmbench.errors import UserError, first_line
from prmbench.reward_models import endo, implicit, q_rm  # noqa: F401  (registers the kinds)
from prmbench.reward_models.base import LoadRequest, RewardModel, find_kind
from prmbench.reward_models.card import CARD_NAME, make_card, read_card


def load_reward_model(
    rm: str | Path,
    *,
    reference: str | Path | None = None,
    kind: str | None = None,
    load_options: LoadOptions | None = None,
    chat_template: str | Path | None = None,
    plugin: str | Path | None = None,
    tokens: dict[str, Any] | None = None,
    engine: str = "hf",
    reference_cache: bool = True,
    **settings: Any,
) -> RewardModel:
    """Load a reward model.

    Args:
        rm: a checkpoint folder or a Hub id. A card (``prmbench.json``) in it says what it is.
        reference: pi_ref of an implicit model, over the card's.
        kind: a registered kind, over the card's; without either, a checkpoint with a reference is implicit.
        chat_template: a file with a Jinja chat template, instead of the tokenizer's.
        plugin: a Python file of the user's that registers a kind of his own; it is run.
        load_options: device, dtype, remote code. engine: hf or vllm (implicit models; model and reference both).
        tokens: fields of `TokenOptions`, over the card's.
        reference_cache: keep log-probs of an implicit model's reference between runs, and use those that are there.
        settings: other fields of `Card` (objective, beta, margin, discount), over the card's; None leaves them.

    Raises:
        UserError: anything missing or wrong; nothing has been scored then.
    """
    if plugin is not None:
        _run_plugin(Path(plugin))
    source = str(rm)
    folder = locate(source, "--rm")
    found = read_card(folder)
    fields = dict(found or {})
    if kind is not None and kind != fields.get("kind"):
        fields = {"tokens": fields["tokens"]} if "tokens" in fields else {}  # the rest describes the other kind
    if kind is None and "kind" not in fields:
        if reference is None and not (folder / "adapter_config.json").exists():
            raise UserError(
                f"{source}: has no {CARD_NAME} that says what it is; pass --reference SFT (a log-ratio against that model) "
                "or --kind endo (the model's own logits)"
            )
        kind = "implicit"
    fields |= {"kind": kind} if kind else {}
    fields |= {name: value for name, value in settings.items() if value is not None}
    if tokens:
        fields["tokens"] = {**fields.get("tokens", {}), **tokens}
    card = make_card(fields, str(folder / CARD_NAME) if found else "the options")
    request = LoadRequest(
        folder=folder,
        source=source,
        card=card,
        reference=str(reference) if reference is not None else _beside(folder, card.reference),
        chat_template=read_template(Path(chat_template)) if chat_template is not None else None,
        options=load_options or LoadOptions(),
        engine=engine,
        reference_cache=reference_cache,
    )
    model = find_kind(card.kind).load(request)
    model.source = source
    if plugin is not None:
        model.facts["plugin"] = hashlib.sha256(Path(plugin).read_bytes()).hexdigest()
    return model


def _beside(folder: Path, reference: str | None) -> str | None:
    """A card's reference is relative to the card where such a folder exists."""
    if reference is not None and (folder / reference).is_dir():
        return str((folder / reference).resolve())
    return reference


def read_template(path: Path) -> str:
    """The text of a chat template file. Raises UserError when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"--chat-template {path}: cannot be read ({error.strerror})") from None


def _run_plugin(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"--plugin {path}: no such file; expected a Python file that registers a kind")
    spec = importlib.util.spec_from_file_location(f"prmbench_plugin_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"--plugin {path}: not a Python file; expected a name that ends in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"--plugin {path}: failed ({type(error).__name__}: {first_line(error)})") from error
