"""From a checkpoint's name to an entry, the same from the command line and from a notebook."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prmbench.benchmarks.best_of_n.run import BestOfNEntry, evaluate_best_of_n
from prmbench.benchmarks.policy.run import PolicyEntry, evaluate_policy
from prmbench.benchmarks.processbench.run import ProcessBenchEntry, RunOptions, evaluate_traces
from prmbench.data.completions import StoredCompletion, load_completions
from prmbench.data.problem_sets import POLICY_SETS, find_problems
from prmbench.data.prompts import PromptTemplate, find_prompt
from prmbench.data.rollouts import prompt_of
from prmbench.data.traces import load_traces
from prmbench.engines.loading import LoadOptions, local_folder
from prmbench.engines.sampling import SamplingParams
from prmbench.errors import UserError
from prmbench.policies.policy import load_policy
from prmbench.results.store import public_name
from prmbench.reward_models.base import RewardModel
from prmbench.reward_models.loading import load_reward_model, read_template


def evaluate(
    rm: str | Path | RewardModel,
    *,
    data: str | Path | None = None,
    subsets: Sequence[str] | None = None,
    limit: int | None = None,
    output: str | Path | None = None,
    name: str | None = None,
    options: RunOptions | None = None,
    **loading: Any,
) -> tuple[ProcessBenchEntry, Path] | None:
    """Evaluate a reward model on ProcessBench or data of the same fields.

    Args:
        rm: a checkpoint folder, a Hub id, or a model already loaded.
        data, subsets, limit: as in `prmbench.data.traces.load_traces`.
        output: the run's folder; None: one under ``prmbench-results/``. The same call goes on where it was stopped.
        name: the subject's name; None: the last part of the checkpoint's path.
        loading: arguments of `load_reward_model` (reference, kind, beta, ...); only with a name, not a loaded model.

    Returns:
        (entry, path of the entry file); None in processes other than the first.

    Raises:
        TypeError: loading arguments with a model already loaded.
        UserError: a mistake in what was asked for; see `load_traces`, `load_reward_model` and `evaluate_traces`.
    """
    if isinstance(rm, RewardModel) and loading:
        raise TypeError(f"unexpected with a loaded model: {', '.join(loading)}")
    _check_names(rm, loading.get("reference"))
    traces = load_traces(data, subsets, limit)  # a mistake in the data shows before the model loads
    model = rm if isinstance(rm, RewardModel) else load_reward_model(rm, **loading)
    source = model.source if isinstance(rm, RewardModel) else str(rm)
    sampled = _where_cut(limit, Counter(trace.subset for trace in traces))
    options = dataclasses.replace(options or RunOptions(), limit=sampled)
    return evaluate_traces(
        model, traces, name=name or Path(source).resolve().name, source=source, output=output, options=options
    )


def rerank(
    rm: str | Path | RewardModel,
    rollouts: Sequence[str | Path],
    *,
    prompt: str | None = None,
    limit: int | None = None,
    output: str | Path | None = None,
    name: str | None = None,
    sizes: Sequence[int] | None = None,
    seed: int = 0,
    n_resamples: int = 10_000,
    batch_tokens: int | None = None,
    **loading: Any,
) -> tuple[BestOfNEntry, Path]:
    """Best-of-N of a reward model on candidates that were sampled before.

    Args:
        rm, name, output, loading: as in `evaluate`.
        rollouts, limit: as in `prmbench.data.completions.load_completions`.
        prompt: name of the prompt template; None: the one the rollouts were sampled with, else ``boxed``.
        sizes, seed, n_resamples, batch_tokens: as in `prmbench.benchmarks.best_of_n.run.evaluate_best_of_n`.

    Raises:
        UserError: a mistake in what was asked for.
    """
    if isinstance(rm, RewardModel) and loading:
        raise TypeError(f"unexpected with a loaded model: {', '.join(loading)}")
    _check_names(rm, loading.get("reference"))
    candidates, template = find_candidates(rollouts, prompt, limit)
    model = rm if isinstance(rm, RewardModel) else load_reward_model(rm, **loading)
    source = model.source if isinstance(rm, RewardModel) else str(rm)
    return evaluate_best_of_n(
        model,
        candidates,
        template,
        name=name or Path(source).resolve().name,
        source=source,
        output=Path(output) if output is not None else None,
        sizes=sizes,
        n_resamples=n_resamples,
        seed=seed,
        batch_tokens=batch_tokens,
        limit=_where_cut(limit, Counter(subset for subset, _ in {(one.subset, one.id) for one in candidates})),
    )


def _check_names(rm: str | Path | RewardModel, reference: str | Path | None) -> None:
    """A typo in a folder's name shows at once, not after the data came from the Hub."""
    for name, flag in ((rm, "--rm"), (reference, "--reference")):
        if isinstance(name, str | Path):
            local_folder(str(name), flag)


def find_candidates(
    rollouts: Sequence[str | Path], prompt: str | None, limit: int | None
) -> tuple[list[StoredCompletion], PromptTemplate]:
    """Candidates of files and run folders, and the prompt template they were sampled with.

    Raises:
        UserError: as `load_completions` does, or the prompt given is not theirs.
    """
    candidates = load_completions(rollouts, limit)
    used = {found for path in rollouts if (found := prompt_of(path)) is not None}
    if len(used | ({prompt} if prompt else set())) > 1:
        raise UserError(
            f"--prompt: the rollouts were sampled with {' and '.join(sorted(used))}; leave it out, or evaluate them apart"
        )
    return candidates, find_prompt(prompt or next(iter(used), "boxed"))


def measure_policy(
    policy: str,
    *,
    subsets: Sequence[str] | None = None,
    limit: int | None = None,
    output: str | Path | None = None,
    name: str | None = None,
    n: int = 8,
    params: SamplingParams | None = None,
    prompt: str = "boxed",
    seed: int = 0,
    n_resamples: int = 10_000,
    batch_tokens: int | None = None,
    load_options: LoadOptions | None = None,
    chat_template: str | Path | None = None,
    engine: str = "hf",
) -> tuple[PolicyEntry, Path]:
    """avg@n of a policy: sample, verify, measure (DESIGN 4.5).

    Args:
        policy: a checkpoint folder or a Hub id.
        subsets: problem sets by name, or files of ``{id, problem, answer}`` records; None: the five of the paper's Table 5.
        limit: only the first this many problems of each.
        output: the run's folder; None: ``prmbench-results/policy-NAME-HASH``. The same call goes on where it was stopped.
        engine: hf or vllm.
        params: sampling; None: temperature 0.6, top-p 0.95.

    Raises:
        UserError: a mistake in what was asked for.
    """
    local_folder(policy, "--policy")
    template = find_prompt(prompt)
    sets = find_problems(subsets or POLICY_SETS, limit)
    text = read_template(Path(chat_template)) if chat_template else None
    loaded = load_policy(policy, template, load_options, text, engine)
    return evaluate_policy(
        loaded,
        sets,
        name=name or Path(policy).resolve().name,
        source=public_name(policy) or policy,
        output=None if output is None else Path(output),
        n=n,
        params=params,
        prompt=prompt,
        seed=seed,
        n_resamples=n_resamples,
        batch_tokens=batch_tokens or (1_000_000 if engine == "vllm" else 16_384),  # vLLM makes its own batches
        limit=_where_cut(limit, {name: len(problems) for name, problems in sets.items()}),
    )


def _where_cut(limit: int | None, sizes: Mapping[str, int]) -> int | None:
    """The limit where a set is of that size; None: nothing was cut."""
    return limit if limit in sizes.values() else None
