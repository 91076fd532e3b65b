"""A reward model as the subject of an entry."""

from __future__ import annotations

from prmbench.results.schema import (
    Subject,
)
from prmbench.results.store import public_name
from prmbench.reward_models.base import RewardModel
from prmbench.reward_models.presets import find_preset


def describe(model: RewardModel, name: str, source: str) -> Subject:
    """The subject of an entry."""
    facts, preset = dict(model.facts), model.card.preset
    return Subject(
        name=name,
        source=public_name(source),
        kind=model.kind,
        objective=model.card.objective,
        beta=model.card.scale(),
        margin=model.card.margin,
        discount=model.card.discount,
        reference=public_name(facts.pop("reference", None)),
        weights=model.hashes,
        facts=facts,
        step_valued=model.step_valued or model.predicts,
        preset=preset,
        unverified=None if preset is None else not find_preset(preset).verified,
        scoring=model.scoring(),
        fixed_thresholds=model.fixed_thresholds(),
    )
