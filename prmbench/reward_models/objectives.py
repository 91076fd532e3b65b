"""What the values of a reward model mean, by the objective it was trained with. The losses are in `prmbench.training.rm`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prmbench.plugins import Registry
from prmbench.results.schema import Subject

Final = Literal["sum", "token_mean", "decayed_sum"]


@dataclass(frozen=True)
class Objective:
    """An objective, as everything but its loss needs it.

    Attributes:
        name: What cards and recipes call it.
        kind: Kind of the reward model that it makes.
        beta: Scale of token values, as the paper has it (Appendix C).
        margin: Margin m that the paper has; None where the equation has none.
        final: How it scores a whole response: beta times the sum or the mean of the token values, or times their sum with
            weights that decay with the position (`prmbench.reward_models.endo.position_weights`).
        is_logit: Whether that score stands for a probability that the response is right, by the link of the margin
            (`prmbench.stats.calibration.margin_logit`).
        loss: Where the loss of an objective from another package is, as ``module:function``; None for our own.
    """

    name: str
    kind: str
    beta: float
    margin: float | None
    final: Final
    is_logit: bool
    loss: str | None = None


OBJECTIVES: Registry[Objective] = Registry(
    "objective",
    "prmbench.objectives",
    {
        one.name: one
        for one in (
            Objective("ipvrm", "implicit", 10.0, 5.0, "token_mean", is_logit=True),
            Objective("ipvrm_late", "implicit", 10.0, 5.0, "token_mean", is_logit=True),
            Objective("ipvrm_early", "implicit", 10.0, 5.0, "token_mean", is_logit=True),
            Objective("implicit_prm", "implicit", 0.05, None, "sum", is_logit=True),
            Objective("dpo", "implicit", 0.05, None, "sum", is_logit=False),
            Objective("q_rm", "q_rm", 0.2, 2.0, "token_mean", is_logit=False),
            Objective("endo", "endo", 1.0, None, "decayed_sum", is_logit=False),
            # Explicit PRMs give one logit a step, and no token values: their scale and final value are not used.
            Objective("step_ce", "classifier", 1.0, None, "sum", is_logit=True),
            Objective("step_soft", "classifier", 1.0, None, "sum", is_logit=True),
            Objective("token_pair", "token_pair", 1.0, None, "sum", is_logit=True),
            Objective("beta_binomial", "classifier", 1.0, None, "sum", is_logit=True),
            # Trained on differences alone: no value of it stands for a probability.
            Objective("prefix_gain", "classifier", 1.0, None, "sum", is_logit=False),
        )
    },
)
"""All objectives. A package adds one by an entry point ``prmbench.objectives`` that gives an `Objective`."""

UNKNOWN = Objective("", "implicit", 1.0, None, "sum", is_logit=False)
"""What is taken for a model of which nothing says the objective: a plain log-ratio."""


def meaning_of(objective: str | None, kind: str = "") -> Objective:
    """Find what the values of a model mean.

    Args:
        objective: The objective that its card names; None where nothing says it.
        kind: The model's kind, which decides where it is also the name of an objective (``q_rm``, ``endo``).

    Returns:
        The objective, or `UNKNOWN`.
    """
    name = objective or kind
    return OBJECTIVES.find(name) if objective or name in OBJECTIVES.names() else UNKNOWN


@dataclass(frozen=True)
class Convention:
    """How a model scores a whole response, its own way.

    Attributes:
        own: ``token_mean``, ``sum`` or ``decayed_sum`` of token values, as its objective has it; ``product`` of step
            probabilities for models that give one score a step, or the ``last`` score where these are no probabilities.
        beta: Scale of token values.
        margin: Margin of the link from that score to a probability that the response is right; None where the score stands for
            none, or where its margin is not known.
    """

    own: Final | Literal["product", "last"]
    beta: float
    margin: float | None

    @classmethod
    def of(cls, subject: Subject) -> Convention:
        """Return the convention of an entry's subject.

        Args:
            subject: The subject of an entry.
        """
        if subject.step_valued:
            compared = subject.objective is not None and not meaning_of(subject.objective).is_logit
            return cls("last" if compared else "product", subject.beta, None)
        meaning = meaning_of(subject.objective, subject.kind)
        margin = subject.margin if meaning.margin is not None else 0.0
        final = meaning.final
        if final == "decayed_sum" and "decay" not in (subject.scoring or {}):
            final = "token_mean"  # an entry from when EndoRM was scored by the mean
        return cls(final, subject.beta, margin if meaning.is_logit else None)
