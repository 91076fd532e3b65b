"""The `eval` and `probe` commands: reward models and policies on benchmarks. Their options are built from the benchmarks."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import typer

from prmbench.benchmarks.base import Benchmark
from prmbench.benchmarks.registry import benchmarks, default_benchmark, find_benchmark
from prmbench.cli.common import console, interruptible, quiet_libraries
from prmbench.cli.options import (
    ALWAYS,
    DATA,
    OUTPUT,
    SUBJECT,
    Flag,
    flag_names,
    flags_of,
    given,
    loading_of,
    named_revisions,
    own_flags,
    own_options,
    policy_loading,
    refuse_unused,
    sampling_params,
    with_flags,
)
from prmbench.errors import UserError
from prmbench.progress import announce_loading

PROBES = {"td": "td-probe", "candidates": "candidates", "calibration": "calibration"}
"""The commands of `prmbench probe`, and their benchmarks."""


def _eval_flags() -> dict[str, Flag]:
    """The flags of `prmbench eval`: every benchmark's, those of other packages too."""
    known = benchmarks()
    own = [
        Flag(
            "benchmark",
            str,
            f"{', '.join(one.name for one in known)}; default: processbench, best-of-n with --rollouts, policy with --policy",
            SUBJECT,
        ),
        Flag(
            "from_rollouts", list[Path], "a policy's figures from rollout runs, without a model; may be repeated", DATA
        ),
        Flag(
            "from_items",
            Path,
            "compute every figure again from an items file, without a model; with --data: an entry of step scores made elsewhere",
            DATA,
        ),
        Flag(
            "plan_for", float, "policies: also how many problems decide this many points against another policy", OUTPUT
        ),
    ]
    found = flags_of(known, more=own)
    text = f"{found['rm'].help}; several, each behind its own --rm, are evaluated in turn and compared"
    found["rm"] = dataclasses.replace(found["rm"], kind=list[str], help=text)
    return found


EVAL_FLAGS = _eval_flags()


def _evaluate(**values: Any) -> None:
    """Evaluate a reward model or a policy on a benchmark: figures with intervals, baselines, honest thresholds."""
    rms = values["rm"] or []
    values = {**values, "rm": rms[0] if rms else None}
    what = _what_is_given(values)
    names = given(values, EVAL_FLAGS) - {"plan_for"}
    _check_plan(values)
    if what == "from_items" and "data" in names:
        _from_scores(values, names)
        return
    if what in ("from_items", "from_rollouts"):
        why = "items are already scored" if what == "from_items" else "the completions are already sampled"
        if unused := sorted(names - ALWAYS - {what, "benchmark"} - ({"name"} if what == "from_rollouts" else set())):
            raise UserError(f"{flag_names(unused)}: {why}; leave it out")
        (_from_items if what == "from_items" else _from_rollouts)(values)
        return
    benchmark = _chosen_benchmark(values)
    refuse_unused(benchmark, names)
    if len(rms) > 1:
        evaluate_in_turn(benchmark, rms, values)
        return
    evaluate_values(benchmark, values)


def _check_plan(values: dict[str, Any]) -> None:
    """Refuse a plan that nothing can be planned of."""
    points = values["plan_for"]
    if points is None:
        return
    if not 0 < points <= 100:
        raise UserError(f"--plan-for {points:g}: expected a difference in points, above 0 and at most 100")
    if values["as_json"]:
        raise UserError("--plan-for and --json: pass one; --json prints the entry and nothing else")
    of_policies = values["rm"] is None and values["benchmark"] in (None, "policy")
    if not of_policies:
        raise UserError(
            "--plan-for: is for policies (--policy CKPT, --from-rollouts RUN, or --from-items of such a run)"
        )
    if values["policy"] is not None and (values["temperature"] == 0 or max(values["n"] or [2]) < 2):
        raise UserError(
            "--plan-for: needs at least 2 completions of each problem at a temperature above 0, to tell sampling from problems"
        )


def show_plan(entry_or_items: Path, points: float) -> None:
    """Print how many problems decide a difference between policies.

    Args:
        entry_or_items: The entry of a policy, or its items.
        points: The difference, in points.

    Raises:
        UserError: The items are not of a policy, a problem has fewer than two completions, or those of each are all alike.
    """
    from prmbench.benchmarks.groups import grouped, problem_of
    from prmbench.benchmarks.planning import plan_policies, render_plan
    from prmbench.benchmarks.registry import load_measured
    from prmbench.data.verdicts import Verdict

    measured = load_measured(entry_or_items)
    if measured.benchmark.name != "policy":
        raise UserError(f"--plan-for: {entry_or_items} is of {measured.benchmark.name}; expected a policy's run")
    sets: dict[str, dict[str, list[bool]]] = {}
    for (subset, problem), items in grouped(measured.items, problem_of).items():
        sets.setdefault(subset, {})[problem] = [item.verdict == Verdict.CORRECT for item in items]
    try:
        plans = plan_policies(sets, points)
    except UserError as error:
        raise UserError(f"--plan-for: {error}") from None
    console().print(render_plan(plans, points, [len(problems) for problems in sets.values()]))


eval_command = interruptible(with_flags(_evaluate, EVAL_FLAGS))


def probe_command(benchmark: Benchmark) -> Any:
    """A command that evaluates on one benchmark and draws its picture.

    Args:
        benchmark: The benchmark.
    """
    flags = flags_of([benchmark])

    def run(**values: Any) -> None:
        evaluate_values(benchmark, values)

    run.__name__, run.__doc__ = benchmark.name, benchmark.__doc__
    return interruptible(with_flags(run, flags))


probe = typer.Typer(help="What the values of a reward model mean.", no_args_is_help=True)
for _name, _benchmark_name in PROBES.items():
    probe.command(name=_name)(probe_command(find_benchmark(_benchmark_name)))


def evaluate_values(benchmark: Benchmark, values: dict[str, Any]) -> None:
    """Evaluate as the values of a command ask for, and show the entry.

    Args:
        benchmark: The benchmark.
        values: The values of the command.
    """
    values = named_revisions(values)
    announce_loading(*(values.get(name) for name in ("rm", "reference", "policy")))
    from prmbench.api import evaluate

    quiet_libraries()
    values = with_defaults(benchmark, values)
    found = evaluate(
        values.get("rm") if "rm" in benchmark.measures else None,
        policy=values.get("policy") if "policy" in benchmark.measures else None,
        name=values.get("name"),
        params=sampling_params(values, benchmark) if "policy" in benchmark.measures else None,
        policy_loading=policy_loading(values),
        **_common(benchmark, values),
    )
    if found is not None:
        show_entry(benchmark, *found, as_json=values.get("as_json", False))
        if values.get("plan_for") is not None:
            show_plan(found[1], values["plan_for"])


def evaluate_in_turn(benchmark: Benchmark, rms: list[str], values: dict[str, Any]) -> None:
    """Evaluate several reward models on the same data, and compare them; what the values ask for holds for each.

    Args:
        benchmark: The benchmark.
        rms: The reward models.
        values: The values of the command.
    """
    if values["policy"] is not None:
        raise UserError("--rm: several are compared on data that are there; with --policy evaluate one after the other")
    for name in ("name", "revision"):
        if values[name] is not None:
            raise UserError(
                f"--{name}: is of one model, {len(rms)} were named; leave it out (OWNER/NAME@REVISION names a revision)"
            )
    values = named_revisions(values)
    announce_loading(*rms, values.get("reference"))
    from prmbench.api import evaluate_several
    from prmbench.reports.compare import compare

    quiet_libraries()
    values = with_defaults(benchmark, values)
    found = evaluate_several(rms, **_common(benchmark, values))
    if not found:
        return
    as_json = values.get("as_json", False)
    for entry, path in () if as_json else found:
        show_entry(benchmark, entry, path, as_json=False, next_steps=False)
    # The same resamples as in the entries, where there are any.
    n_resamples = benchmark.resamples if values.get("resamples") is None else values["resamples"]
    paths = [path for _, path in found]
    compared = compare(paths, n_resamples=max(1, n_resamples), seed=values.get("seed") or 0)
    if as_json:
        entries = [json.loads(entry.model_dump_json()) for entry, _ in found]
        typer.echo(json.dumps({"entries": entries, "comparison": compared.as_json()}, indent=2))
        return
    console().print(compared.render(groups=False), highlight=False)
    typer.echo(f"next:  prmbench compare {' '.join(str(path.parent) for path in paths)}")


def with_defaults(benchmark: Benchmark, values: dict[str, Any]) -> dict[str, Any]:
    """The values of a command, with the benchmark's own defaults for those that were not given.

    Args:
        benchmark: The benchmark.
        values: The values.
    """
    return {**benchmark.defaults, **{name: value for name, value in values.items() if value is not None}}


def _common(benchmark: Benchmark, values: dict[str, Any]) -> dict[str, Any]:
    """What `evaluate` and `evaluate_several` are both asked, of a command's values."""
    from prmbench.engines.processes import current_share
    from prmbench.verify import VerifierOptions

    return {
        "benchmark": benchmark,
        "loading": loading_of(values, benchmark) if "rm" in benchmark.measures else None,
        "data": values.get("data"),
        "data_revision": values.get("data_revision"),
        "subsets": values.get("subset") or None,
        "limit": values.get("limit"),
        "rollouts": values.get("rollouts") or (),
        "prompt": values.get("prompt"),
        "verifier": VerifierOptions.parse(values.get("verifier", "strict")),
        "output": values.get("output"),
        "n_resamples": values.get("resamples"),
        "seed": values.get("seed") or 0,
        "batch_tokens": values.get("batch_tokens"),
        "trained_on": values.get("trained_on"),
        "share": current_share(cpu=values.get("device") == "cpu"),
        **own_options(benchmark, values),
    }


def _from_items(values: dict[str, Any]) -> None:
    """Compute an entry's figures again, and keep them where an output is named."""
    from prmbench.benchmarks.registry import recompute
    from prmbench.results.store import save_entry

    items, path = values["from_items"], None
    entry = recompute(items, n_resamples=values["resamples"], seed=values["seed"])
    if values["output"] is not None:
        folder = items if items.is_dir() else items.parent
        path = save_entry(values["output"], entry, folder / entry.items.file)
    show_entry(find_benchmark(entry.benchmark.name), entry, path, as_json=values["as_json"])
    if values["plan_for"] is not None:
        show_plan(items, values["plan_for"])


def _from_scores(values: dict[str, Any], names: set[str]) -> None:
    """An entry of scores that another tool made, on data that say what is right."""
    from prmbench.api import evaluate_scores

    benchmark = find_benchmark(values["benchmark"] or "step-labels")
    taken = (
        ALWAYS | {"from_items", "benchmark", "data", "subset", "limit"} | {flag.name for flag in own_flags(benchmark)}
    )
    if unused := sorted(names - taken):
        raise UserError(f"{flag_names(unused)}: the scores are made already; leave it out")
    found = evaluate_scores(
        values["from_items"],
        benchmark=benchmark,
        name=values["name"],
        data=values["data"],
        subsets=values["subset"] or None,
        limit=values["limit"],
        output=values["output"],
        n_resamples=values["resamples"],
        seed=values["seed"] or 0,
        **own_options(benchmark, values),
    )
    show_entry(benchmark, *found, as_json=values["as_json"])


def _from_rollouts(values: dict[str, Any]) -> None:
    """A policy's entry of rollouts that exist."""
    from prmbench.benchmarks.policy.run import policy_from_rollouts

    run = {"output": values["output"], "n_resamples": values["resamples"], "seed": values["seed"] or 0}
    found = policy_from_rollouts(values["from_rollouts"], name=values["name"], **run)
    if found is not None:
        show_entry(find_benchmark("policy"), *found, as_json=values["as_json"])
        if values["plan_for"] is not None:
            show_plan(found[1], values["plan_for"])


def _what_is_given(values: dict[str, Any]) -> str:
    """Which of the options that name what to evaluate is given. Raises UserError when none or several exclude each other."""
    names = [name for name in ("rm", "policy", "from_items", "from_rollouts") if values[name] not in (None, [])]
    if names == ["rm", "policy"] and values["benchmark"] is not None:
        return "rm"
    if len(names) != 1:
        raise UserError(
            f"{flag_names(names).replace(', ', ' and ') or 'nothing to evaluate'}: pass one of --rm CKPT (a reward model: "
            "checkpoint folder or Hub id), --policy CKPT, --from-rollouts RUN or --from-items FILE; `prmbench demo` needs none"
        )
    return names[0]


def _chosen_benchmark(values: dict[str, Any]) -> Benchmark:
    """The benchmark that the options ask for. Raises UserError when they do not fit together."""
    rm, policy = values["rm"], values["policy"]
    name = values["benchmark"]
    if name is None:
        name = default_benchmark(has_rm=rm is not None, has_rollouts=bool(values["rollouts"]))
    benchmark = find_benchmark(name)
    if "rm" in benchmark.measures and rm is None:
        raise UserError(f"--benchmark {name}: needs a reward model, --rm CKPT")
    if "policy" in benchmark.measures and policy is None:
        raise UserError(
            f"--benchmark {name}: needs --policy CKPT" + (", not --rm" if "rm" not in benchmark.measures else "")
        )
    if "rollouts" in benchmark.uses and not values["rollouts"]:
        raise UserError(f"--benchmark {name} and --rollouts FILE go together: the completions to score")
    return benchmark


def show_entry(benchmark: Benchmark, entry: Any, path: Path | None, *, as_json: bool, next_steps: bool = True) -> None:
    """Print an entry: as a table with where it is kept, or as JSON and nothing else. A benchmark's picture is drawn beside it.

    Args:
        benchmark: The entry's benchmark.
        entry: The entry.
        path: Its file; None: it is not kept.
        as_json: Whether it is printed as JSON.
        next_steps: Whether to say what may be done with it next.
    """
    picture = path and draw(benchmark, entry, path)
    if as_json:
        typer.echo(entry.model_dump_json(indent=2))
        return
    console().print(benchmark.render(entry), highlight=False)
    if path is not None:
        # Not through rich: a path must survive copy and paste, unwrapped.
        typer.echo(f"entry: {path}")
        if picture:
            typer.echo(f"picture: {picture}")
        if next_steps and entry.items is not None and (path.parent / entry.items.file).exists():
            typer.echo(f"next:  prmbench report {path.parent}\nnext:  prmbench compare {path.parent} OTHER-RUN")


def draw(benchmark: Benchmark, entry: Any, path: Path) -> Path | None:
    """Draw an entry's picture beside its file, where the benchmark has one.

    Args:
        benchmark: The entry's benchmark.
        entry: The entry.
        path: The entry's file.

    Returns:
        The picture's file; None: there is none.
    """
    if type(benchmark).picture is Benchmark.picture:
        return None
    from prmbench.benchmarks.registry import load_measured

    figure = benchmark.picture(load_measured(path))
    if figure is None:
        return None
    file = path.parent / f"{benchmark.name}.svg"
    figure.savefig(file, metadata={"Date": None})
    return file
