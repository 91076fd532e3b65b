"""The `eval` command: reward models and policies on their benchmarks."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from prmbench.cli.common import benchmark_name, interruptible, quiet_libraries
from prmbench.errors import UserError, nearest


@interruptible
def eval_command(
    ctx: typer.Context,
    rm: Annotated[str | None, typer.Option(help="reward model: a checkpoint folder or a Hub id")] = None,
    reference: Annotated[str | None, typer.Option(help="pi_ref of an implicit reward model: folder or Hub id")] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            help="how to score: implicit, endo, classifier, token_pair, critic, ... or a plugin's; over the card's"
        ),
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="policy to evaluate instead: a checkpoint folder or a Hub id")
    ] = None,
    benchmark: Annotated[
        str | None, typer.Option(help="of a reward model: processbench (default) or best-of-n; of a policy: policy")
    ] = None,
    subset: Annotated[
        list[str] | None,
        typer.Option(help="subset to use; of a policy: problem set by name, or file; may be repeated; default: all"),
    ] = None,
    rollouts: Annotated[
        list[Path] | None, typer.Option(help="best-of-n: file or run folder of candidates; may be repeated")
    ] = None,
    from_rollouts: Annotated[
        list[Path] | None,
        typer.Option(help="a policy's figures from a rollout run's folder, without a model; may be repeated"),
    ] = None,
    n: Annotated[
        list[int] | None,
        typer.Option(help="policy: completions a problem (8); best-of-n: an N, may be repeated; critic: votes"),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="reward model: how a public PRM is scored (math-shepherd, ...; prmbench presets lists them); policy: sampling, "
            "paper (0.6, 0.95; default) or released (0.7, 0.8, top-k 20)"
        ),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=100, help="policy, critic, judge: over the preset; 0: greedy")
    ] = None,
    top_p: Annotated[float | None, typer.Option(min=1e-6, max=1, help="policy, critic, judge: over the preset")] = None,
    top_k: Annotated[int | None, typer.Option(min=0, help="policy, critic, judge: over the preset")] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="policy: a completion cut here is wrong (2048); critic, judge: over the preset"),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="prompt template: boxed (default), bare, answer-line, number; of rollouts: as sampled"),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="file or folder of traces; default: $PRMBENCH_DATA_DIR, then the Hub")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="only N traces (a fixed sample) or the first N problems of each subset")
    ] = None,
    from_items: Annotated[
        Path | None, typer.Option(help="recompute every metric from an items file, without a model")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="folder of the run; default: one under prmbench-results/")] = None,
    name: Annotated[str | None, typer.Option(help="name on tables; default: the checkpoint's")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the entry as JSON on stdout, nothing else")] = False,
    objective: Annotated[
        str | None, typer.Option(help="what it was trained with (ipvrm, implicit_prm, dpo, ...)")
    ] = None,
    beta: Annotated[float | None, typer.Option(help="scale of token values")] = None,
    margin: Annotated[float | None, typer.Option(help="margin m of the objective")] = None,
    discount: Annotated[
        float | None, typer.Option(help="endo: weight of V(s') in a token's reward; default: 1")
    ] = None,
    decay: Annotated[
        float | None, typer.Option(help="endo: decay from token to token in a whole response's score; default: 0.95")
    ] = None,
    decay_floor: Annotated[
        float | None, typer.Option(help="endo: smallest weight of a token there; default: 0")
    ] = None,
    system: Annotated[str | None, typer.Option(help="system message before the problem")] = None,
    separator: Annotated[
        str | None, typer.Option(help="text between steps; \\n is a newline; default: a blank line")
    ] = None,
    step_prefix: Annotated[str | None, typer.Option(help="text before each step, {i} its number: 'Step {i}: '")] = None,
    template_arg: Annotated[
        list[str] | None, typer.Option(help="chat template argument: enable_thinking=false")
    ] = None,
    chat_template: Annotated[
        Path | None, typer.Option(help="Jinja chat template to use instead of the tokenizer's")
    ] = None,
    end_of_turn: Annotated[
        str | None, typer.Option(help="token that ends a turn; default: as the chat template has it")
    ] = None,
    plugin: Annotated[
        Path | None, typer.Option(help="Python file that registers a kind of your own; it is run")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="auto (float32 on CPU, bfloat16 on CUDA), float32, bfloat16, float16")
    ] = "auto",
    engine: Annotated[
        str, typer.Option(help="where tokens are computed: hf, or vllm (policies, implicit models, critics)")
    ] = "hf",
    tensor_parallel: Annotated[int, typer.Option(min=1, help="vllm: devices that share one model")] = 1,
    data_parallel: Annotated[int, typer.Option(min=1, help="vllm: copies of the model, each on its own devices")] = 1,
    batch_tokens: Annotated[int | None, typer.Option(min=1, help="padded tokens of a batch")] = None,
    reference_cache: Annotated[
        bool, typer.Option("--reference-cache/--no-reference-cache", help="keep the reference's log-probs between runs")
    ] = True,
    skip_overlong: Annotated[bool, typer.Option(help="leave out traces longer than the model's positions")] = False,
    trust_remote_code: Annotated[bool, typer.Option(help="run code that the checkpoint carries")] = False,
    seed: Annotated[
        int | None, typer.Option(min=0, help="of folds, resamples and the random baseline; default: 0")
    ] = None,
    resamples: Annotated[int | None, typer.Option(min=0, help="bootstrap resamples; default: 10000")] = None,
) -> None:
    """Evaluate a reward model (ProcessBench, Best-of-N) or a policy (avg@k): intervals, baselines, honest thresholds."""
    benchmark = _chosen_benchmark(benchmark, rm, policy, from_items, from_rollouts, rollouts)
    _refuse_unused(ctx, "from items" if from_items else "from rollouts" if from_rollouts else benchmark)
    if from_items is not None:
        _recompute(from_items, output, resamples, seed, as_json=as_json)
        return

    from prmbench.engines.loading import LoadOptions

    options = LoadOptions(device, dtype, trust_remote_code, tensor_parallel, data_parallel)
    sampling = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "max_new_tokens": max_new_tokens}
    if benchmark == "policy":
        if from_rollouts:
            from prmbench.benchmarks.policy.run import policy_from_rollouts

            found_policy = policy_from_rollouts(
                from_rollouts, name=name, output=output, n_resamples=_or(resamples, 10_000), seed=seed or 0
            )
        else:
            from prmbench.api import measure_policy
            from prmbench.benchmarks.policy.run import PRESETS

            preset = preset or "paper"
            if preset not in PRESETS:
                raise UserError(f"--preset {preset}: expected {' or '.join(PRESETS)}{nearest(preset, PRESETS)}")
            params = PRESETS[preset].model_copy(update={k: v for k, v in sampling.items() if v is not None})
            quiet_libraries()
            assert policy is not None
            found_policy = measure_policy(
                policy,
                subsets=[*(subset or []), *([str(data)] if data else [])] or None,
                limit=limit,
                output=output,
                name=name,
                n=_one(n, 8),
                params=params,
                prompt=prompt or "boxed",
                seed=seed or 0,
                n_resamples=_or(resamples, 10_000),
                batch_tokens=batch_tokens,
                load_options=options,
                chat_template=chat_template,
                engine=engine,
            )
        show_entry(*found_policy, as_json=as_json)
        return

    from prmbench.api import evaluate, rerank
    from prmbench.benchmarks.processbench.metrics import Plan
    from prmbench.benchmarks.processbench.run import RunOptions
    from prmbench.engines.processes import current_share

    tokens: dict[str, Any] = {
        "system": system,
        "separator": separator.replace("\\n", "\n") if separator is not None else None,
        "step_prefix": step_prefix,
        "template_args": dict(_template_argument(text) for text in template_arg) if template_arg else None,
        "end_of_turn": end_of_turn,
    }
    loading: dict[str, Any] = {
        "reference": reference,
        "kind": kind,
        "preset": preset,
        "load_options": options,
        "engine": engine,
        "reference_cache": reference_cache,
        "chat_template": chat_template,
        "plugin": plugin,
        "tokens": {key: value for key, value in tokens.items() if value is not None},
        "objective": objective,
        "beta": beta,
        "margin": margin,
        "discount": discount,
        "decay": decay,
        "decay_floor": decay_floor,
    }
    assert rm is not None
    if benchmark == "best-of-n":
        quiet_libraries()
        reranked = rerank(
            rm,
            rollouts or (),
            prompt=prompt,
            limit=limit,
            output=output,
            name=name,
            sizes=n,
            seed=seed or 0,
            n_resamples=_or(resamples, 10_000),
            batch_tokens=batch_tokens,
            **loading,
        )
        show_entry(*reranked, as_json=as_json)
        return
    share = current_share(cpu=device == "cpu")
    quiet_libraries()
    votes = {"n": None if n is None else _one(n, 1)}
    found = evaluate(
        rm,
        data=data,
        subsets=subset,
        limit=limit,
        output=output,
        name=name,
        options=RunOptions(
            plan=Plan().changed(resamples, seed),
            batch_tokens=batch_tokens,
            skip_overlong=skip_overlong,
            share=share,
        ),
        generation={key: value for key, value in {**sampling, **votes}.items() if value is not None},
        **loading,
    )
    if found is not None:
        show_entry(*found, as_json=as_json)


BENCHMARKS = ("processbench", "best-of-n", "policy")


def _chosen_benchmark(
    benchmark: str | None,
    rm: str | None,
    policy: str | None,
    from_items: Path | None,
    from_rollouts: list[Path] | None,
    rollouts: list[Path] | None,
) -> str:
    """The benchmark that the options ask for. Raises UserError when they do not fit together."""
    if benchmark is not None and benchmark not in BENCHMARKS:
        raise UserError(f"--benchmark {benchmark}: not known; expected {', '.join(BENCHMARKS)}")
    given = [
        flag for flag, value in (("--rm", rm), ("--policy", policy), ("--from-items", from_items)) if value is not None
    ]
    given += ["--from-rollouts"] if from_rollouts else []
    if len(given) != 1:
        raise UserError(
            f"{' and '.join(given) or 'nothing to evaluate'}: pass one of --rm CKPT (a reward model: checkpoint folder or Hub id), "
            "--policy CKPT, --from-rollouts RUN or --from-items FILE; `prmbench demo` needs none"
        )
    of_policy = policy is not None or bool(from_rollouts)
    if of_policy and benchmark not in (None, "policy"):
        raise UserError(f"--benchmark {benchmark}: needs a reward model, --rm CKPT")
    if rm is not None and benchmark == "policy":
        raise UserError("--benchmark policy: needs --policy CKPT, not --rm")
    chosen = benchmark or ("policy" if of_policy else "best-of-n" if rollouts else "processbench")
    if (chosen == "best-of-n") != bool(rollouts) and from_items is None:
        raise UserError("--benchmark best-of-n and --rollouts FILE go together: the candidates to choose from")
    return chosen


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def _one(values: list[int] | None, default: int) -> int:
    if values and (len(values) > 1 or values[0] < 1):
        raise UserError(f"--n {' '.join(map(str, values))}: expected one number of completions, 1 or more")
    return values[0] if values else default


_ALWAYS = {"benchmark", "output", "as_json", "seed", "resamples"}
_LOADING = {
    "device",
    "dtype",
    "engine",
    "tensor_parallel",
    "data_parallel",
    "batch_tokens",
    "trust_remote_code",
    "chat_template",
    "limit",
    "name",
}
_REWARD_MODEL = _LOADING | {
    "rm",
    "reference",
    "kind",
    "preset",
    "objective",
    "beta",
    "margin",
    "discount",
    "decay",
    "decay_floor",
    "plugin",
    "reference_cache",
}
_TOKENS = {"system", "separator", "step_prefix", "template_arg", "end_of_turn"}
_SAMPLING = {"n", "preset", "temperature", "top_p", "top_k", "max_new_tokens", "prompt"}
_USED = {
    "from items": {"from_items"},
    "from rollouts": {"from_rollouts", "name"},
    "policy": _LOADING | _SAMPLING | {"policy", "subset", "data"},
    "best-of-n": _REWARD_MODEL | _TOKENS | {"rollouts", "n", "prompt"},
    "processbench": _REWARD_MODEL | _TOKENS | (_SAMPLING - {"prompt"}) | {"subset", "data", "skip_overlong"},
}
"""Options that mean something, by what is done; any other that is given is a mistake, not to be passed over."""


def _refuse_unused(ctx: typer.Context, doing: str) -> None:
    given = {name for name in ctx.params if getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE"}
    if unused := sorted(given - _ALWAYS - _USED[doing]):
        flags = ", ".join("--" + {"as_json": "json"}.get(name, name.replace("_", "-")) for name in unused)
        why = {"from items": "items are already scored", "from rollouts": "the completions are already sampled"}
        said = why.get(doing, f"it means nothing for {doing}")
        raise UserError(f"{flags}: {said}; leave it out")


def _recompute(items: Path, output: Path | None, resamples: int | None, seed: int | None, *, as_json: bool) -> None:
    from prmbench.benchmarks.best_of_n.run import recompute_best_of_n
    from prmbench.benchmarks.calibration.run import recompute_calibration
    from prmbench.benchmarks.candidate_sets.run import recompute_candidates
    from prmbench.benchmarks.policy.run import recompute_policy
    from prmbench.benchmarks.processbench.run import recompute
    from prmbench.benchmarks.td_probe.run import recompute_td_probe
    from prmbench.results.schema import ENTRY_NAME
    from prmbench.results.store import save_entry

    beside = (items if items.is_dir() else items.parent) / ENTRY_NAME
    kinds: dict[str, Callable[..., Any]] = {
        "best-of-n": recompute_best_of_n,
        "policy": recompute_policy,
        "td-probe": recompute_td_probe,
        "candidates": recompute_candidates,
        "calibration": recompute_calibration,
    }
    entry = kinds.get(benchmark_name(beside), recompute)(items, n_resamples=resamples, seed=seed)
    path = None
    if output is not None:
        assert entry.items is not None
        folder = items if items.is_dir() else items.parent
        path = save_entry(output, entry, folder / entry.items.file)
    show_entry(entry, path, as_json=as_json)


def _template_argument(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"--template-arg {text}: expected NAME=VALUE, for example enable_thinking=false")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def show_entry(entry: Any, path: Path | None, *, as_json: bool) -> None:
    """Print an entry: as a table with where it is kept, or as JSON and nothing else."""
    if as_json:
        typer.echo(entry.model_dump_json(indent=2))
        return
    from rich.console import Console

    from prmbench.benchmarks.probe_tables import render_calibration, render_candidates, render_td_probe
    from prmbench.benchmarks.processbench.table import render
    from prmbench.benchmarks.tables import render_best_of_n, render_policy

    shown: dict[str, Callable[[Any], Any]] = {
        "best-of-n": render_best_of_n,
        "policy": render_policy,
        "td-probe": render_td_probe,
        "candidates": render_candidates,
        "calibration": render_calibration,
    }
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(shown.get(entry.benchmark.name, render)(entry), highlight=False)
    if path is not None:
        # Not through rich: a path must survive copy and paste, unwrapped.
        typer.echo(f"entry: {path}")
        if entry.items is not None and (path.parent / entry.items.file).exists():
            typer.echo(f"next:  prmbench eval --from-items {path.parent / entry.items.file}")
