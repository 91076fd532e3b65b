"""The options that commands share, and the commands whose options are built from them and from benchmarks."""

from __future__ import annotations

import dataclasses
import inspect
import json
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prmbench.data.prompts import PROMPT_TEMPLATES
from prmbench.data.revisions import with_revision
from prmbench.errors import ArgumentError, UserError, nearest

if TYPE_CHECKING:
    from prmbench.benchmarks.base import Benchmark

SUBJECT, DATA, SAMPLING, TOKENS, COMPUTE, OUTPUT = "Subject", "Data", "Sampling", "Tokens", "Compute", "Output"
PROMPT_HELP = f"prompt template: {', '.join(PROMPT_TEMPLATES)}"


@dataclass(frozen=True)
class Flag:
    """An option of the command line.

    Attributes:
        name: Its name in Python; the flag has dashes for underscores.
        kind: The type of its value.
        help: What it means.
        panel: The group that the help shows it in.
        default: What stands for it where it is not given; None: nothing does.
        low: The smallest value; None: any.
        high: The largest value; None: any.
        flags: The flags themselves; empty: made of the name.
        required: Whether a command cannot do without it.
    """

    name: str
    kind: Any
    help: str
    panel: str
    default: Any = None
    low: float | None = None
    high: float | None = None
    flags: tuple[str, ...] = ()
    required: bool = False


_SHARED = [
    Flag("rm", str, "reward model: a checkpoint folder or a Hub id", SUBJECT),
    Flag("policy", str, "policy: a checkpoint folder or a Hub id", SUBJECT),
    Flag("reference", str, "pi_ref of an implicit reward model: folder or Hub id", SUBJECT),
    Flag(
        "revision",
        str,
        "commit, branch or tag of the Hub id: of the reward model, else of the policy; OWNER/NAME@REVISION says the same",
        SUBJECT,
    ),
    Flag("reference_revision", str, "the same of --reference", SUBJECT),
    Flag("policy_revision", str, "the same of --policy, beside a reward model", SUBJECT),
    Flag("kind", str, "how to score (implicit, endo, classifier, critic, ...); over the card's", SUBJECT),
    Flag(
        "preset", str, "a public PRM's scoring (`prmbench presets`); of a policy: paper or released sampling", SUBJECT
    ),
    Flag("objective", str, "what it was trained with (ipvrm, implicit_prm, dpo, ...)", SUBJECT),
    Flag("beta", float, "scale of token values", SUBJECT),
    Flag("margin", float, "margin m of the objective", SUBJECT),
    Flag("discount", float, "endo: weight of V(s') in a token's reward (1)", SUBJECT),
    Flag("decay", float, "endo: decay from token to token in a whole response's score (0.95)", SUBJECT),
    Flag("decay_floor", float, "endo: smallest weight of a token there (0)", SUBJECT),
    Flag("plugin", Path, "Python file that registers a kind of your own; it is run", SUBJECT),
    Flag("trust_remote_code", bool, "run code that the checkpoint carries", SUBJECT, False),
    Flag("data", Path, "file or folder of traces; default: $PRMBENCH_DATA_DIR, then the Hub", DATA),
    Flag(
        "data_revision",
        str,
        "commit, branch or tag of the data on the Hub; of several sets: --subset NAME@REVISION",
        DATA,
    ),
    Flag("subset", list[str], "subset; of a policy: problem set by name, or file; may be repeated", DATA),
    Flag(
        "rollouts", list[Path], "file or run folder of completions (calibration: of labels too); may be repeated", DATA
    ),
    Flag("trained_on", Path, "the subject's training records: the entry says how many problems they hold", DATA),
    Flag("limit", int, "only N traces (a fixed sample), or the first N problems, of each subset", DATA, low=1),
    Flag("prompt", str, f"{PROMPT_HELP}; default: as trained or sampled, else boxed", DATA),
    Flag("verifier", str, "what counts as right: strict, paper, or strict,tolerance=0.01,think=false", DATA, "strict"),
    Flag("n", list[int], "completions of each problem; of a critic: votes", SAMPLING, low=0, high=100_000),
    Flag("temperature", float, "0: greedy", SAMPLING, low=0, high=100),
    Flag("top_p", float, "nucleus", SAMPLING, low=1e-6, high=1),
    Flag("top_k", int, "0: all tokens", SAMPLING, low=0),
    Flag(
        "max_new_tokens", int, "a completion cut here is wrong; of a critic or judge: tokens of a text", SAMPLING, low=1
    ),
    Flag("system", str, "system message before the problem", TOKENS),
    Flag("separator", str, "text between steps; \\n is a newline; default: a blank line", TOKENS),
    Flag("step_prefix", str, "text before each step, {i} its number: 'Step {i}: '", TOKENS),
    Flag("template_arg", list[str], "chat template argument: enable_thinking=false; may be repeated", TOKENS),
    Flag("chat_template", Path, "Jinja chat template instead of the tokenizer's", TOKENS),
    Flag("date", str, "day that a chat template is given as today's, YYYY-MM-DD; default: 2024-07-26", TOKENS),
    Flag("end_of_turn", str, "token that ends a turn; default: as the chat template has it", TOKENS),
    Flag("device", str, "auto, cpu, cuda, cuda:N", COMPUTE, "auto"),
    Flag("dtype", str, "auto (float32 on CPU, bfloat16 on CUDA), float32, bfloat16, float16", COMPUTE, "auto"),
    Flag(
        "attn_implementation",
        str,
        "hf: how attention is computed: eager, sdpa, flash_attention_2, ...; default: as transformers has it, mostly sdpa",
        COMPUTE,
    ),
    Flag("padding_free", bool, "hf: join the sequences of a batch into one row; for flash attention", COMPUTE, False),
    Flag(
        "engine",
        str,
        "where tokens are computed: hf, vllm (policies, all kinds but endo), or api (a server; policies, critics)",
        COMPUTE,
        "hf",
    ),
    Flag("tensor_parallel", int, "vllm: devices that share one model", COMPUTE, 1, low=1),
    Flag("data_parallel", int, "vllm: copies of the model, each on its own devices", COMPUTE, 1, low=1),
    Flag("base_url", str, "api: where the server's paths begin, http://localhost:8000/v1; default: OpenAI's", COMPUTE),
    Flag("key_variable", str, "api: environment variable with the key", COMPUTE, "OPENAI_API_KEY"),
    Flag("concurrency", int, "api: requests under way at once", COMPUTE, 8, low=1),
    Flag("price", list[float], "api: of a million tokens of prompts, then of replies; given twice", COMPUTE, low=0),
    Flag("batch_tokens", int, "padded tokens of a batch", COMPUTE, low=1),
    Flag(
        "reference_cache",
        bool,
        "keep the reference's log-probs between runs",
        COMPUTE,
        True,
        flags=("--reference-cache/--no-reference-cache",),
    ),
    Flag("output", Path, "folder of the run; default: one under prmbench-results/", OUTPUT),
    Flag("name", str, "name on tables; default: the checkpoint's", OUTPUT),
    Flag("seed", int, "of everything drawn; default: 0", OUTPUT, low=0),
    Flag("resamples", int, "bootstrap resamples; default: 10000, of probes 2000", OUTPUT, low=0, high=100_000),
    Flag("as_json", bool, "print the result as JSON on stdout, nothing else", OUTPUT, False, flags=("--json",)),
]
SHARED = {flag.name: flag for flag in _SHARED}
"""Every option that several commands have, in the order of the help."""
ALWAYS = frozenset({"output", "name", "seed", "resamples", "as_json"})
SERVICE = ("base_url", "key_variable", "concurrency", "price")
LOADING = frozenset(
    {
        "device",
        "dtype",
        "attn_implementation",
        "engine",
        "tensor_parallel",
        "data_parallel",
        "batch_tokens",
        "trust_remote_code",
        "revision",
        *SERVICE,
    }
)


def own_flags(benchmark: Benchmark) -> list[Flag]:
    """The flags of a benchmark's own options.

    Args:
        benchmark: The benchmark.
    """
    hints = typing.get_type_hints(benchmark.options)
    found = []
    for one in dataclasses.fields(benchmark.options):
        flag, low, high = (one.metadata.get(key) for key in ("flag", "low", "high"))
        default = "" if one.default in (None, False) else f" ({one.default})"
        name = flag.replace("-", "_") if flag else one.name
        text = f"{one.metadata.get('help', '')}{default}"
        found.append(Flag(name, _plain(hints[one.name]), text, benchmark.title, None, low, high))
    return found


def _plain(hint: Any) -> Any:
    """The type of an option's value: of ``tuple[int, ...] | None`` a list of int."""
    arguments = [a for a in typing.get_args(hint) if a is not type(None)]
    if typing.get_origin(hint) is tuple:
        return list[arguments[0]]  # type: ignore[valid-type]
    if type(None) in typing.get_args(hint):
        return _plain(arguments[0])
    return hint


def flags_of(benchmarks: Sequence[Benchmark], *, more: Iterable[Flag] = ()) -> dict[str, Flag]:
    """The flags of a command that evaluates on some benchmarks.

    Args:
        benchmarks: The benchmarks. A flag that several have of their own is one flag, whose help says what it means for each.
        more: Flags of the command itself, which come first.
    """
    used = ALWAYS | LOADING | {"trained_on"} | {name for one in benchmarks for name in one.uses}
    own: dict[str, list[tuple[Benchmark, Flag]]] = {}
    for benchmark in benchmarks:
        for flag in own_flags(benchmark):
            own.setdefault(flag.name, []).append((benchmark, flag))
    found = {flag.name: flag for flag in more}
    for name, flag in SHARED.items():
        if name in used or name in own:
            found[name] = flag
    for name, several in own.items():
        if name not in SHARED:
            found[name] = several[0][1]
        elif len(benchmarks) > 1:
            text = "; ".join(f"{benchmark.name}: {flag.help}" for benchmark, flag in several)
            found[name] = dataclasses.replace(SHARED[name], help=f"{SHARED[name].help}; {text}")
        else:
            found[name] = dataclasses.replace(several[0][1], panel=SHARED[name].panel, kind=SHARED[name].kind)
    return found


def with_flags(
    command: Callable[..., None], flags: Mapping[str, Flag], arguments: Mapping[str, Any] | None = None
) -> Callable[..., None]:
    """Give a command its options.

    Args:
        command: Takes the values by name, those that were not given as the flag's default.
        flags: The options.
        arguments: Positional arguments, as annotations that typer reads; None: there are none.

    Returns:
        A function that typer reads the options from.
    """

    def run(**values: Any) -> None:
        command(**values)

    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(name, kind, annotation=one) for name, one in (arguments or {}).items()]
    parameters += [
        inspect.Parameter(
            flag.name,
            kind,
            default=inspect.Parameter.empty if flag.required else flag.default,
            annotation=_annotation(flag),
        )
        for flag in sorted(flags.values(), key=lambda flag: not flag.required)
    ]
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def shared(*names: str, **changes: Mapping[str, Any]) -> dict[str, Flag]:
    """Some of the shared options, in the order of the help.

    Args:
        *names: Their names.
        **changes: Fields of `Flag` that differ for a command, by the option's name.
    """
    wanted = {*names, *changes}
    return {name: dataclasses.replace(flag, **changes.get(name, {})) for name, flag in SHARED.items() if name in wanted}


COMPLETED = frozenset({"benchmark", "engine", "kind", "objective", "preset", "prompt"})
"""Options whose values a shell completes."""


def known_values(name: str) -> list[str]:
    """The values of an option that are known by name.

    Args:
        name: One of `COMPLETED`.
    """
    from prmbench.benchmarks.registry import BENCHMARKS
    from prmbench.engines.registry import ENGINES
    from prmbench.plugins import Registry
    from prmbench.reward_models.objectives import OBJECTIVES
    from prmbench.reward_models.presets import PRESETS
    from prmbench.reward_models.registry import KINDS

    registries: dict[str, Registry[Any]] = {"benchmark": BENCHMARKS, "kind": KINDS, "objective": OBJECTIVES}
    return (
        registries[name].names()
        if name in registries
        else list({"engine": ENGINES, "preset": PRESETS, "prompt": PROMPT_TEMPLATES}[name])
    )


def _annotation(flag: Flag) -> Any:
    kind = flag.kind if flag.required or flag.default is not None else flag.kind | None
    names = flag.flags or ((f"--{flag.name.replace('_', '-')}",) if flag.kind is bool else ())
    whole = flag.kind in (int, list[int])
    low, high = (None if end is None else (int(end) if whole else end) for end in (flag.low, flag.high))
    return Annotated[
        kind,
        typer.Option(
            *names,
            help=flag.help,
            rich_help_panel=flag.panel,
            min=low,
            max=high,
            show_default=flag.default is not None and flag.kind is not bool,
            autocompletion=(lambda: known_values(flag.name)) if flag.name in COMPLETED else None,
        ),
    ]


def given(values: Mapping[str, Any], flags: Mapping[str, Flag]) -> set[str]:
    """The names of the options that were given, of those that may be left out.

    Args:
        values: The values of a command.
        flags: Its options.
    """
    return {name for name, value in values.items() if value != flags[name].default and value not in (None, [])}


def refuse_unused(benchmark: Benchmark, names: Iterable[str]) -> None:
    """Refuse options that mean nothing to a benchmark: such an option is a mistake, not to be passed over.

    Args:
        benchmark: The benchmark.
        names: The options that were given.

    Raises:
        UserError: One of them is not the benchmark's.
    """
    used = (
        ALWAYS
        | LOADING
        | {"trained_on"}
        | benchmark.uses
        | {flag.name for flag in own_flags(benchmark)}
        | {"benchmark"}
    )
    if unused := sorted(set(names) - used):
        raise UserError(f"{flag_names(unused)}: it means nothing for {benchmark.name}; leave it out")


def flag_names(names: Iterable[str]) -> str:
    """Flags as a message names them.

    Args:
        names: Names in Python.
    """
    return ", ".join(
        SHARED[n].flags[0] if n in SHARED and SHARED[n].flags else f"--{n.replace('_', '-')}" for n in names
    )


def own_options(benchmark: Benchmark, values: Mapping[str, Any]) -> dict[str, Any]:
    """A benchmark's own options of a command's values, by the field's name.

    Args:
        benchmark: The benchmark.
        values: The values of the command.

    Raises:
        ArgumentError: Several values of an option that takes one.
    """
    found = {}
    for one in dataclasses.fields(benchmark.options):
        flag = (one.metadata.get("flag") or one.name).replace("-", "_")
        value = values.get(flag)
        if value is None or value is False or value == []:  # 0 is a value
            continue
        if isinstance(value, list):
            wants_several = "tuple" in str(one.type)
            if not wants_several and (len(value) > 1 or value[0] < (one.metadata.get("low") or 0)):
                shown = " ".join(map(str, value))
                raise ArgumentError(flag, shown, "expected one number of completions, 1 or more")
            value = tuple(value) if wants_several else value[0]
        found[one.name] = value
    return found


def named_revisions(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a command, with revisions behind the names of the models that they are of.

    Args:
        values: The values.

    Raises:
        ArgumentError: A revision of a model that is not named, lies here, is a server's, or names one already.
    """
    subject = "rm" if values.get("rm") is not None else "policy"
    found = dict(values)
    for name, argument in ((subject, "revision"), ("reference", "reference_revision"), ("policy", "policy_revision")):
        revision = found.pop(argument, None)
        if revision is None:
            continue
        source = found.get(name)
        if source is None or values.get("engine") == "api":
            why = "a server's models have none" if source is not None else f"goes with --{name} and a Hub id"
            raise ArgumentError(argument, revision, f"{why}; leave it out")
        found[name] = with_revision(source, revision, f"--{name}", argument=argument)
    return found


def loading_of(values: Mapping[str, Any], benchmark: Benchmark | None = None) -> dict[str, Any]:
    """Arguments of `load_reward_model` of a command's values.

    Args:
        values: The values of the command.
        benchmark: The benchmark, where there is one: a policy's sampling is not the reward model's.
    """
    names = (
        "reference",
        "kind",
        "preset",
        "chat_template",
        "plugin",
        "objective",
        "beta",
        "margin",
        "discount",
        "decay",
        "decay_floor",
    )
    sampling = {} if benchmark is not None and "policy" in benchmark.measures else sampling_of(values)
    votes = values.get("n")
    if votes and (benchmark is None or "n" not in {flag.name for flag in own_flags(benchmark)}):
        if len(votes) > 1:
            raise ArgumentError("n", " ".join(map(str, votes)), "expected one number of votes")
        sampling["n"] = votes[0]
    return {
        **{name: values.get(name) for name in names if values.get(name) is not None},
        "load_options": load_options(values),
        "engine": values.get("engine", "hf"),
        "reference_cache": values.get("reference_cache", True),
        "tokens": tokens_of(values),
        "generation": sampling,
    }


def load_options(values: Mapping[str, Any]) -> Any:
    """Device, dtype and the like of a command's values, as `LoadOptions`.

    Args:
        values: The values of the command.
    """
    from prmbench.engines.load import LoadOptions

    service = _service(values) if values.get("engine") == "api" else None
    given = {name for name in SERVICE if values.get(name) not in (None, [], SHARED[name].default)}
    if service is None and given:
        raise UserError(f"{flag_names(sorted(given))}: goes with --engine api, a server; leave it out")
    names = (
        "device",
        "dtype",
        "trust_remote_code",
        "attn_implementation",
        "padding_free",
        "tensor_parallel",
        "data_parallel",
    )
    return LoadOptions(**{name: values[name] for name in names if name in values}, service=service)


def _service(values: Mapping[str, Any]) -> Any:
    """The server of a command's values. Raises ArgumentError where two prices are not given."""
    from prmbench.engines.api.service import Service

    prices = values.get("price") or None
    if prices is not None and len(prices) != 2:
        raise ArgumentError("price", " ".join(map(str, prices)), "expected two: of prompts, then of replies")
    names = ("base_url", "key_variable", "concurrency")
    return Service(**{name: values[name] for name in names if name in values}, prices=prices and tuple(prices))


def sampling_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling parameters that were given.

    Args:
        values: The values of the command.
    """
    names = ("temperature", "top_p", "top_k", "max_new_tokens")
    return {name: values[name] for name in names if values.get(name) is not None}


def tokens_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `TokenOptions` that were given.

    Args:
        values: The values of the command.

    Raises:
        ArgumentError: A value is of no use, such as a day that there is not.
    """
    from pydantic import ValidationError

    from prmbench.data.tokens import TokenOptions

    separator, arguments = values.get("separator"), values.get("template_arg")
    found = {
        "system": values.get("system"),
        "separator": separator.replace("\\n", "\n") if separator is not None else None,
        "step_prefix": values.get("step_prefix"),
        "template_args": dict(_template_argument(text) for text in arguments) if arguments else None,
        "end_of_turn": values.get("end_of_turn"),
        "date": values.get("date"),
    }
    found = {name: value for name, value in found.items() if value is not None}
    try:
        TokenOptions(**found)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise ArgumentError(name, first["input"], first["msg"].removeprefix("Value error, ").lower()) from None
    return found


def _template_argument(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"--template-arg {text}: expected NAME=VALUE, for example enable_thinking=false")
    try:
        return key, json.loads(value)
    except (ValueError, RecursionError):
        return key, value


def policy_loading(values: Mapping[str, Any]) -> dict[str, Any]:
    """How a policy is loaded, of a command's values.

    Args:
        values: The values of the command.
    """
    from prmbench.data.tokens import TokenOptions

    tokens = tokens_of(values)
    return {
        "load_options": load_options(values),
        "chat_template": values.get("chat_template"),
        "engine": values.get("engine", "hf"),
        "tokens": TokenOptions(**tokens) if tokens else None,
    }


def sampling_params(values: Mapping[str, Any], benchmark: Benchmark) -> Any:
    """How a policy samples, of a command's values: a preset, and what is given over it. None: nothing is given.

    Args:
        values: The values of the command.
        benchmark: The benchmark; only where it measures a policy alone is ``preset`` the policy's.

    Raises:
        ArgumentError: No such preset.
    """
    from prmbench.benchmarks.policy.run import PRESETS
    from prmbench.engines.sampling import SamplingParams

    preset = values.get("preset") if benchmark.measures == {"policy"} else None
    if preset is not None and preset not in PRESETS:
        raise ArgumentError("preset", preset, f"expected {' or '.join(PRESETS)}{nearest(preset, PRESETS)}")
    sampling = sampling_of(values)
    if preset is None and not sampling:
        return None
    base = PRESETS[preset or "paper"] if benchmark.name == "policy" else SamplingParams()
    return base.model_copy(update=sampling)
