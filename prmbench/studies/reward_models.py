"""Reward models of the miniature, and everything the study of them measures."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from prmbench.benchmarks.processbench.metrics import Plan, ProtocolResult, compute_metrics
from prmbench.benchmarks.processbench.run import RunOptions, evaluate_traces
from prmbench.data.prompts import find_prompt
from prmbench.data.tokens import EncodedTrace, TraceEncoder
from prmbench.data.traces import Trace, load_traces
from prmbench.engines.batching import plan_batches
from prmbench.miniature.build import PROMPT, Build, train_policy
from prmbench.miniature.sampling import sample_split, write_traces
from prmbench.miniature.world import FORMAT_TOKENS, FORMATS, Split
from prmbench.resources import resource_folder
from prmbench.results.items import TraceItem
from prmbench.results.schema import digest
from prmbench.results.store import write_atomically
from prmbench.reward_models.base import RewardModel
from prmbench.reward_models.loading import load_reward_model
from prmbench.reward_models.objectives import OBJECTIVES
from prmbench.stats.auc import ranking_auc
from prmbench.stats.calibration import brier, margin_logit, reliability, sigmoid
from prmbench.studies.prefixes import PrefixTruth, prefix_truth
from prmbench.training.rm.heldout import final_values
from prmbench.training.rm.run import RMRecipe, train_rm

Floats = NDArray[np.float64]

RECIPE = "miniature/rm.yaml"
BATCH_TOKENS = 16_384
N_BINS = 10
N_RERANKED, N_CANDIDATES, BEST_OF = 64, 64, (4, 16, 64)


@dataclass(frozen=True)
class Settings:
    """A reward model of the study. objective: one of the trained ones, or ``endo``; margin None: the paper's."""

    objective: str
    learning_rate: float = 0.0
    epochs: float = 2.0
    margin: float | None = None

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.objective if self.margin is None else f"{self.objective} m={self.margin:g}"


class Bench:
    """One build's data, made once and kept: rollouts to train on, traces and rollouts to test on.

    Args:
        split: that traces, final values and prefixes are of; "validation" when settings are searched.
    """

    def __init__(
        self, build: Build, split: Split = "test", n_train: int = 4_500, n_test: int = 600, n_traces: int = 400
    ) -> None:
        self.build, self.split, self.n_test = build, split, n_test
        self.policy = train_policy(build)
        self.outcomes, _ = sample_split(build, self.policy, "train", n_train, 5)
        _, self.rollouts = sample_split(build, self.policy, split, n_test, 4)
        self.data = write_traces(build, self.rollouts, n_traces, f"{split}-{n_test}x4-{n_traces}")

    @cached_property
    def candidates(self) -> Path:
        """Folder of 64 completions of each of 64 problems, for Best-of-N."""
        return sample_split(self.build, self.policy, self.split, N_RERANKED, N_CANDIDATES)[0]

    @cached_property
    def truth(self) -> list[PrefixTruth]:
        """Prefixes of test rollouts with their true values."""
        return prefix_truth(self.build, self.policy, self.rollouts, self.split)

    def folder(self, settings: Settings) -> Path:
        """Where this reward model is, or will be."""
        recipe = (resource_folder("training") / RECIPE).read_text(encoding="utf-8")
        name = digest([asdict(settings), recipe])[:12]
        return self.build.folder() / "rm" / f"{settings.objective}-{name}"

    def train(self, settings: Settings) -> RewardModel:
        """Train a reward model where it is not there yet, and load it."""
        from prmbench.training.recipes.load import load_recipe

        if settings.objective == "endo":
            return load_reward_model(self.policy, kind="endo")
        folder = self.folder(settings)
        if not (folder / "rm.json").exists():
            recipe = load_recipe(
                RECIPE,
                RMRecipe,
                [
                    f"model={self.policy}",
                    f"data={self.outcomes}",
                    f"output={folder}",
                    f"objective={settings.objective}",
                    f"learning_rate={settings.learning_rate}",
                    f"epochs={settings.epochs}",
                    f"margin={'null' if settings.margin is None else settings.margin}",
                    f"seed={self.build.seed}",
                ],
            )
            train_rm(recipe)
        return load_reward_model(folder)


def measured_place(build: Build, split: Split, settings: Settings) -> Path:
    """The file that `measure` leaves."""
    return build.folder() / "measured" / f"{_file_name(split, settings)}.json"


def reranked_place(build: Build, split: Split, settings: Settings) -> Path:
    """The file that `rerank` leaves."""
    return build.folder() / "reranked" / f"{_file_name(split, settings)}.json"


def _file_name(split: Split, settings: Settings) -> str:
    return f"{settings.name.replace(' ', '-')}-{split}-{digest(asdict(settings))[:8]}"


def measure(bench: Bench, settings: Settings) -> dict[str, Any]:
    """Everything the study reports of one reward model; kept, and read the next time.

    Returns:
        ``f1``: by policy (crossfit, oracle), format and protocol, of the entry in ``entries/``; ``f1_content``: the same with
        format tokens left out of the sums; ``baselines``: by name and format; ``auc_final``: of a rollout's final value against
        its verdict, and ``auc_length`` of minus its length; ``format_share``: see `format_share`; ``truth``: see `against_truth`.
    """
    build, place = bench.build, measured_place(bench.build, bench.split, settings)
    if place.exists():
        kept: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
        return kept
    model = bench.train(settings)
    traces = load_traces(bench.data, list(FORMATS))
    evaluated = evaluate_traces(
        model,
        traces,
        name=settings.name,
        source=str(bench.folder(settings)),
        output=build.folder() / "entries" / place.stem,
        options=RunOptions(batch_tokens=BATCH_TOKENS, miniature=True),
    )
    assert evaluated is not None
    metrics = evaluated[0].metrics
    beta = model.card.scale()
    responses = _encode_rollouts(bench, model)
    values = _token_values(model, responses)
    correct = np.array([r.correct for r in bench.rollouts])
    final = final_values(values, OBJECTIVES.find(settings.objective), beta)
    found = {
        "settings": asdict(settings),
        "seed": build.seed,
        "split": bench.split,
        "f1": _f1(metrics.protocols),
        "f1_content": _f1(compute_metrics(_content_items(model, traces), beta, {}, Plan(n_resamples=0)).protocols),
        "baselines": _f1(metrics.baselines)["crossfit"],
        "auc_final": ranking_auc(final, correct),
        "auc_length": ranking_auc(-np.array([float(len(v)) for v in values]), correct),
        "format_share": format_share(model, responses, values),
        "truth": against_truth(bench.truth, values, settings, beta, model.card.margin or 0.0),
    }
    place.parent.mkdir(exist_ok=True)
    write_atomically(place, json.dumps(found) + "\n")
    return found


def rerank(bench: Bench, settings: Settings) -> dict[str, Any]:
    """Best-of-N of a reward model on its seed's policy's candidates (Tables 1, 3, 12); kept, and read the next time.

    Returns:
        ``settings``, ``seed``; ``figures``: those of the entry's only set (`prmbench.benchmarks.best_of_n.metrics.BestOfNSubset`).
    """
    from prmbench.api import rerank as evaluate

    place = reranked_place(bench.build, bench.split, settings)
    if place.exists():
        kept: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
        return kept
    entry, _ = evaluate(
        bench.train(settings),
        [bench.candidates],
        name=settings.name,
        output=bench.build.folder() / "entries" / f"best-of-n-{place.stem}",
        sizes=BEST_OF,
        n_resamples=100,
        batch_tokens=BATCH_TOKENS,
    )
    figures = entry.metrics.mean.model_dump()
    found = {"settings": asdict(settings), "seed": bench.build.seed, "figures": figures}
    place.parent.mkdir(exist_ok=True)
    write_atomically(place, json.dumps(found) + "\n")
    return found


def _f1(protocols: dict[str, ProtocolResult]) -> dict[str, dict[str, dict[str, float | None]]]:
    return {
        policy: {
            form: {name: result.subsets[form].policies[policy].f1.value for name, result in protocols.items()}
            for form in FORMATS
        }
        for policy in ("crossfit", "oracle")
    }


def _encode_rollouts(bench: Bench, model: RewardModel) -> list[EncodedTrace]:
    """Rollouts as they were sampled, as traces of one step."""
    template = find_prompt(PROMPT)
    prompts: dict[str, NDArray[np.int64]] = {}
    out = []
    assert isinstance(model.encoder, TraceEncoder)
    for r in bench.rollouts:
        if r.id not in prompts:
            prompts[r.id] = model.encoder.prompt_ids(template.render(r.problem))
        ids = np.concatenate([prompts[r.id], r.ids])
        out.append(EncodedTrace(ids, len(prompts[r.id]), np.zeros(len(r.ids), dtype=np.int64), 1))
    return out


def _token_values(model: RewardModel, encoded: Sequence[EncodedTrace]) -> list[Floats]:
    found: dict[int, Floats] = {}
    for batch in plan_batches([len(one) for one in encoded], BATCH_TOKENS):
        found |= dict(zip(batch, model.token_values([encoded[i] for i in batch]), strict=True))
    return [found[i] for i in range(len(encoded))]


def _is_format(model: RewardModel, trace: EncodedTrace) -> NDArray[np.bool_]:
    """Which response tokens are format. bool, shape [t]."""
    ids = model.encoder.tokenizer.convert_tokens_to_ids(sorted(FORMAT_TOKENS))
    return np.isin(trace.ids[trace.n_prompt :], ids)


def _content_items(model: RewardModel, traces: Sequence[Trace]) -> list[TraceItem]:
    """Items whose sums and counts leave format tokens out."""
    encoded = [model.encode(trace.problem, trace.steps) for trace in traces]
    items = []
    for trace, one, values in zip(traces, encoded, _token_values(model, encoded), strict=True):
        content = dataclasses.replace(one, step_of=np.where(_is_format(model, one), -1, one.step_of))
        items.append(
            TraceItem(
                trace.subset,
                trace.id,
                trace.generator,
                trace.label,
                trace.digest(),
                content.step_counts(),
                content.step_sums(values),
                None,
            )
        )
    return items


def format_share(model: RewardModel, responses: Sequence[EncodedTrace], values: Sequence[Floats]) -> dict[str, float]:
    """How much of the reward sits on format tokens (Section 3.1).

    Returns:
        ``absolute``: share of the sum of |r|; ``tokens``: share of tokens; ``variance``: share of the variance between responses
        of the sum of r that the format tokens' part explains, cov(format part, sum) / var(sum).
    """
    masks = [_is_format(model, one) for one in responses]
    form = np.array([v[m].sum() for v, m in zip(values, masks, strict=True)])
    whole = np.array([v.sum() for v in values])
    absolute = sum(float(np.abs(v).sum()) for v in values)
    on_format = sum(float(np.abs(v[m]).sum()) for v, m in zip(values, masks, strict=True))
    return {
        "absolute": on_format / absolute if absolute else float("nan"),
        "tokens": sum(int(m.sum()) for m in masks) / sum(len(v) for v in values),
        "variance": float(np.cov(form, whole)[0, 1] / np.var(whole, ddof=1)) if np.ptp(whole) else float("nan"),
    }


def against_truth(
    truth: Sequence[PrefixTruth], values: Sequence[Floats], settings: Settings, beta: float, margin: float
) -> dict[str, Any]:
    """A reward model's prefix values against the true ones.

    The observed shares carry sampling noise, whose mean square, share (1 - share) / (n - 1), is taken off squared errors.

    Args:
        values: token values of every rollout, before beta.

    Returns:
        ``spearman``: of value and true share, over all prefixes, ``spearman_mean`` when the value is v_bar where the model's own is
        the sum; for objectives whose value is a logit, by link (``margin``, ``naive``): ``mse`` against the true value (noise taken
        off), ``ece``, and the reliability diagram ``predicted``, ``observed``, ``share``.
    """
    objective = OBJECTIVES.find(settings.objective)
    share = np.array([one.share for one in truth])
    sums = np.array([beta * values[one.rollout][: one.t].sum() for one in truth])
    means = sums / np.array([one.t for one in truth])
    own = sums if objective.final == "sum" else means
    found: dict[str, Any] = {
        "n": len(truth),
        "continuations": truth[0].n,
        "mean_share": float(share.mean()),
        "spearman": float(spearmanr(own, share).statistic),
        "spearman_mean": float(spearmanr(means, share).statistic),
    }
    if not objective.is_logit:
        return found
    noise = float(np.mean([one.share * (1 - one.share) / (one.n - 1) for one in truth]))
    for link, m in (("margin", margin), ("naive", 0.0)):
        p = sigmoid(margin_logit(own, m))
        bins = reliability(p, share, n_bins=N_BINS)
        found[link] = {
            "mse": brier(p, share) - noise,
            "ece": bins.ece(),
            **{name: [None if np.isnan(x) else float(x) for x in values] for name, values in asdict(bins).items()},
        }
    constant = float(share.mean())
    found["mse_constant"] = float(np.mean((share - constant) ** 2)) - noise
    return found
