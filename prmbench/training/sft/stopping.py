"""Ends supervised fine-tuning when the policy is good enough: its pass rate is measured every few steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedModel, TrainerCallback

from prmbench.data.problems import load_problems
from prmbench.data.prompts import find_prompt
from prmbench.data.tokens import TraceEncoder
from prmbench.engines.hf.engine import HFEngine
from prmbench.engines.hf.states import half_for_flash
from prmbench.engines.sampling import SamplingParams
from prmbench.engines.tokenizer import token_ids
from prmbench.policies.policy import Policy
from prmbench.policies.rollout import sample
from prmbench.training.sft.recipe import StopOptions
from prmbench.verify import Verifier
from prmbench.verify.golds import check_golds

BATCH_TOKENS = 32_768


class StopAtPassRate(TrainerCallback):
    """Measures the pass rate every few steps and stops the trainer when it is high enough.

    Measurements are rows of the trainer's log, so that they are kept with its state.
    """

    def __init__(
        self,
        options: StopOptions,
        encoder: TraceEncoder,
        verifier: Verifier,
        seed: int,
        log: Callable[[str], None],
    ) -> None:
        """Read the problems to measure on.

        Args:
            options: When to measure, on what, and when to stop.
            encoder: Encodes problems with the policy's tokenizer.
            verifier: Says which completions are right.
            seed: Seed of sampling.
            log: Called with a line for every measurement.

        Raises:
            UserError: The problems cannot be read, a gold answer is empty, or the prompt template is not known.
        """
        self.options, self.encoder, self.verifier, self.seed, self.log = options, encoder, verifier, seed, log
        self.prompt = find_prompt(options.prompt)
        self.problems = load_problems(options.problems, options.n)
        warning = check_golds(self.problems, verifier)
        if warning is not None:
            log(f"warning: {warning}")
        system = self.prompt.system
        self.prompts = [encoder.prompt_ids(self.prompt.render(one.problem), system) for one in self.problems]

    def pass_rate(self, model: PreTrainedModel) -> float:
        """Measure the share of right completions at temperature 1, one completion a problem.

        Args:
            model: The policy as it is now; an adapter is in effect.
        """
        was_training = model.training
        model.eval()
        engine = HFEngine(model, allowed=token_ids(self.encoder.tokenizer))
        policy = Policy(engine, self.encoder, "the model in training", "")
        batches = sample(
            policy,
            self.problems,
            self.prompts,
            self.verifier,
            style=self.prompt.style,
            n=1,
            params=SamplingParams(max_new_tokens=self.options.max_new_tokens),
            seed=self.seed,
            batch_tokens=BATCH_TOKENS,
        )
        with half_for_flash(model):
            right = [rollout.correct for batch in batches for rollout in batch]
        model.train(was_training)
        return sum(right) / len(right)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Measure, where it is time to; the trainer calls this after every update.

        Args:
            args: The trainer's arguments.
            state: The trainer's state, which says the step.
            control: What the trainer is told to do next.
            model: The policy.
            **_: Other things that the trainer passes.
        """
        if state.global_step % self.options.every:
            return
        rate = self.pass_rate(model)
        state.log_history.append({"step": state.global_step, "pass_rate": rate})
        self.log(f"step {state.global_step:,}: pass rate {rate:.1%}")
        self.on_train_begin(args, state, control)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop where the last measurement is high enough; a run that goes on from its end trains nothing more.

        Args:
            args: The trainer's arguments.
            state: The trainer's state, which has the measurements.
            control: What the trainer is told to do next.
            **_: Other things that the trainer passes.
        """
        rate = last_pass_rate(state.log_history)
        if rate is not None and rate >= self.options.pass_rate:
            control.should_training_stop = True


def last_pass_rate(history: Sequence[dict[str, Any]]) -> float | None:
    """Return the last measured pass rate; None where none was measured.

    Args:
        history: A trainer's log.
    """
    return next((row["pass_rate"] for row in reversed(history) if "pass_rate" in row), None)
