"""What the studies measure of a reward model: step scores, the final value, format tokens, prefix values, Best-of-N."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from prmbench.benchmarks.base import RunKeywords
from prmbench.benchmarks.processbench.metrics import Statistics, compute_metrics
from prmbench.benchmarks.processbench.run import evaluate_traces
from prmbench.benchmarks.processbench.schema import ProtocolResult, TraceItem
from prmbench.data.prompts import find_prompt
from prmbench.data.rollouts import Rollout
from prmbench.data.tokens import EncodedTrace, TraceEncoder
from prmbench.data.traces import Trace, load_traces
from prmbench.engines.batching import plan_batches
from prmbench.miniature.build import PROMPT
from prmbench.miniature.solutions import FORMAT_TOKENS, FORMATS
from prmbench.reward_models.base import RewardModel
from prmbench.reward_models.objectives import OBJECTIVES
from prmbench.stats.auc import ranking_auc
from prmbench.stats.calibration import brier, margin_logit, reliability, sigmoid
from prmbench.studies.lab import Lab
from prmbench.studies.prefix_values import PrefixValue
from prmbench.studies.settings import RewardModelSettings
from prmbench.training.rm.heldout import final_values

Floats = NDArray[np.float64]

BATCH_TOKENS = 16_384
N_BINS = 10
BEST_OF = (4, 16, 64)


def measure_reward_model(lab: Lab, settings: RewardModelSettings, output: Path) -> dict[str, Any]:
    """Measure a reward model on labelled traces, on rollouts and on prefixes of rollouts.

    Args:
        lab: The seed's data and models.
        settings: How the reward model is trained.
        output: Folder for the ProcessBench entry.

    Returns:
        ``f1``: F1 by threshold rule, format and protocol. ``f1_content``: the same with format tokens left out of the sums.
        ``baselines``: F1 by baseline and format. ``auc_final``: AUC of a rollout's final value against its verdict.
        ``auc_length``: AUC of minus its length. ``format_share``: what `format_share` returns. ``truth``: what
        `against_true_values` returns.
    """
    model = lab.reward_model(settings)
    traces = load_traces(lab.traces, list(FORMATS))
    run: RunKeywords = {"batch_tokens": BATCH_TOKENS, "miniature": True, "output": output}
    entry, _ = evaluate_traces(model, traces, name=settings.name, source=settings.name, **run)
    metrics, beta = entry.metrics, model.card.scale()
    responses = _encode_rollouts(lab.rollouts, model)
    values = token_values(model, responses, BATCH_TOKENS)
    correct = np.array([r.correct for r in lab.rollouts])
    weighted = [total for v in values if (total := model.weighted_total(v)) is not None]  # EndoRM's own way
    final = np.array(weighted) if weighted else final_values(values, OBJECTIVES.find(settings.objective), beta)
    margin = model.card.margin or 0.0
    return {
        "f1": f1_by_rule(metrics.protocols, FORMATS),
        "f1_content": f1_by_rule(
            compute_metrics(_content_items(model, traces), beta, {}, Statistics(n_resamples=0)).protocols, FORMATS
        ),
        "baselines": f1_by_rule(metrics.baselines, FORMATS)["crossfit"],
        "auc_final": ranking_auc(final, correct),
        "auc_length": ranking_auc(-np.array([float(len(v)) for v in values]), correct),
        "format_share": format_share([_is_format(model, one) for one in responses], values),
        "truth": against_true_values(lab.prefix_values, values, settings.objective, beta, margin),
    }


def measure_best_of_n(lab: Lab, settings: RewardModelSettings, output: Path) -> dict[str, Any]:
    """Measure Best-of-N of a reward model on its seed's candidates (Tables 1, 3 and 12).

    Args:
        lab: The seed's data and models.
        settings: How the reward model is trained.
        output: Folder for the Best-of-N entry.

    Returns:
        ``figures``: the figures of the entry's only problem set, of candidates at the evaluation preset. ``at_one``: the same of
        candidates at temperature 1.
    """
    from prmbench.api import rerank

    def measure(candidates: Path, folder: Path) -> dict[str, Any]:
        found = rerank(
            lab.reward_model(settings),
            [candidates],
            name=settings.name,
            output=folder,
            sizes=BEST_OF,
            n_resamples=100,
            batch_tokens=BATCH_TOKENS,
        )
        assert found is not None  # nothing is shared between processes
        figures: dict[str, Any] = found[0].metrics.mean.model_dump()
        return figures

    return {"figures": measure(lab.candidates, output), "at_one": measure(lab.candidates_at_one, output / "at-one")}


def token_values(model: RewardModel, encoded: Sequence[EncodedTrace], batch_tokens: int) -> list[Floats]:
    """Compute a reward model's value of every response token, in batches of similar length.

    Args:
        model: A reward model with token values.
        encoded: The encoded traces.
        batch_tokens: Padded tokens of a batch.

    Returns:
        Token values before beta, in the order of the traces. Each has shape [t].
    """
    found: dict[int, Floats] = {}
    for batch in plan_batches([len(one) for one in encoded], batch_tokens):
        found |= dict(zip(batch, model.token_values([encoded[i] for i in batch]), strict=True))
    return [found[i] for i in range(len(encoded))]


def f1_by_rule(
    protocols: dict[str, ProtocolResult], subsets: Sequence[str]
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Take F1 out of a ProcessBench entry.

    Args:
        protocols: Results by the name of the step-score protocol.
        subsets: Names of the subsets.

    Returns:
        F1 by threshold rule (``crossfit``, ``oracle``), subset and protocol.
    """
    return {
        rule: {
            form: {name: result.subsets[form].rules[rule].f1.value for name, result in protocols.items()}
            for form in subsets
        }
        for rule in ("crossfit", "oracle")
    }


def _encode_rollouts(rollouts: Sequence[Rollout], model: RewardModel) -> list[EncodedTrace]:
    """Turn rollouts, with their ids as sampled, into traces of one step."""
    assert isinstance(model.encoder, TraceEncoder)
    template = find_prompt(PROMPT)
    problems = {r.id: r.problem for r in rollouts}
    prompts = {name: model.encoder.prompt_ids(template.render(problem)) for name, problem in problems.items()}
    return [
        EncodedTrace(
            np.concatenate([prompts[r.id], r.ids]), len(prompts[r.id]), np.zeros(len(r.ids), dtype=np.int64), 1
        )
        for r in rollouts
    ]


def _is_format(model: RewardModel, trace: EncodedTrace) -> NDArray[np.bool_]:
    """Mark the response tokens that are format. Shape [t]."""
    ids = model.encoder.tokenizer.convert_tokens_to_ids(sorted(FORMAT_TOKENS))
    return np.isin(trace.ids[trace.n_prompt :], ids)


def _content_items(model: RewardModel, traces: Sequence[Trace]) -> list[TraceItem]:
    """Make items whose sums and counts leave format tokens out."""
    encoded = [model.encode(trace.problem, trace.steps) for trace in traces]
    items = []
    for trace, one, values in zip(traces, encoded, token_values(model, encoded, BATCH_TOKENS), strict=True):
        content = dataclasses.replace(one, step_of=np.where(_is_format(model, one), -1, one.step_of))
        name = (trace.subset, trace.id, trace.generator, trace.label, trace.digest())
        items.append(TraceItem(*name, content.step_counts(), content.step_sums(values), None))
    return items


def format_share(masks: Sequence[NDArray[np.bool_]], values: Sequence[Floats]) -> dict[str, float]:
    """Measure how much of the reward sits on format tokens (Section 3.1).

    Args:
        masks: Which tokens of each response are format. Each has shape [t].
        values: Token values of each response, before beta. Each has shape [t].

    Returns:
        ``absolute``: share of the sum of absolute values. ``tokens``: share of tokens. ``variance``: share of the variance of
        the responses' sums that the format tokens explain, which is cov(format part, sum) / var(sum).
    """
    form = np.array([v[m].sum() for v, m in zip(values, masks, strict=True)])
    whole = np.array([v.sum() for v in values])
    tokens, on_format = np.abs(np.concatenate(values)), np.concatenate(masks)
    return {
        "absolute": float(tokens[on_format].sum() / tokens.sum()) if tokens.any() else float("nan"),
        "tokens": float(on_format.mean()),
        "variance": float(np.cov(form, whole)[0, 1] / np.var(whole, ddof=1)) if np.ptp(whole) else float("nan"),
    }


def against_true_values(
    truth: Sequence[PrefixValue], values: Sequence[Floats], objective: str, beta: float, margin: float
) -> dict[str, Any]:
    """Compare a reward model's prefix values with the true ones.

    The shares that were observed carry sampling noise. Its mean square, share * (1 - share) / (n - 1), is taken off squared
    errors.

    Args:
        truth: Prefixes with their true values.
        values: Token values of every rollout, before beta. Each has shape [t].
        objective: Name of the reward model's objective.
        beta: Scale of the token values.
        margin: Margin that the reward model was trained with.

    Returns:
        ``spearman``: rank correlation of value and true share over all prefixes. ``spearman_mean``: the same with v_bar as the
        value, also where the model's own value is the sum. For objectives whose value is a logit, by link (``margin`` and
        ``naive``): ``mse`` against the true value, ``ece``, and the reliability diagram ``predicted``, ``observed``, ``share``.
    """
    meaning = OBJECTIVES.find(objective)
    share = np.array([one.share for one in truth])
    sums = np.array([beta * values[one.rollout][: one.t].sum() for one in truth])
    means = sums / np.array([one.t for one in truth])
    own = sums if meaning.final == "sum" else means
    found: dict[str, Any] = {
        "n": len(truth),
        "continuations": truth[0].n,
        "mean_share": float(share.mean()),
        "spearman": float(spearmanr(own, share).statistic),
        "spearman_mean": float(spearmanr(means, share).statistic),
    }
    if not meaning.is_logit:
        return found
    noise = float(np.mean([one.share * (1 - one.share) / (one.n - 1) for one in truth]))
    for link, m in (("margin", margin), ("naive", 0.0)):
        p = sigmoid(margin_logit(own, m))
        bins = reliability(p, share, n_bins=N_BINS)
        found[link] = {
            "mse": brier(p, share) - noise,
            "ece": bins.ece(),
            **{name: [None if np.isnan(x) else float(x) for x in column] for name, column in asdict(bins).items()},
        }
    found["mse_constant"] = float(np.var(share)) - noise
    return found
