"""A policy-optimisation run: a recipe in; a policy, its entries and its reward model out."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prmbench.benchmarks.policy.run import evaluate_policy
from prmbench.benchmarks.policy.schema import PolicyEntry
from prmbench.data.problem_sets import find_problems
from prmbench.data.problems import Problem
from prmbench.data.prompts import find_prompt
from prmbench.data.records import read_json
from prmbench.data.tokens import TraceEncoder, ids_hash
from prmbench.engines.checkpoint import checkpoint_hash, locate
from prmbench.engines.load import eos_ids
from prmbench.engines.processes import Share, current_share
from prmbench.engines.tokenizer import save_tokenizer
from prmbench.errors import UserError, first_line
from prmbench.policies.policy import load_policy
from prmbench.policies.prompt_record import PromptRecord, prompt_differences
from prmbench.quiet import quiet_libraries
from prmbench.resources import install_command
from prmbench.results.provenance import versions
from prmbench.results.schema import ENTRY_NAME, digest, read_entry
from prmbench.reward_models.card import read_card, reference_fields, write_card
from prmbench.reward_models.implicit import check_same_vocabulary, shared_logits
from prmbench.reward_models.loading import load_reward_model
from prmbench.reward_models.remote import RemoteRewardModel, is_url
from prmbench.training.model.exporter import Exporter
from prmbench.training.model.forward import give_logprobs
from prmbench.training.model.start import load_start
from prmbench.training.recipes.lora import add_adapter
from prmbench.training.recipes.optimisation import longest_sequence
from prmbench.training.rl.recipe import RLRecipe
from prmbench.training.rl.reward import (
    FrozenReward,
    Reward,
    load_implicit,
    load_updated,
    reward_kind,
    without_adapter,
)
from prmbench.training.rl.served import check_served, connect
from prmbench.training.run_folder import TrainingRun, hold_output, refuse_own_folder, states_in
from prmbench.training.watch.metrics import in_steps
from prmbench.training.watch.samples import SAMPLES_NAME, SamplesFile
from prmbench.verify import verifier_version
from prmbench.verify.golds import checked_verifier

if TYPE_CHECKING:
    from prmbench.training.model.forward import Model
    from prmbench.training.rl.trainer import PolicyTrainer, Setup

REPORT_NAME = "rl.json"
REWARD_FOLDER = "reward_model"
ENTRIES = "entries"
TESTED_TRL = ("1.16", "1.17")
"""The oldest version of TRL that the tests ran with, and the first that they did not."""


@dataclass(frozen=True)
class RLResult:
    """What a run did.

    Attributes:
        output: Folder of the policy.
        steps: Steps (rollout batches) done.
        reward_model: Folder of the reward model that was updated; None where there is none.
        evaluations: Average of every measurement, by step.
        history: Figures of every step.
    """

    output: Path
    steps: int
    reward_model: Path | None
    evaluations: dict[int, float]
    history: list[dict[str, Any]]


@dataclass(frozen=True)
class _PolicyRun(TrainingRun[RLRecipe]):
    """What every stage of a run needs.

    Attributes:
        reward_folder: Checkpoint of the reward model; None where there is none.
        reference: Checkpoint that the reward model is a ratio against; None where it is pi_old or the start.
        kind: Kind of the reward model.
        served: The reward model, where a server holds it.
        problems: Problems to train on, each with the token ids of its prompt.
        size: Number of token ids, from 0 on, that log-probs are taken over; None: all.
    """

    reward_folder: Path | None
    reference: Path | None
    kind: str | None
    served: RemoteRewardModel | None
    problems: list[tuple[Problem, NDArray[np.int64]]]
    size: int | None


def train_rl(recipe: RLRecipe, *, log: Callable[[str], None] = lambda _: None) -> RLResult | None:
    """Run a recipe.

    Writes the policy with its tokenizer and ``rl.json`` into ``output``, entries of its measurements into
    ``output/entries``, and a reward model that was updated, with the reference it is a ratio against, into
    ``output/reward_model``.

    Every `save_every` steps the whole state is kept in ``output/trainer``, the reward model's included. The same call goes
    on from there after a kill. The same call after the end does nothing.

    Args:
        recipe: The recipe.
        log: Called with a line for every stage and measurement.

    Returns:
        The result; None in processes other than the first.

    Raises:
        UserError: A model, a data file or a setting is wrong, and nothing has been trained; or a loss or a weight is no finite
            number, and what was saved before is kept.
    """
    quiet_libraries()
    share = current_share()
    log = log if share.main else lambda _: None
    _warn_of_trl(log)
    with hold_output(recipe, share):
        run = _prepare(recipe, share, log)
        report = run.report(REPORT_NAME, "policy", functools.partial(_work, run))
    if report is None:
        return None
    return RLResult(
        output=run.output,
        steps=report["steps"],
        reward_model=run.output / REWARD_FOLDER if "updated_reward_model" in report["hashes"] else None,
        evaluations={int(step): average for step, average in report["evaluations"].items()},
        history=report["history"],
    )


def _work(run: _PolicyRun, last: str | None) -> dict[str, Any]:
    """Train from a saved state, or from the start, and write the results. Returns what is to be reported."""
    if run.share.main:
        _clear(run, last)
    _train(run, last)
    run.share.wait()
    found = _finish(run) if run.share.main else {}
    run.share.wait()
    return found


def _prepare(recipe: RLRecipe, share: Share, log: Callable[[str], None]) -> _PolicyRun:
    """Find everything that the recipe names, and refuse what does not fit, before anything is loaded."""
    options = recipe.load_options
    # The policy, and the problems that leave room for a rollout.
    folder = locate(recipe.model, "recipe.model")
    template = find_prompt(recipe.prompt)
    encoder = TraceEncoder(recipe.tokenizer(folder), recipe.rendering)
    (problems,) = find_problems([recipe.problems]).values()
    checked_verifier(problems, recipe.conventions, quiet=not share.main).close()
    if recipe.evaluate is not None:
        find_problems(recipe.evaluate.problems)  # a wrong name is said now, not after training
    room = longest_sequence(recipe, folder)
    asked = [(problem, encoder.prompt_ids(template.render(problem.problem))) for problem in problems]
    fitting = [(problem, ids) for problem, ids in asked if len(ids) + recipe.max_new_tokens <= room]
    if len(fitting) < recipe.batch_size * recipe.oversample:
        raise UserError(
            f"{recipe.problems}: {len(fitting):,} problems leave room for max_new_tokens {recipe.max_new_tokens} within {room:,} "
            f"tokens; a step samples batch_size {recipe.batch_size} x oversample {recipe.oversample}: lower one of them"
        )
    # The reward model and its reference.
    reward = recipe.reward_model
    served, reward_folder = None, None
    if reward is not None and is_url(reward.model):
        check_served(reward, candidates=recipe.rules.candidates, method=recipe.method)
        longest = max(len(ids) for _, ids in fitting) + recipe.max_new_tokens
        served = connect(reward, folder, options, longest=longest, log=log)
    elif reward is not None:
        reward_folder = locate(reward.model, "recipe.reward_model.model")
    kind = served.kind if served else reward_kind(reward, reward_folder) if reward and reward_folder else None
    recipe.check_reward(kind)
    reference = None
    if reward is not None and reward.reference not in ("old", "start"):
        reference = locate(reward.reference, "recipe.reward_model.reference")
    others = [one for one in (reward_folder, reference) if one]
    refuse_own_folder(recipe, folder, *others)
    for other in others:
        check_same_vocabulary(folder, other, options)
    size = shared_logits(folder, others, options) if kind == "implicit" and not served else None
    # vLLM, and processes that can be dealt to its groups.
    if recipe.engine == "vllm":
        from trl.import_utils import is_vllm_available

        if not is_vllm_available():
            raise UserError(f"engine vllm: vLLM is not installed ({install_command('vllm')}); or set engine=hf")
        if share.count % recipe.vllm.tensor_parallel_size:
            raise UserError(
                f"vllm.tensor_parallel_size {recipe.vllm.tensor_parallel_size}: {share.count} processes cannot be dealt to groups "
                "of that size; choose a divisor"
            )
    # What someone should know of it, among it what the reward model was trained with and rollouts are not sampled with.
    for remark in (*recipe.remarks(), *prompt_differences(folder, PromptRecord.of(encoder, [recipe.prompt]))):
        log(remark)
    card = (read_card(reward_folder) if reward_folder else None) or {}
    if served:
        card = {"prompt": served.served.prompt, "chat_template": served.served.chat_template}
    for name, here in (("prompt", recipe.prompt), ("chat_template", encoder.conversation()["chat_template"])):
        there = card.get(name)
        if there not in (None, here):
            what = f"the reward model was trained with the {name.replace('_', ' ')} '{str(there)[:12]}'"
            log(f"{what}; rollouts are sampled and scored with '{here[:12]}'")
    log(f"{len(fitting):,} problems; {len(asked) - len(fitting):,} too long, left out")
    # What decides whether a saved state is of the same run.
    named = {"start": folder, "reward_model": reward_folder, "reward_model_reference": reference}
    hashes = {
        "problems": digest(sorted(problem.digest() for problem, _ in fitting)),
        "tokens": ids_hash(ids for _, ids in fitting),
        **{name: checkpoint_hash(one) for name, one in named.items() if one},
        **({"reward_model": served.served.identity} if served else {}),
    }
    return _PolicyRun(
        recipe, folder, encoder, hashes, share, log, reward_folder, reference, kind, served, fitting, size
    )


def _clear(run: _PolicyRun, last: str | None) -> None:
    """Delete what earlier runs left in the output folder; of this one, entries measured after the state that it goes on from."""
    done = int(last.rpartition("-")[2]) // run.recipe.minibatches if last is not None else -1
    for entry in (run.output / ENTRIES).glob("step-*"):
        if int(entry.name.partition("-")[2]) > done:
            shutil.rmtree(entry)
    if last is None:
        shutil.rmtree(run.output / REWARD_FOLDER, ignore_errors=True)
        (run.output / REPORT_NAME).unlink(missing_ok=True)


def _warn_of_trl(log: Callable[[str], None]) -> None:
    import trl
    from packaging.version import Version

    low, high = map(Version, TESTED_TRL)
    if not low <= Version(trl.__version__) < high:
        log(f"warning: TRL {trl.__version__} is not a version that this was tested with ({low} to below {high})")


def _train(run: _PolicyRun, last: str | None) -> None:
    """Train, from a saved state where there is one. The last step's state is saved whatever `save_every` says."""
    from transformers import set_seed

    from prmbench.training.rl.trainer import REWARD_STATE, Setup
    from prmbench.training.watch.callbacks import watch

    recipe = run.recipe
    # The policy.
    model: Any = load_start(run.recipe, run.folder)
    model.requires_grad_(True)
    stop = frozenset({run.encoder.end_of_turn, *eos_ids(model)})
    give_logprobs(model, recipe.model, run.size)
    if recipe.lora is not None:
        set_seed(recipe.seed)
        model = add_adapter(model, recipe.lora)
    # What the trainer needs beside it.
    follows_old = recipe.learns_reward and recipe.reward_model is not None and recipe.reward_model.reference == "old"
    setup = Setup(
        recipe=recipe,
        problems=run.problems,
        encoder=run.encoder,
        stop=stop,
        processes=run.share.count,
        states=run.states,
        log=run.log,
        make_reward=(lambda trainer: _load_reward(run, trainer)) if recipe.reward_model else None,
        make_start=(lambda trainer: _start(run, trainer)) if recipe.rules.from_start else None,
        after_step=lambda trainer, step: _measure_between(run, trainer, step),
        # pi_old of the last step is what the reward model's last update makes it a ratio against.
        before_last=(lambda trainer: _export_policy(run, trainer, run.output / REWARD_FOLDER / "reference"))
        if follows_old
        else (lambda _: None),
        samples=_open_samples(run, last),
    )
    trainer = _make_trainer(setup, model, watch(run))
    reward = trainer.learning_reward
    try:
        if last is None:
            trainer.rehearse(run.states / "rehearsal", functools.partial(_export, run))
        elif reward is not None:
            reward.load_state(Path(last) / REWARD_STATE)
        trainer.train(resume_from_checkpoint=last)
    finally:
        trainer.verifier.close()


def _make_trainer(setup: Setup, model: Any, callbacks: list[Any]) -> PolicyTrainer:
    """Make the trainer. With a vLLM server it waits for that server.

    Raises:
        UserError: No server answers, or it is not set up for training.
    """
    from prmbench.training.rl.trainer import PolicyTrainer

    vllm = setup.recipe.vllm
    try:
        return PolicyTrainer(setup, model, callbacks)
    except (OSError, RuntimeError) as error:
        if setup.recipe.engine != "vllm" or vllm.mode != "server":
            raise
        raise UserError(
            f"vllm.server_base_url {vllm.server_base_url}: {first_line(error)} (docs/cluster.md says how it is started)"
        ) from error


def _open_samples(run: _PolicyRun, last: str | None) -> SamplesFile | None:
    """Return the file of rollouts to look at, without those of steps after the state that the run goes on from."""
    every = run.recipe.samples_every
    if every is None or not run.share.main:
        return None
    done = int(last.rpartition("-")[2]) // run.recipe.minibatches if last is not None else 0
    return SamplesFile(run.output / SAMPLES_NAME, every, done)


def _load_reward(run: _PolicyRun, trainer: PolicyTrainer) -> Reward:
    import torch

    recipe, options, folder = run.recipe, run.recipe.reward_model, run.reward_folder
    if run.served is not None:
        return FrozenReward(run.served)
    assert options is not None
    assert folder is not None
    if run.kind != "implicit":
        return FrozenReward(load_reward_model(folder, kind=run.kind, load_options=run.recipe.scoring_options))
    reference, over_base = None, False
    if options.reference != "old":
        of_reference = run.hashes["start" if options.reference == "start" else "reward_model_reference"]
        over_base = recipe.learns_reward and options.lora is not None and of_reference == run.hashes["reward_model"]
        if not over_base:
            reference = _frozen(run, trainer, run.reference) if run.reference else _start(run, trainer)
    with torch.random.fork_rng():
        torch.manual_seed(
            recipe.seed
        )  # TRL gives each process another seed; the first weights of an adapter are the same in all
        return load_implicit(
            options,
            folder,
            run.recipe.load_options,
            reference,
            trainer.accelerator,
            over_base=over_base,
            size=run.size,
            released=recipe.details.released_loss,
        )


def _start(run: _PolicyRun, trainer: PolicyTrainer) -> Model:
    """Return the model that the policy started from. With an adapter it is the policy without it."""
    if run.recipe.lora is None:
        return _frozen(run, trainer, run.folder)
    policy = trainer.accelerator.unwrap_model(trainer.model)
    return without_adapter(policy, lambda **call: trainer.model_wrapped(**call))


def _frozen(run: _PolicyRun, trainer: PolicyTrainer, folder: Path) -> Model:
    from prmbench.training.model.sharding import load_frozen

    return load_frozen(folder, run.recipe.load_options, trainer.accelerator, run.size)


def _export_policy(run: _PolicyRun, trainer: PolicyTrainer, output: Path) -> None:
    """Write the policy as it is now. All processes must call it."""
    saved = run.states / "policy"
    trainer.save_model(str(saved))
    trainer.accelerator.wait_for_everyone()
    if run.share.main:
        _export(run, saved, output)
    trainer.accelerator.wait_for_everyone()


def _export(run: _PolicyRun, saved: Path, output: Path) -> None:
    """Make a checkpoint of what the trainer saved, an adapter merged."""
    recipe = run.recipe
    tokenizer = recipe.tokenizer(run.folder)  # TRL has changed the trainer's
    load = functools.partial(load_start, recipe, train=False)
    Exporter(run.folder, load, tokenizer, recipe.merges, recipe.coarse).write(saved, output)
    PromptRecord.of(run.encoder, [recipe.prompt]).write(output)


def _measure_between(run: _PolicyRun, trainer: PolicyTrainer, step: int) -> None:
    """Measure the policy every so many steps, on a checkpoint of it. All processes must call it."""
    options = run.recipe.evaluate
    if options is not None and options.every is not None and step % options.every == 0:
        folder = run.states / "measured"
        _export_policy(run, trainer, folder)
        if run.share.main:
            _measure(run, step, folder)
        trainer.accelerator.wait_for_everyone()


def _measure(run: _PolicyRun, step: int, checkpoint: Path) -> None:
    """Measure a checkpoint with the code of ``prmbench eval --policy``."""
    recipe, options = run.recipe, run.recipe.evaluate
    assert options is not None
    entry, _ = evaluate_policy(
        load_policy(str(checkpoint), find_prompt(recipe.prompt), recipe.scoring_options, tokens=recipe.tokens),
        find_problems(options.problems, options.limit),
        name=f"{run.output.name}-step-{step}",
        source=run.output.name,
        output=run.output / ENTRIES / f"step-{step}",
        n=options.n,
        params=options.params(),
        prompt=recipe.prompt,
        verifier=recipe.conventions,
        seed=recipe.seed,
        n_resamples=options.resamples,
        batch_tokens=recipe.rollout_tokens,
        limit=options.limit,
    )
    average = entry.metrics.mean["average"]
    run.log(f"step {step:,}: avg@{options.n} {average.value:.1%} [{average.low:.1%}, {average.high:.1%}]")


def _averages(output: Path) -> dict[int, float]:
    """Averages of all measurements by step, from their entries, those of before an interruption too."""
    entries = {
        int(path.parent.name.partition("-")[2]): read_entry(path, PolicyEntry)
        for path in (output / ENTRIES).glob(f"step-*/{ENTRY_NAME}")
    }
    return {step: entries[step].metrics.mean["average"].value or 0.0 for step in sorted(entries)}


def _finish(run: _PolicyRun) -> dict[str, Any]:
    """Make the results of the state that was saved last. Returns what is to be reported."""
    recipe, saved = run.recipe, states_in(run.states)[0]
    state = read_json(saved / "trainer_state.json")
    steps = state["global_step"] // recipe.minibatches
    # The policy, its last measurement, and the reward model.
    _export(run, saved, run.output)
    if recipe.evaluate is not None:
        _measure(run, steps, run.output)
    written: dict[str, Path] = {}
    if recipe.learns_reward:
        written["updated_reward_model"] = folder = _export_reward(run, saved)
        if (folder / "reference").is_dir():
            written["updated_reward_model_reference"] = folder / "reference"
    # The figures of every step, counted in steps instead of updates.
    history = [in_steps(row, recipe.minibatches) for row in state["log_history"] if "rollouts/accuracy" in row]
    return {
        "hashes": {name: checkpoint_hash(folder) for name, folder in written.items()},
        "versions": {**versions(), "trl": metadata.version("trl")},
        "verifier": verifier_version(recipe.conventions),
        "steps": steps,
        "evaluations": _averages(run.output),
        "history": history,
    }


def _export_reward(run: _PolicyRun, saved: Path) -> Path:
    """Write a reward model that was updated, with the reference it is a ratio against, ready for ``prmbench eval --rm``."""
    from prmbench.training.rl.trainer import REWARD_STATE

    options, output = run.recipe.reward_model, run.output / REWARD_FOLDER
    assert options is not None
    assert run.reward_folder is not None
    load = dataclasses.replace(run.recipe.load_options, device="cpu")  # beside the models in training
    model, card = load_updated(options, run.reward_folder, load, saved / REWARD_STATE)
    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output)
    save_tokenizer(run.recipe.tokenizer(run.folder), output)
    # The card: what it is a ratio against now, and the prompts that it was updated with.
    named = {"old": str(output / "reference"), "start": run.recipe.model}
    reference = named.get(options.reference, options.reference)
    fields = reference_fields(reference, checkpoint_hash(locate(reference, "reward_model.reference")), output)
    prompts = {"prompt": run.recipe.prompt, "tokens": run.recipe.tokens}
    prompts["chat_template"] = run.encoder.conversation()["chat_template"]
    write_card(output, card.model_copy(update={**fields, **prompts}))
    return output
