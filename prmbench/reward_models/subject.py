"""A reward model as the subject of an entry."""

from __future__ import annotations

from prmbench.results.schema import Subject
from prmbench.results.store import public_name
from prmbench.reward_models.base import RewardModel
from prmbench.reward_models.card import Card, make_card
from prmbench.reward_models.presets import Verified, fill_in, find_preset

FIELDS = {"kind", "objective", "beta", "prompt", "tokens", "marks", "pair", "generation"}
"""Fields of a card that a preset's authors decide, so that changing one is another way of scoring than the verified one."""


def verified_by(card: Card) -> Verified | None:
    """Say what the way a model is scored was compared with.

    Args:
        card: Its card, with the user's settings over it.

    Returns:
        The authors' code; None where there is no preset, where it is not verified, and where a setting changes how it scores.
    """
    preset = None if card.preset is None else find_preset(card.preset)
    if preset is None or preset.verified is None:
        return None
    own = make_card(fill_in(preset.card, {"preset": card.preset}), str(card.preset))
    same = own.model_dump(include=FIELDS) == card.model_dump(include=FIELDS)
    return preset.verified if same else None


def describe(model: RewardModel, name: str, source: str) -> Subject:
    """Describe a reward model as the subject of an entry.

    Args:
        model: The reward model.
        name: What tables call it.
        source: The checkpoint as the user named it; of a local folder only the name is kept.

    Returns:
        The subject.
    """
    card, facts = model.card, dict(model.facts)
    verified = verified_by(card)
    return Subject(
        name=name,
        source=public_name(source),
        kind=model.kind,
        objective=card.objective,
        beta=card.scale(),
        margin=card.margin,
        discount=card.discount,
        reference=public_name(facts.pop("reference", None)),
        weights=model.hashes,
        facts=facts,
        step_valued=model.step_valued or model.predicts,
        preset=card.preset,
        unverified=None if card.preset is None else verified is None,
        verified=None if verified is None else str(verified),
        scoring=model.scoring(),
        fixed_thresholds=model.fixed_thresholds(),
    )
