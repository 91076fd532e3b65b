"""A reward model as the subject of an entry."""

from __future__ import annotations

from prmbench.results.schema import Subject
from prmbench.results.store import public_name
from prmbench.reward_models.base import RewardModel
from prmbench.reward_models.presets import find_preset


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
        unverified=None if card.preset is None else not find_preset(card.preset).verified,
        scoring=model.scoring(),
        fixed_thresholds=model.fixed_thresholds(),
    )
