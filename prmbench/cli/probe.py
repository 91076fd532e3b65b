"""The `probe` commands: what the values of a reward model mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from prmbench.cli.common import interruptible, quiet_libraries
from prmbench.errors import UserError

probe = typer.Typer(help="What the values of a reward model mean.", no_args_is_help=True, rich_markup_mode=None)

RM = Annotated[str, typer.Option(help="reward model: a checkpoint folder or a Hub id")]
Reference = Annotated[str | None, typer.Option(help="pi_ref, over the card's: folder or Hub id")]
Objective = Annotated[str | None, typer.Option(help="what it was trained with, over the card's")]
Beta = Annotated[float | None, typer.Option(help="scale of token values, over the card's")]
Margin = Annotated[float | None, typer.Option(help="margin m of the objective, over the card's")]
PolicyOption = Annotated[str, typer.Option(help="policy: a checkpoint folder or a Hub id")]
Subset = Annotated[
    list[str], typer.Option(help="problem set by name, or file of {id, problem, answer}; may be repeated")
]
Prompt = Annotated[str, typer.Option(help="prompt template: boxed, bare, answer-line, number")]
Temperature = Annotated[float, typer.Option(min=0, max=100, help="of all sampling; 0: greedy")]
TopP = Annotated[float, typer.Option(min=1e-6, max=1, help="nucleus of all sampling")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="of a whole response; one cut there is wrong")]
ChatTemplate = Annotated[Path | None, typer.Option(help="Jinja chat template instead of the tokenizer's")]
Output = Annotated[Path | None, typer.Option(help="folder of the run; default: one under prmbench-results/")]
Name = Annotated[str | None, typer.Option(help="name on tables; default: the checkpoint's")]
EngineOption = Annotated[str, typer.Option(help="where the policy's tokens are computed: hf or vllm")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16")]
Remote = Annotated[bool, typer.Option(help="run code that a checkpoint carries")]
Seed = Annotated[int, typer.Option(min=0, help="of everything drawn")]
Resamples = Annotated[int, typer.Option(min=0, help="bootstrap resamples")]
Json = Annotated[bool, typer.Option("--json", help="print the entry as JSON on stdout, nothing else")]


@probe.command(name="td")
@interruptible
def td_command(
    rm: RM,
    policy: PolicyOption,
    subset: Subset,
    branches: Annotated[int, typer.Option(min=1, help="candidate branches in all")] = 2_500,
    rollouts_per_branch: Annotated[int, typer.Option(min=1, help="K; more than 1: the noise is taken out")] = 1,
    top: Annotated[int, typer.Option(min=2, help="likeliest next tokens of a state")] = 5,
    prompt: Prompt = "boxed",
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    max_new_tokens: MaxNewTokens = 2_048,
    reference: Reference = None,
    objective: Objective = None,
    beta: Beta = None,
    margin: Margin = None,
    chat_template: ChatTemplate = None,
    output: Output = None,
    name: Name = None,
    engine: EngineOption = "hf",
    device: Device = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: Remote = False,
    seed: Seed = 0,
    resamples: Resamples = 2_000,
    batch_tokens: Annotated[int, typer.Option(min=1, help="padded tokens of a batch, at full length")] = 65_536,
    as_json: Json = False,
) -> None:
    """One-step TD of candidate tokens against what the policy makes of them (Section 4.3.3), rollout noise taken out."""
    from prmbench.benchmarks.td_probe.run import ProbeOptions, evaluate_td_probe
    from prmbench.engines.loading import local_folder
    from prmbench.engines.sampling import SamplingParams

    local_folder(rm, "--rm")
    sets, loaded = _policy(
        subset, policy, prompt, chat_template, engine, device, dtype, trust_remote_code=trust_remote_code
    )
    model = _reward_model(
        rm,
        trust_remote_code=trust_remote_code,
        device=device,
        dtype=dtype,
        chat_template=chat_template,
        reference=reference,
        objective=objective,
        beta=beta,
        margin=margin,
    )
    params = SamplingParams(temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens)
    options = ProbeOptions(branches, top, rollouts_per_branch, params, prompt, seed, resamples, batch_tokens)
    entry, path = evaluate_td_probe(
        model, loaded, sets, name=_called(name, rm), source=rm, output=output, options=options
    )
    show_probe(entry, path, as_json=as_json)


@probe.command(name="candidates")
@interruptible
def candidates_command(
    policy: PolicyOption,
    subset: Subset,
    limit: Annotated[int | None, typer.Option(min=1, help="only the first N problems of each set")] = 1_000,
    p_min: Annotated[
        list[float] | None, typer.Option(help="threshold; may be repeated; default: 0.05, 0.1, 0.2")
    ] = None,
    n: Annotated[int, typer.Option(min=1, help="rollouts of each problem")] = 1,
    prompt: Prompt = "boxed",
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    max_new_tokens: MaxNewTokens = 2_048,
    chat_template: ChatTemplate = None,
    output: Output = None,
    name: Name = None,
    engine: EngineOption = "hf",
    device: Device = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: Remote = False,
    seed: Seed = 0,
    resamples: Resamples = 2_000,
    batch_tokens: Annotated[int | None, typer.Option(min=1, help="padded tokens of a batch")] = None,
    as_json: Json = False,
) -> None:
    """Size and probability mass of the sets of likely next tokens, against P_min (Table 11)."""
    from prmbench.benchmarks.candidate_sets.run import P_MINS, evaluate_candidates
    from prmbench.engines.sampling import SamplingParams
    from prmbench.results.store import public_name

    sets, loaded = _policy(
        subset, policy, prompt, chat_template, engine, device, dtype, limit, trust_remote_code=trust_remote_code
    )
    entry, path = evaluate_candidates(
        loaded,
        sets,
        name=_called(name, policy),
        source=public_name(policy) or policy,
        output=output,
        p_mins=p_min or P_MINS,
        n=n,
        params=SamplingParams(temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens),
        prompt=prompt,
        seed=seed,
        n_resamples=resamples,
        batch_tokens=batch_tokens,
    )
    show_probe(entry, path, as_json=as_json)


@probe.command(name="calibration")
@interruptible
def calibration_command(
    rm: RM,
    rollouts: Annotated[list[Path], typer.Option(help="file or run folder of completions; may be repeated")],
    limit: Annotated[int | None, typer.Option(min=1, help="only the first N problems of each file")] = None,
    prompt: Annotated[
        str | None, typer.Option(help="prompt template; default: as the rollouts were sampled, else boxed")
    ] = None,
    reference: Reference = None,
    objective: Objective = None,
    beta: Beta = None,
    margin: Margin = None,
    chat_template: ChatTemplate = None,
    output: Output = None,
    name: Name = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: Remote = False,
    seed: Seed = 0,
    resamples: Resamples = 2_000,
    batch_tokens: Annotated[int | None, typer.Option(min=1, help="padded tokens of a batch")] = None,
    as_json: Json = False,
) -> None:
    """Prefix values as probabilities of a right answer, under the objective's own link and the plain sigmoid."""
    from prmbench.api import find_candidates
    from prmbench.benchmarks.calibration.run import evaluate_calibration

    candidates, template = find_candidates(rollouts, prompt, limit)
    model = _reward_model(
        rm,
        trust_remote_code=trust_remote_code,
        device=device,
        dtype=dtype,
        chat_template=chat_template,
        reference=reference,
        objective=objective,
        beta=beta,
        margin=margin,
    )
    entry, path = evaluate_calibration(
        model,
        candidates,
        template,
        name=_called(name, rm),
        source=rm,
        output=output,
        n_resamples=resamples,
        seed=seed,
        batch_tokens=batch_tokens,
    )
    show_probe(entry, path, as_json=as_json)


def show_probe(entry: Any, path: Path | None, *, as_json: bool) -> None:
    """Print a probe's entry, and draw it beside its file."""
    from prmbench.cli.evaluate import show_entry

    show_entry(entry, path, as_json=as_json)
    picture = path and _draw(entry, path.parent)
    if picture and not as_json:
        typer.echo(f"picture: {picture}")


def _draw(entry: Any, folder: Path) -> Path | None:
    from prmbench.benchmarks.probe_plots import draw_calibration, draw_td_probe
    from prmbench.benchmarks.td_probe.metrics import read_branches

    name = entry.benchmark.name
    if name == "candidates":
        return None
    items = folder / entry.items.file
    figure = draw_td_probe(entry, read_branches(items)) if name == "td-probe" else draw_calibration(entry)
    file = folder / f"{name}.svg"
    figure.savefig(file, metadata={"Date": None})
    return file


def _called(name: str | None, source: str) -> str:
    return name or Path(source).resolve().name


def _policy(
    subsets: list[str],
    policy: str,
    prompt: str,
    chat_template: Path | None,
    engine: str,
    device: str,
    dtype: str,
    limit: int | None = None,
    *,
    trust_remote_code: bool,
) -> tuple[Any, Any]:
    """Problems, which are checked first, and the policy."""
    from prmbench.data.problem_sets import find_problems
    from prmbench.data.prompts import find_prompt
    from prmbench.engines.loading import LoadOptions, local_folder
    from prmbench.policies.policy import load_policy
    from prmbench.reward_models.loading import read_template

    local_folder(policy, "--policy")
    template = find_prompt(prompt)
    sets = find_problems(subsets, limit)
    if not any(sets.values()):
        raise UserError(f"--subset {' '.join(subsets)}: no problems")
    text = read_template(chat_template) if chat_template else None
    quiet_libraries()
    return sets, load_policy(policy, template, LoadOptions(device, dtype, trust_remote_code), text, engine)


def _reward_model(rm: str, *, device: str, dtype: str, trust_remote_code: bool, **loading: Any) -> Any:
    from prmbench.engines.loading import LoadOptions
    from prmbench.reward_models.loading import load_reward_model

    quiet_libraries()
    return load_reward_model(rm, load_options=LoadOptions(device, dtype, trust_remote_code), **loading)
