"""`load_reward_model`: from a folder or Hub id, a card and a user's settings to a ready model."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from prmbench.data.records import file_hash, read_whole
from prmbench.data.revisions import snapshot_commit
from prmbench.data.tokens import TraceEncoder
from prmbench.engines.checkpoint import is_adapter, locate, text_config
from prmbench.engines.load import LoadOptions
from prmbench.engines.registry import check_engine
from prmbench.errors import ArgumentError, UserError, argument, first_line
from prmbench.reward_models.base import LoadRequest, RewardModel
from prmbench.reward_models.card import CARD_NAME, Card, find_reference, make_card, read_card
from prmbench.reward_models.presets import fill_in, find_preset
from prmbench.reward_models.registry import find_kind

MAX_TEMPLATE = 1 << 20
"""The most bytes of a chat template."""

NOWHERE = Path(os.devnull)
"""The folder of a model that has none, because a server holds it."""
SPECIAL = ("marks", "pair", "generation", "discount", "decay", "decay_floor")
"""Fields of a card that only some kinds use (`RewardModel.reads`)."""


def load_reward_model(
    rm: str | Path,
    *,
    reference: str | Path | None = None,
    kind: str | None = None,
    preset: str | None = None,
    load_options: LoadOptions | None = None,
    chat_template: str | Path | None = None,
    plugin: str | Path | None = None,
    engine: str = "hf",
    reference_cache: bool = True,
    **settings: Any,
) -> RewardModel:
    """Load a reward model.

    The parameters are many because each says one thing that a checkpoint without a card leaves open.

    Args:
        rm: A checkpoint folder or a Hub id, which may have a revision behind it (``owner/name@REVISION``), as every name of a
            model may. A card (``prmbench.json``) in it says what it is.
        reference: pi_ref of an implicit model; None for the one that the card names.
        kind: Name of the kind; None for the one that the card names. Without either, a checkpoint with a reference is implicit.
        preset: Name of a preset, which fills in what the card and the settings leave open; None for the one that the card names.
        load_options: Device, dtype and whether code that a checkpoint carries may run; None for the defaults.
        chat_template: File with a Jinja chat template to use in place of that of the tokenizer, or the name of one of several that
            the tokenizer has; None keeps its own, the default one of several.
        plugin: Python file that registers a kind of your own; it is run. None runs nothing.
        engine: What computes tokens: ``hf``; ``vllm`` for all kinds but endo (of an implicit model for its reference too); or
            ``api``, a server, for critics: `rm` is then a model as the server calls it, and `load_options` name the server.
        reference_cache: Whether to keep log-probs of the reference of an implicit model between runs, and to use those kept.
        **settings: Other fields of `Card`, such as objective, beta, prompt, tokens, marks or generation, over those of the card.
            None leaves a field as it is. ``prompt="bare"`` puts problems without the instruction that the model was trained with.

    Returns:
        The model, ready to score.

    Raises:
        UserError: Something is missing or wrong; nothing has been scored then.

    Examples:
        >>> model = prmbench.load_reward_model("CKPT", reference="SFT")
        >>> model.kind, model.card.objective
        ('implicit', 'ipvrm')
    """
    if plugin is not None:
        _run_plugin(Path(plugin))
    check_engine(engine, load_options or LoadOptions())
    source = str(rm)
    folder = NOWHERE if engine == "api" else locate(source, "rm")
    # What the checkpoint is: its card, then preset and kind, then the settings over them.
    found = None if engine == "api" else read_card(folder)
    fields = _asked_for(dict(found or {}), kind, preset)
    if "kind" not in fields:
        if engine == "api":
            fields["kind"] = "critic"
        elif reference is None and not is_adapter(folder):
            raise UserError(f"{source}: has no {CARD_NAME} that says what it is; pass {_ways(folder)}")
        fields.setdefault("kind", "implicit")
    fields = fill_in(fields, {name: value for name, value in settings.items() if value not in (None, {})})
    card = make_card(fields, str(folder / CARD_NAME) if found else "the settings")
    _refuse_unread(card)
    if engine == "api" and not find_kind(card.kind).predicts:
        raise ArgumentError(
            "engine",
            engine,
            f"a server gives texts alone, {card.kind} needs log-probs; use kind critic, or the engine hf",
        )
    card.tokens = card.tokens.with_system(card.template.system)
    request = LoadRequest(
        folder=folder,
        source=source,
        card=card,
        reference=str(reference) if reference is not None else find_reference(card, folder),
        chat_template=read_template(Path(chat_template)) if chat_template is not None else None,
        options=load_options or LoadOptions(),
        engine=engine,
        reference_cache=reference_cache,
    )
    model = find_kind(card.kind).load(request)
    model.source = source
    if (commit := snapshot_commit(folder)) is not None:
        model.commits = {"model": commit, **model.commits}
    model.warnings = [*model.warnings, *_other_template(model), *getattr(model.encoder, "warnings", ())]
    for warning in model.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if plugin is not None:
        model.facts["plugin"] = file_hash(Path(plugin))
    return model


def _other_template(model: RewardModel) -> list[str]:
    """Warn where the chat template is not the one that the model was trained with."""
    if model.card.chat_template is None or not isinstance(model.encoder, TraceEncoder):
        return []
    used = str(model.encoder.conversation()["chat_template"])
    if used == model.card.chat_template:
        return []
    return [
        f"the chat template has the sha256 {used[:12]}, the model was trained with {model.card.chat_template[:12]}: it is shown "
        "prompts of another form"
    ]


def _asked_for(card: dict[str, Any], kind: str | None, preset: str | None) -> dict[str, Any]:
    """Put kind and preset over the fields of a card. What describes another kind, or another preset, is left out."""
    if card.get("preset") is not None:
        card = fill_in(find_preset(str(card["preset"])).card, card)
    if preset is not None:
        wanted = find_preset(preset).card
        if kind is not None and kind != wanted["kind"]:
            raise ArgumentError("kind", kind, f"the preset {preset} is of kind {wanted['kind']}; pass one of the two")
        mine = card if card.get("kind") == wanted["kind"] and card.get("preset") in (None, preset) else {}
        return fill_in(wanted, {**mine, "preset": preset})
    if kind is not None and kind != card.get("kind"):
        return {"kind": kind, **({"tokens": card["tokens"]} if "tokens" in card else {})}
    return card


def _refuse_unread(card: Card) -> None:
    """Raise UserError when the card says something that its kind makes nothing of."""
    found = find_kind(card.kind)
    if card.template.name != "bare" and found.own_layout:
        raise ArgumentError("prompt", card.prompt, f"{card.kind} shows a problem in a way of its own; leave it out")
    for name in SPECIAL:
        if getattr(card, name) is not None and name not in found.reads:
            raise UserError(
                f"'{name}' means nothing for the kind {card.kind}; leave it out (docs/checkpoints.md says what does)"
            )


def read_template(path: Path) -> str:
    """Read a file with a chat template.

    Args:
        path: The file, or the name of a template that the tokenizer has.

    Returns:
        Its text; the name where there is no such file.

    Raises:
        ArgumentError: It cannot be read.
    """
    try:
        is_name = not os.path.exists(path) and not path.suffix and len(path.parts) == 1
        return str(path) if is_name else read_whole(path, MAX_TEMPLATE).decode()
    except UnicodeDecodeError:
        raise ArgumentError("chat_template", path, "is no text in UTF-8") from None
    except UserError as error:
        raise ArgumentError("chat_template", path, str(error).removeprefix(f"{path}: ")) from None


def _ways(folder: Path) -> str:
    """Name the arguments that say what a checkpoint without a card is, those that its architecture can be."""
    public = f"{argument('preset', 'NAME')} (a public PRM)"
    names = text_config(folder).get("architectures") or []
    if names and "Classification" in str(names[0]):
        return f"{argument('kind', 'classifier')} (it is a {names[0]}) or {public}"
    reference = f"{argument('reference', 'SFT')} (a log-ratio against that model)"
    return f"{reference}, {public} or {argument('kind', 'endo')} (the model's own logits)"


def _run_plugin(path: Path) -> None:
    if not path.is_file():
        raise ArgumentError("plugin", path, "no such file; expected a Python file that registers a kind")
    spec = importlib.util.spec_from_file_location(f"prmbench_plugin_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ArgumentError("plugin", path, "not a Python file; expected a name that ends in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ArgumentError("plugin", path, f"failed ({type(error).__name__}: {first_line(error)})") from error
