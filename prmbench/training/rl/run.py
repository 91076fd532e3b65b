"""A policy-optimisation run: a recipe in; a policy, its entries and its reward model out."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prmbench.benchmarks.policy.run import evaluate_policy
from prmbench.benchmarks.policy.schema import PolicyEntry
from prmbench.data.problem_sets import find_problems
from prmbench.data.prompts import find_prompt
from prmbench.data.tokens import TraceEncoder, ids_hash
from prmbench.engines.loading import (
    LoadOptions,
    checkpoint_hash,
    eos_ids,
    load_causal_lm,
    load_tokenizer,
    locate,
)
from prmbench.engines.processes import Share, current_share
from prmbench.engines.sampling import SamplingParams
from prmbench.errors import UserError
from prmbench.policies.policy import load_policy
from prmbench.quiet import quiet_libraries
from prmbench.results.provenance import versions
from prmbench.results.schema import ENTRY_NAME, digest, read_entry
from prmbench.results.store import write_atomically
from prmbench.reward_models.card import write_card
from prmbench.reward_models.implicit import check_same_logits, check_same_vocabulary
from prmbench.reward_models.loading import load_reward_model
from prmbench.training.model.export import export_weights
from prmbench.training.recipes.lora import add_adapter
from prmbench.training.recipes.optimisation import longest_sequence, shared_arguments
from prmbench.training.rl.recipe import RLRecipe
from prmbench.training.rl.reward import (
    FrozenReward,
    ImplicitReward,
    Reward,
    check_reward,
    load_implicit,
    reward_kind,
)
from prmbench.training.run_folder import claim, hold_output, last_state, refuse_own_folder
from prmbench.verify import verifier_version

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prmbench.training.rl.micro import Model
    from prmbench.training.rl.trainer import PolicyTrainer

REPORT_NAME = "rl.json"
REWARD_FOLDER = "reward_model"
ENTRIES = "entries"
TESTED_TRL = ("1.16", "1.17")
"""At least, and below: what the tests ran."""


@dataclass(frozen=True)
class RLResult:
    """What a run did. evaluations: average of every measurement, by step; history: figures of every step."""

    output: Path
    steps: int
    reward_model: Path | None
    evaluations: dict[int, float]
    history: list[dict[str, Any]]


@dataclass(frozen=True)
class _Run:
    """What every stage needs. folder: of the policy that is started from. states: of saved states."""

    recipe: RLRecipe
    folder: Path
    options: LoadOptions
    encoder: TraceEncoder
    states: Path
    log: Callable[[str], None]

    @property
    def output(self) -> Path:
        """Where the policy is written."""
        return Path(self.recipe.output)


def train_rl(recipe: RLRecipe, *, log: Callable[[str], None] = lambda _: None) -> RLResult | None:
    """Run a recipe. Writes the policy with its tokenizer and ``rl.json`` into ``output``, entries of its measurements into
    ``output/entries``, and a reward model that was updated, with the reference it is a ratio against, into ``output/reward_model``.

    Every `save_every` steps the whole state is kept in ``output/trainer``, the reward model's included; the same call goes on from
    there after a kill.

    Args:
        log: called with a line for every stage and measurement.

    Returns:
        The result; None in processes other than the first.

    Raises:
        UserError: a wrong model, data file or setting; nothing has been trained then.
    """
    quiet_libraries()
    share = current_share()
    _warn_of_trl(log if share.main else lambda _: None)
    with hold_output(recipe, share):
        return _train(recipe, share, log)


def _train(recipe: RLRecipe, share: Share, log: Callable[[str], None]) -> RLResult | None:
    options = LoadOptions(dtype=recipe.dtype)
    folder = locate(recipe.model, "model")
    template = find_prompt(recipe.prompt)
    encoder = TraceEncoder(
        load_tokenizer(folder, options), recipe.tokens.model_copy(update={"system": template.system})
    )
    (problems,) = find_problems([recipe.problems]).values()
    if recipe.evaluate is not None:
        find_problems(recipe.evaluate.problems)  # a wrong name is said now, not after training
    room = longest_sequence(recipe, folder)
    asked = [(problem, encoder.prompt_ids(template.render(problem.problem))) for problem in problems]
    fitting = [(problem, ids) for problem, ids in asked if len(ids) + recipe.max_new_tokens <= room]
    wanted = recipe.batch_size * recipe.oversample
    if len(fitting) < wanted:
        raise UserError(
            f"{recipe.problems}: {len(fitting):,} problems leave room for max_new_tokens {recipe.max_new_tokens} within {room:,} "
            f"tokens; a step samples batch_size {recipe.batch_size} x oversample {recipe.oversample}: lower one of them"
        )
    reward_folder = locate(recipe.reward_model.model, "reward_model.model") if recipe.reward_model else None
    kind = reward_kind(recipe.reward_model, reward_folder) if recipe.reward_model and reward_folder else None
    check_reward(recipe, recipe.reward_model, kind)
    reference = _reference_folder(recipe)
    refuse_own_folder(recipe, *(one for one in (folder, reward_folder, reference) if one))
    for other in (reward_folder, reference):
        if other is not None:
            check_same_vocabulary(folder, other, options)
            if kind == "implicit":
                check_same_logits(folder, other)
    run = _Run(recipe, folder, options, encoder, Path(recipe.output) / "trainer", log if share.main else lambda _: None)
    run.log(f"{len(fitting):,} problems; {len(asked) - len(fitting):,} too long, left out")
    hashes = {
        "start": checkpoint_hash(folder),
        "problems": digest(sorted(problem.digest() for problem, _ in fitting)),
        "tokens": ids_hash(ids for _, ids in fitting),
    }
    if reward_folder:
        hashes["reward_model"] = checkpoint_hash(reward_folder)
    if reference:
        hashes["reward_model_reference"] = checkpoint_hash(reference)
    if share.main:
        claim(run.states, recipe, hashes)
    share.wait()
    last = last_state(run.states)
    if share.main:
        _clear(run, last)
    trainer = _make_trainer(run, fitting, kind, reward_folder)
    evaluations = _Evaluations(run)
    trainer.add_callback(evaluations.callback(trainer))
    if last is not None:
        run.log(f"going on from {last}")
        reward = trainer.setup.reward
        if isinstance(reward, ImplicitReward) and reward.optimizer is not None:
            from prmbench.training.rl.trainer import REWARD_STATE

            reward.load_state(Path(last) / REWARD_STATE)
    try:
        trainer.train(resume_from_checkpoint=last)
    finally:
        trainer.verifier.close()
    return _finish(run, trainer, evaluations, hashes)


def _reference_folder(recipe: RLRecipe) -> Path | None:
    """The checkpoint that a reward model is a ratio against, where it is neither pi_old nor the start."""
    if recipe.reward_model is None or recipe.reward_model.reference in ("old", "start"):
        return None
    return locate(recipe.reward_model.reference, "reward_model.reference")


def _clear(run: _Run, last: str | None) -> None:
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


def _make_trainer(run: _Run, asked: list[Any], kind: str | None, reward_folder: Path | None) -> PolicyTrainer:
    from datasets import Dataset
    from transformers import PrinterCallback, set_seed
    from trl import GRPOConfig
    from trl.import_utils import is_vllm_available

    from prmbench.training.model.forward import give_logprobs
    from prmbench.training.model.progress import progress_callback
    from prmbench.training.rl.trainer import PolicyTrainer, Setup

    recipe = run.recipe
    if recipe.engine == "vllm" and not is_vllm_available():
        raise UserError("engine vllm: vLLM is not installed (pip install 'prmbench[vllm]'); or set engine=hf")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    parts = recipe.micro_batches(processes) * recipe.minibatches
    model: Any = load_causal_lm(run.folder, run.options)
    model.requires_grad_(True)
    stop = frozenset({run.encoder.end_of_turn, *eos_ids(model)})
    give_logprobs(model, recipe.model)
    if recipe.lora is not None:
        set_seed(recipe.seed)
        model = add_adapter(model, recipe.lora)
    updates = recipe.updates(len(asked))
    config = GRPOConfig(
        **shared_arguments(recipe, run.states, updates),
        max_steps=updates,
        per_device_train_batch_size=recipe.batch_size * recipe.oversample * recipe.n // (processes * parts),
        gradient_accumulation_steps=recipe.micro_batches(processes),
        steps_per_generation=parts,
        num_generations=recipe.n,
        max_completion_length=recipe.max_new_tokens,
        temperature=recipe.temperature,
        beta=0.0,
        loss_type="grpo",
        disable_dropout=True,
        remove_unused_columns=False,
        save_steps=recipe.save_every * recipe.minibatches,
        logging_steps=recipe.minibatches,
        ddp_find_unused_parameters=False,
        ddp_timeout=6 * 3600,  # processes wait while the first one evaluates
        generation_kwargs={"stop_token_ids": sorted(stop)} if recipe.engine == "vllm" else None,
        use_vllm=recipe.engine == "vllm",
        vllm_mode="colocate",
    )
    setup = Setup(
        algorithm=recipe,
        problems=[problem for problem, _ in asked],
        prompts=[ids for _, ids in asked],
        template=find_prompt(recipe.prompt),
        encoder=run.encoder,
        stop=stop,
        params=SamplingParams(max_new_tokens=recipe.max_new_tokens),
        n=recipe.n,
        kept=recipe.batch_size,
        minibatches=recipe.minibatches,
        micro_batches=recipe.micro_batches(processes),
        batch_tokens=recipe.rollout_tokens,
        seed=recipe.seed,
        update=recipe.reward_model.update if recipe.reward_model else "frozen",
    )
    trainer = PolicyTrainer(
        setup,
        model=model,
        args=config,
        reward_funcs=[_unused],
        train_dataset=Dataset.from_list([{"prompt": "", "index": i} for i in range(len(asked))]),
        processing_class=run.encoder.tokenizer,
        callbacks=[progress_callback(run.log)] if current_share().main else [],
    )
    trainer.remove_callback(PrinterCallback)
    if recipe.method == "spro":
        trainer.step.start = _frozen(run, "start", trainer)
    if recipe.reward_model is not None and reward_folder is not None:
        reward = _load_reward(run, kind, reward_folder, trainer)
        trainer.setup.reward = trainer.step.reward = reward
        if isinstance(reward, ImplicitReward) and reward.reference is None and reward.optimizer is not None:
            setup.before_last = _keep_reference(run)
    return trainer


def _unused(**_: Any) -> list[float]:
    """TRL wants a reward function; ours come from the verifier, in the batch."""
    raise AssertionError("TRL's own scoring was called")


def _load_reward(run: _Run, kind: str | None, folder: Path, trainer: PolicyTrainer) -> Reward:
    options = run.recipe.reward_model
    assert options is not None
    load = LoadOptions(dtype=run.recipe.dtype, device=str(trainer.accelerator.device))
    if kind != "implicit":
        return FrozenReward(load_reward_model(folder, kind=kind, load_options=load))
    reference = None if options.reference == "old" else _frozen(run, options.reference, trainer)
    return load_implicit(options, folder, load, reference, trainer.accelerator.autocast, run.recipe.max_grad_norm)


def _frozen(run: _Run, name: str, trainer: PolicyTrainer) -> Model:
    """A model that stays as it is: ``start``, where the policy started from, or a checkpoint."""
    from prmbench.training.model.forward import give_logprobs

    if name == "start" and run.recipe.lora is not None:
        policy = trainer.accelerator.unwrap_model(trainer.model)

        def without_adapter(**call: Any) -> Any:
            with policy.disable_adapter():
                return trainer.model_wrapped(**call)

        return without_adapter
    folder = run.folder if name == "start" else locate(name, "reward_model.reference")
    load = LoadOptions(dtype=run.recipe.dtype, device=str(trainer.accelerator.device))
    model = load_causal_lm(folder, load).requires_grad_(False)
    give_logprobs(model, name)
    return model


def _keep_reference(run: _Run) -> Callable[[PolicyTrainer], None]:
    """Saves pi_old of the last step: what the reward model's last update made it a ratio against."""

    def keep(trainer: PolicyTrainer) -> None:
        _export_policy(run, trainer, run.output / REWARD_FOLDER / "reference")

    return keep


def _export_policy(run: _Run, trainer: PolicyTrainer, output: Path) -> None:
    """Write the policy as it is now. All processes must call it."""
    saved = run.states / "policy"
    trainer.save_model(str(saved))
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        merges = run.recipe.lora is not None

        def base() -> PreTrainedModel:
            return load_causal_lm(run.folder, run.options)

        export_weights(saved, output, base if merges else None, load_tokenizer(run.folder, run.options))
    trainer.accelerator.wait_for_everyone()


class _Evaluations:
    """Measures the policy with the code of ``prmbench eval --policy``, on a checkpoint of it."""

    def __init__(self, run: _Run) -> None:
        self.run = run

    def measure(self, trainer: PolicyTrainer, step: int, checkpoint: Path) -> None:
        """Measure a checkpoint; the first process alone."""
        recipe, options = self.run.recipe, self.run.recipe.evaluate
        assert options is not None
        if trainer.is_world_process_zero():
            load = LoadOptions(dtype=recipe.dtype, device=str(trainer.accelerator.device))
            policy = load_policy(str(checkpoint), find_prompt(recipe.prompt), load, tokens=recipe.tokens)
            entry, _ = evaluate_policy(
                policy,
                find_problems(options.problems, options.limit),
                name=f"{self.run.output.name}-step-{step}",
                source=self.run.output.name,
                output=self.run.output / ENTRIES / f"step-{step}",
                n=options.n,
                params=options.params(),
                prompt=recipe.prompt,
                seed=recipe.seed,
                n_resamples=options.resamples,
                batch_tokens=recipe.rollout_tokens,
                limit=options.limit,
            )
            average = entry.metrics.mean["average"]
            self.run.log(f"step {step:,}: avg@{options.n} {average.value:.1%} [{average.low:.1%}, {average.high:.1%}]")
        trainer.accelerator.wait_for_everyone()

    def found(self) -> dict[int, float]:
        """Average by step, from the entries: those of before an interruption too."""
        paths = (self.run.output / ENTRIES).glob(f"step-*/{ENTRY_NAME}")
        entries = {int(path.parent.name.partition("-")[2]): read_entry(path, PolicyEntry) for path in paths}
        return {step: entries[step].metrics.mean["average"].value or 0.0 for step in sorted(entries)}

    def callback(self, trainer: PolicyTrainer) -> Any:
        """Measures every so many steps; the last measurement is of the finished checkpoint."""
        from transformers import TrainerCallback

        evaluations, recipe = self, self.run.recipe

        class Measure(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                options = recipe.evaluate
                if options is None or options.every is None or state.global_step >= state.max_steps:
                    return
                step, rest = divmod(state.global_step, recipe.minibatches)
                if rest == 0 and step % options.every == 0:
                    folder = evaluations.run.states / "measured"
                    _export_policy(evaluations.run, trainer, folder)
                    evaluations.measure(trainer, step, folder)

        return Measure()


def _finish(run: _Run, trainer: PolicyTrainer, evaluations: _Evaluations, hashes: dict[str, str]) -> RLResult | None:
    recipe = run.recipe
    steps = trainer.state.global_step // recipe.minibatches
    _export_policy(run, trainer, run.output)
    if recipe.evaluate is not None:
        evaluations.measure(trainer, steps, run.output)
    if not trainer.is_world_process_zero():
        return None
    reward_folder = _export_reward(run, trainer)
    history = [row for row in trainer.state.log_history if "rollouts/accuracy" in row]
    for row in history:
        row["step"] = row["step"] // recipe.minibatches
        row["seconds/updates"] = row.pop("step_time", 0.0) * recipe.minibatches  # TRL's is of one update
    hashes = {**hashes, "policy": checkpoint_hash(run.output)}
    if reward_folder is not None:
        hashes["updated_reward_model"] = checkpoint_hash(reward_folder)
        if (reward_folder / "reference").is_dir():
            hashes["updated_reward_model_reference"] = checkpoint_hash(reward_folder / "reference")
    report = {
        "recipe": recipe.model_dump(),
        "samples": recipe.n,
        "steps": steps,
        "evaluations": evaluations.found(),
        "hashes": hashes,
        "versions": {**versions(), "trl": metadata.version("trl")},
        "verifier": verifier_version(),
        "history": history,
    }
    write_atomically(run.output / REPORT_NAME, json.dumps(report, indent=2) + "\n")
    shutil.rmtree(run.states, ignore_errors=True)
    return RLResult(run.output, steps, reward_folder, evaluations.found(), history)


def _export_reward(run: _Run, trainer: PolicyTrainer) -> Path | None:
    """Write a reward model that was updated, with the reference it is a ratio against, ready for ``prmbench eval --rm``."""
    options, reward = run.recipe.reward_model, trainer.setup.reward
    if options is None or not isinstance(reward, ImplicitReward) or reward.optimizer is None:
        return None
    output = run.output / REWARD_FOLDER
    output.mkdir(parents=True, exist_ok=True)
    reward.write(output)
    load_tokenizer(run.folder, run.options).save_pretrained(output)
    if options.reference == "old":
        reference = "reference"
    else:
        source = run.folder if options.reference == "start" else Path(options.reference)
        reference = os.path.relpath(source.resolve(), output.resolve()) if source.is_dir() else options.reference
    write_card(output, reward.card.model_copy(update={"reference": reference}))
    return output
