"""From a checkpoint's name to an entry, the same from a notebook and from the command line."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prmbench.benchmarks.base import Benchmark, DataRequest, Job, RunKeywords
from prmbench.benchmarks.registry import default_benchmark, find_benchmark
from prmbench.benchmarks.runner import Finished, evaluate_job, run_plan
from prmbench.data.overlap import overlap_with
from prmbench.data.prompts import find_prompt
from prmbench.data.records import stem
from prmbench.data.revisions import split_revision
from prmbench.engines.checkpoint import locate
from prmbench.engines.load import LoadOptions
from prmbench.engines.processes import Share
from prmbench.engines.sampling import SamplingParams
from prmbench.errors import ArgumentError, UserError, naming_keywords, nearest, printable
from prmbench.policies.policy import Policy, load_policy
from prmbench.results.store import check_name, public_name, slug
from prmbench.reward_models.base import RewardModel
from prmbench.reward_models.loading import load_reward_model, read_template

if TYPE_CHECKING:
    from prmbench.reports.leaderboard import Board
    from prmbench.training.prm.run import PRMResult
    from prmbench.training.rm.run import RMResult

DATA = tuple(one.name for one in dataclasses.fields(DataRequest))
RUN = tuple(RunKeywords.__annotations__)


def evaluate(
    rm: str | Path | RewardModel | None = None,
    *,
    policy: str | Path | Policy | None = None,
    benchmark: str | Benchmark | None = None,
    name: str | None = None,
    params: SamplingParams | None = None,
    loading: dict[str, Any] | None = None,
    policy_loading: dict[str, Any] | None = None,
    share: Share | None = None,
    trained_on: str | Path | None = None,
    **more: Any,
) -> Finished | None:
    """Evaluate a reward model or a policy on a benchmark.

    Args:
        rm: A reward model: a checkpoint folder, a Hub id, or a model that is loaded already.
        policy: A policy, likewise.
        benchmark: A benchmark, or its name; None: ``policy`` where only a policy is given, ``best-of-n`` where rollouts are given,
            else ``processbench``.
        name: The subject's name on tables; None: the last part of the checkpoint's path.
        params: How the policy samples; None: the benchmark's default.
        loading: Arguments of `load_reward_model`; may also be given as further keywords.
        policy_loading: Arguments of `load_policy`: ``load_options``, ``chat_template`` (a file), ``engine``, ``tokens``.
        share: This process among those that share the work; None: it is the only one.
        trained_on: The subject's training records, a file or a folder of files: the entry then says how many of the problems they
            hold. None: they are not known.
        **more: Fields of `DataRequest` (``data``, ``subsets``, ``limit``, ``rollouts``, ``prompt``, ``verifier``), keys of
            `RunKeywords` (``output``, ``seed``, ``n_resamples``, ...), the benchmark's own options, and arguments of
            `load_reward_model`.

    Returns:
        The entry and the path of its file; None in processes other than the first. The same call goes on where an interrupted one
        stopped.

    Raises:
        TypeError: A keyword that nobody knows (the nearest is named), or loading arguments with a model that is loaded already.
        UserError: A mistake in what was asked for.

    Examples:
        >>> entry, path = prmbench.evaluate("CKPT", reference="SFT", data="my-traces.jsonl")
        >>> sorted(entry.metrics.protocols)
        ['prefix', 'prefix_mean', 'process', 'process_mean']
    """
    asked = _ask(rm, policy, benchmark, loading, policy_loading, more)
    check_name(name)
    # A mistake in a name shows before the data are read, and one in the data before weights are downloaded or loaded.
    asked.locate(rm, policy)
    data = asked.benchmark.load(asked.request)
    return _evaluate(asked, data, rm, policy, name=name, params=params, share=share, trained_on=trained_on)


def evaluate_several(
    rms: Sequence[str | Path],
    *,
    output: str | Path | None = None,
    share: Share | None = None,
    trained_on: str | Path | None = None,
    **more: Any,
) -> list[Finished]:
    """Evaluate several reward models on the same data, one after the other.

    The data are read once. Models with one reference find its log-probs in the cache, where the first of them has left them.

    Args:
        rms: Two checkpoints or more: folders or Hub ids. They are called by the last part of their paths, or by the last two where
            that is the same.
        output: Folder that holds a folder for each; None: those that `evaluate` chooses.
        share: This process among those that share the work; None: it is the only one.
        trained_on: As in `evaluate`, of all of them.
        **more: As in `evaluate`, the same for all of them; what differs stands in their cards.

    Returns:
        The entry of each and the path of its file, in order; nothing in processes other than the first. The same call goes on where
        an interrupted one stopped.

    Raises:
        TypeError: A keyword that nobody knows, or a model that is loaded already.
        UserError: A mistake in what was asked for, or two models of one name.

    Examples:
        >>> found = prmbench.evaluate_several(["CKPT", "ipvrm"], data="my-traces.jsonl", output="runs")
        >>> [entry.subject.name for entry, path in found]
        ['CKPT', 'ipvrm']
    """
    if more.get("policy") is not None or any(isinstance(rm, RewardModel) for rm in rms):
        raise TypeError("evaluate_several: takes names of reward models; evaluate one after the other instead")
    names = _distinct_names([str(rm) for rm in rms])
    asked = _ask(rms[0], None, more.pop("benchmark", None), more.pop("loading", None), None, more)
    for rm in rms:
        asked.locate(rm, None)
    data = asked.benchmark.load(asked.request)
    found = []
    for rm, name in zip(rms, names, strict=True):
        folder = {} if output is None else {"output": Path(output) / slug(name)}
        one = dataclasses.replace(asked, run={**asked.run, **folder})  # type: ignore[typeddict-item]
        found.append(_evaluate(one, data, rm, None, name=name, params=None, share=share, trained_on=trained_on))
        gc.collect()  # the weights of one model make room for those of the next
    return [one for one in found if one is not None]


@dataclass(frozen=True)
class _Asked:
    """What an evaluation is asked to do, but for its subject.

    Attributes:
        benchmark: What is evaluated on.
        request: Which data.
        run: How it is run.
        options: The benchmark's own options.
        loading: Arguments of `load_reward_model`.
        policy_loading: Arguments of `load_policy`.
    """

    benchmark: Benchmark
    request: DataRequest
    run: RunKeywords
    options: Any
    loading: dict[str, Any]
    policy_loading: dict[str, Any]

    @property
    def hosted(self) -> bool:
        """Whether the subject is a server's."""
        return "api" in (self.loading.get("engine"), self.policy_loading.get("engine"))

    def locate(self, rm: object, policy: object) -> None:
        """Raise UserError where there is no such model."""
        for source, argument in ((rm, "rm"), (policy, "policy"), (self.loading.get("reference"), "reference")):
            if not self.hosted and isinstance(source, str | Path):
                locate(str(source), argument, ("*config.json",))


def _ask(
    rm: object,
    policy: object,
    benchmark: str | Benchmark | None,
    loading: dict[str, Any] | None,
    policy_loading: dict[str, Any] | None,
    more: dict[str, Any],
) -> _Asked:
    """Sort the keywords of `evaluate`. Raises TypeError for one that nobody knows."""
    found = _benchmark(benchmark, rm, policy, more)
    if found.prompt_is_models and more.get("prompt") is not None:
        loading = {**(loading or {}), "prompt": more.pop("prompt")}
    request = DataRequest(**{key: more.pop(key) for key in DATA if key in more})
    run: RunKeywords = {key: more.pop(key) for key in RUN if key in more}  # type: ignore[assignment]
    options = found.changed({o.name: more.pop(o.name) for o in dataclasses.fields(found.options) if o.name in more})
    loading = {**(loading or {}), **more}
    _check_loading(found, rm, loading)
    return _Asked(found, request, run, options, loading, policy_loading or {})


def _evaluate(
    asked: _Asked,
    data: Any,
    rm: str | Path | RewardModel | None,
    policy: str | Path | Policy | None,
    *,
    name: str | None,
    params: SamplingParams | None,
    share: Share | None,
    trained_on: str | Path | None,
) -> Finished | None:
    """Load the subject, and evaluate it."""
    overlap = None if trained_on is None else overlap_with(trained_on, _problems(data))
    model = rm if isinstance(rm, RewardModel) or rm is None else load_reward_model(rm, **asked.loading)
    sampler = policy if isinstance(policy, Policy) or policy is None else _policy(policy, data, asked.policy_loading)
    source = _source(rm if rm is not None else policy)
    job = Job(
        data=data,
        model=model,
        policy=sampler,
        name=name or printable(Path(source if asked.hosted else split_revision(source)[0]).resolve().name),
        source=source if rm is not None else public_name(source) or source,
        options=asked.options,
        params=params,
        share=share,
        training_overlap=None if overlap is None else {name: one.counts() for name, one in overlap.items()},
        data_revision=_data_revision(asked.request),
        **{"limit": _where_cut(asked.benchmark, data, asked.request.limit), **asked.run},  # type: ignore[arg-type]
    )
    return evaluate_job(asked.benchmark, job)


def _distinct_names(sources: Sequence[str]) -> list[str]:
    """Call checkpoints by the last part of their paths, with their revisions or by the last two where that is not enough."""
    split = [split_revision(source) for source in sources]
    parts = [Path(source).resolve().parts for source, _ in split]
    for last in (1, 2, 3):
        plain = ["-".join(one[-last:]) for one in parts]
        revised = [name if of is None else f"{name}@{of}" for name, (_, of) in zip(plain, split, strict=True)]
        for chosen in (plain, revised):
            names = [printable(name) for name in chosen]
            slugs = [slug(name) for name in names]
            if len(set(slugs)) == len(slugs):
                return names
    # Folders are called by slugs, so two long names with one start are one name too.
    twice = next(source for source, one in zip(sources, slugs, strict=True) if slugs.count(one) > 1)
    raise ArgumentError("rm", twice, "is named twice, or as another is; name each once, or evaluate them one by one")


def evaluate_scores(
    scores: str | Path,
    *,
    data: str | Path,
    benchmark: str | Benchmark = "step-labels",
    name: str | None = None,
    **more: Any,
) -> Finished:
    """Make an entry of step scores that another tool made.

    Args:
        scores: A file of records ``{id, scores}``, one number a step; the higher, the better the step.
        data: Traces, as `evaluate` takes them.
        benchmark: A benchmark that takes such scores, or its name.
        name: The subject's name on tables; None: the name of the file.
        **more: ``subsets``, ``limit``, keys of `RunKeywords` and the benchmark's own options, such as ``threshold``.

    Returns:
        The entry and the path of its file.

    Raises:
        TypeError: A keyword that nobody knows.
        UserError: The scores do not fit the data, or the benchmark takes none.

    Examples:
        >>> entry, path = prmbench.evaluate_scores("scores.jsonl", data="my-traces.jsonl", threshold=0.5)
        >>> entry.subject.name
        'scores'
    """
    check_name(name)
    found = find_benchmark(benchmark) if isinstance(benchmark, str) else benchmark
    if type(found).plan_scores is Benchmark.plan_scores:  # said before any data are read
        raise UserError(f"{found.name} takes no scores that were made elsewhere; use step-labels or processbench")
    limit = more.pop("limit", None)
    traces = found.load(DataRequest(data=data, subsets=more.pop("subsets", None), limit=limit))
    options = found.changed({o.name: more.pop(o.name) for o in dataclasses.fields(found.options) if o.name in more})
    run: RunKeywords = {key: more.pop(key) for key in RUN if key in more}  # type: ignore[assignment]
    if more:
        raise TypeError(f"unexpected keyword '{next(iter(more))}'{nearest(next(iter(more)), {*DATA, *RUN})}")
    job = Job(
        data=traces,
        name=name or stem(Path(scores)),
        source=Path(scores).name,
        options=options,
        **{"limit": _where_cut(found, traces, limit), **run},  # type: ignore[arg-type]
    )
    made = run_plan(found, found.plan_scores(Path(scores), job), job)
    assert made is not None  # it is, in the first process
    return made


def rerank(rm: str | Path | RewardModel, rollouts: Sequence[str | Path], **more: Any) -> Finished | None:
    """Best-of-N of a reward model on completions that were sampled before.

    Args:
        rm: A checkpoint folder, a Hub id, or a model that is loaded already.
        rollouts: Files or run folders of completions.
        **more: As in `evaluate`; ``sizes`` are the N.

    Examples:
        >>> entry, path = prmbench.rerank("CKPT", ["samples.jsonl"], sizes=[1, 2])
        >>> entry.metrics.sizes
        [1, 2]
    """
    return evaluate(rm, benchmark="best-of-n", rollouts=rollouts, **more)


def measure_policy(policy: str | Path | Policy, **more: Any) -> Finished | None:
    """avg@n of a policy: sample, verify, measure.

    Args:
        policy: A checkpoint folder, a Hub id, or a policy that is loaded already.
        **more: As in `evaluate`; ``n`` is the number of completions of each problem.

    Examples:
        >>> entry, path = prmbench.measure_policy("SFT", subsets=["problems.jsonl"], n=2)
        >>> entry.subject.kind
        'policy'
    """
    return evaluate(policy=policy, benchmark="policy", **more)


def train_reward_model(recipe: str | Path, **changes: Any) -> RMResult | PRMResult | None:
    """Train a reward model from a recipe: one that learns from outcomes, or an explicit PRM, as the recipe's objective says.

    Args:
        recipe: A YAML file, or the name of a recipe that ships, such as ``qwen3-0.6b/ipvrm.yaml``.
        **changes: Keys of the recipe with other values, such as ``learning_rate=1e-5`` or ``lora={"rank": 8}``.

    Returns:
        What the run did; its ``output`` is the checkpoint's folder. None in processes other than the first.

    Raises:
        TypeError: A key that recipes of this sort do not have; the nearest is named.
        UserError: Something is wrong with the recipe, its data or its models.

    Examples:
        >>> files = {"model": "SFT", "data": "outcomes.jsonl", "output": "trained"}
        >>> small = {"held_out": 1, "max_steps": 1, "batch_size": 4, "micro_batch_size": 4}
        >>> result = prmbench.train_reward_model("miniature/rm.yaml", **files, **small)
        >>> entry, path = prmbench.evaluate(result.output, data="my-traces.jsonl")
        >>> entry.subject.objective
        'ipvrm'
    """
    from prmbench.training.recipes.read import as_overrides, load_recipe
    from prmbench.training.reward_models import recipe_type, train_from

    overrides = as_overrides(changes)
    kind = recipe_type(recipe, overrides)
    for name in changes:
        if name not in kind.model_fields:
            raise TypeError(f"train_reward_model: unexpected keyword '{name}'{nearest(name, kind.model_fields)}")
    return train_from(load_recipe(recipe, kind, overrides))


@naming_keywords
def report(
    entries: str | Path | Sequence[str | Path], output: str | Path = "report.html", data: str | Path | None = None
) -> Path:
    """Write one page about one subject: tables, pictures, and the items that are predicted wrong.

    Args:
        entries: The subject's entries, of any benchmarks: an entry file or the folder of a run, or several.
        output: The HTML page to write.
        data: Traces with their text, a file or a folder, to show the items with; None shows their scores alone.

    Returns:
        The page.

    Raises:
        UserError: Entries of different subjects, or one that is not what its items say.

    Examples:
        >>> entry, path = prmbench.evaluate("CKPT", data="my-traces.jsonl")
        >>> prmbench.report(path, "page.html", data="my-traces.jsonl").name
        'page.html'
    """
    from prmbench.data.traces import load_traces
    from prmbench.reports.subject_page import write_report

    paths = [entries] if isinstance(entries, str | Path) else entries
    return write_report(paths, Path(output), load_traces(data) if data is not None else None)


@naming_keywords
def leaderboard(
    folder: str | Path, *, n_resamples: int = 10_000, seed: int = 0, verify: bool = True, write: bool = False
) -> list[Board]:
    """Make the tables of a leaderboard's entries.

    Args:
        folder: The leaderboard's folder, which holds ``entries/``; ``prmbench leaderboard add`` makes one.
        n_resamples: Bootstrap resamples.
        seed: Seed of the resamples, and of crossfit's folds.
        verify: Whether every figure is first computed again from its items.
        write: Whether ``leaderboard.md`` and ``leaderboard.html`` are written into the folder.

    Returns:
        The tables; each has ``.table()`` and ``.to_frame()``.

    Raises:
        UserError: There are no entries, or one is not what its items say.

    Examples:
        >>> boards = prmbench.leaderboard("leaderboards", n_resamples=100, verify=False)
        >>> boards[0].lines[0].name
        'smollm2-135m-ipvrm'
    """
    from prmbench.reports.leaderboard import read_boards
    from prmbench.reports.pages import write_pages

    boards = read_boards(Path(folder), n_resamples=n_resamples, seed=seed, verify=verify)
    if write:
        write_pages(Path(folder), boards)
    return boards


def _benchmark(benchmark: str | Benchmark | None, rm: object, policy: object, more: dict[str, Any]) -> Benchmark:
    """The benchmark that is asked for. Raises ArgumentError when the subject does not fit it."""
    if benchmark is None:
        benchmark = default_benchmark(has_rm=rm is not None, has_rollouts=bool(more.get("rollouts")))
    found = find_benchmark(benchmark) if isinstance(benchmark, str) else benchmark
    for name, given in (("rm", rm), ("policy", policy)):
        if name in found.measures and given is None:
            what = "a reward model" if name == "rm" else "a policy"
            raise ArgumentError(name, None, f"{found.name} needs {what}: a checkpoint folder or a Hub id")
        if name not in found.measures and given is not None:
            raise ArgumentError(name, None, f"means nothing for {found.name}; leave it out")
    return found


def _check_loading(found: Benchmark, rm: object, loading: dict[str, Any]) -> None:
    """Refuse keywords that `load_reward_model` does not know, and any with a model that is loaded."""
    import inspect

    from prmbench.reward_models.card import Card

    known = {*inspect.signature(load_reward_model).parameters, *Card.model_fields}
    own = {one.name for one in dataclasses.fields(found.options)} | set(inspect.signature(evaluate).parameters)
    for name in loading:
        if name not in known:
            raise TypeError(f"evaluate: unexpected keyword '{name}'{nearest(name, {*known, *DATA, *RUN, *own})}")
    if loading and not isinstance(rm, str | Path):
        raise TypeError(f"unexpected with a loaded model: {', '.join(loading)}")


def _policy(source: str | Path, data: Any, loading: dict[str, Any]) -> Policy:
    """Load a policy, with the prompt template that the data are put to it with."""
    template = find_prompt(getattr(data, "prompt", "boxed"))
    text = loading.get("chat_template")
    return load_policy(
        str(source),
        template,
        loading.get("load_options") or LoadOptions(),
        read_template(Path(text)) if text else None,
        loading.get("engine", "hf"),
        loading.get("tokens"),
    )


def _data_revision(request: DataRequest) -> str | None:
    """The revision of the data that was asked for; of several problem sets those of each, by name."""
    named = [name for name in request.subsets or () if split_revision(str(name))[1] is not None]
    return request.data_revision or (", ".join(named) or None)


def _problems(data: Any) -> dict[str, dict[str, str]]:
    """The texts of the problems of a benchmark's data, by subset and id: of problem sets, of traces, or of completions."""
    if hasattr(data, "sets"):
        return {name: {one.id: one.problem for one in problems} for name, problems in data.sets.items()}
    found: dict[str, dict[str, str]] = {}
    for one in getattr(data, "completions", data):
        found.setdefault(one.subset, {})[one.id] = one.problem
    return found


def _source(subject: object) -> str:
    return str(subject.source) if isinstance(subject, RewardModel | Policy) else str(subject)


def _where_cut(benchmark: Benchmark, data: Any, limit: int | None) -> int | None:
    """The limit where a set is of that size; None: nothing was cut."""
    return limit if limit in benchmark.sizes(data).values() else None
