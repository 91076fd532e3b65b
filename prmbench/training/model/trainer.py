"""What all trainers share: they never go on from a broken state, and never leave one behind that looks whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from prmbench.data.records import read_json
from prmbench.errors import UserError, first_line
from prmbench.results.store import write_atomically
from prmbench.training.model.probe import PROBE_NAME, probe
from prmbench.training.model.sharding import allow_fsdp_on_cpu, keep_float32
from prmbench.training.run_folder import mark_whole, states_in, writing
from prmbench.training.watch.stopping import StopRequest, stop_signals

# Several processes on a CPU call their device cpu:0, cpu:1 and so on, which torch.load does not know as a place to load to.
torch.serialization.register_package(
    5, lambda _: None, lambda storage, place: storage if place.startswith("cpu:") else None
)


BEST_NAME = "best.json"


class _SaveAndStop(TrainerCallback):
    """Has the state saved, and the training ended, once a step is finished and any process was asked to stop."""

    def __init__(self, trainer: GuardedTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called after every update."""
        trainer = self.trainer
        asked = trainer.stop_request.asked
        if trainer.accelerator.num_processes > 1:
            mine = torch.tensor(float(asked), device=trainer.accelerator.device)
            asked = bool(trainer.accelerator.reduce(mine, reduction="sum") > 0)
        if asked and state.global_step % trainer.updates_of_step == 0:
            control.should_save = control.should_training_stop = trainer.stopped = True


class GuardedTrainer(Trainer):
    """A transformers Trainer that stops before anything wrong is written, and that goes on from any state it has saved.

    - A loss, a weight or a measurement that is no number stops the run; what was saved before is kept.
    - A saved state is marked as whole when all its files are written (`prmbench.training.run_folder.mark_whole`).
    - A run that was killed after its last update trains no further one.
    - The loss of the whole run, ``train_loss``, counts the updates from before a kill.
    - What is saved carries a probe of the model, with which a checkpoint made of it is compared.
    - Nothing is printed: progress is shown by a callback of ours.
    - Ctrl-C and SIGTERM end the run after the step that it is at, and after its state is saved.
    """

    has_head = False
    updates_of_step = 1

    def __init__(self, **arguments: Any) -> None:
        """Make the trainer.

        Args:
            **arguments: Arguments of the trainer that this class stands before.
        """
        allow_fsdp_on_cpu()
        super().__init__(**arguments)
        keep_float32(self.accelerator)
        unset_hf_deepspeed_config()  # with it, ZeRO-3 would divide every checkpoint that is loaded from here on
        self.remove_callback(PrinterCallback)
        self.add_callback(_SaveAndStop(self))
        self.stop_request, self.stopped = StopRequest(), False

    def train(self, *arguments: Any, **others: Any) -> Any:
        """Train.

        Args:
            *arguments: As transformers has them.
            **others: As transformers has them.

        Returns:
            What transformers returns.

        Raises:
            KeyboardInterrupt: The run was asked to stop; its state is saved, and the message says where.
        """
        with stop_signals(quiet=not self.is_world_process_zero() or parent_process() is not None) as self.stop_request:
            result = super().train(*arguments, **others)
        if self.stopped:
            state = states_in(Path(self.args.output_dir))[0]
            step = self.state.global_step // self.updates_of_step
            raise KeyboardInterrupt(
                f"stopped after step {step:,}, whose state is saved in {state}: the same command goes on from there"
            )
        return result

    def training_step(self, *arguments: Any, **others: Any) -> Tensor:
        """Compute a loss and its gradient.

        Args:
            *arguments: As transformers has them.
            **others: As transformers has them.

        Returns:
            The loss.

        Raises:
            UserError: It is not a finite number.
        """
        loss: Tensor = super().training_step(*arguments, **others)
        if not bool(loss.isfinite()):
            raise self.broken(f"the loss is {float(loss)}")
        return loss

    def evaluate(self, *arguments: Any, **others: Any) -> dict[str, float]:
        """Measure the model on held-out data.

        Args:
            *arguments: As transformers has them.
            **others: As transformers has them.

        Returns:
            Metrics by name.

        Raises:
            UserError: The held-out loss is not a finite number.
        """
        metrics: dict[str, float] = super().evaluate(*arguments, **others)
        loss = metrics.get("eval_loss", 0.0)
        if not torch.tensor(loss).isfinite():
            raise self.broken(f"the held-out loss is {loss}")
        return metrics

    def broken(self, what: str) -> UserError:
        """Word a run that met a number that is none.

        Args:
            what: What is not a finite number.
        """
        kept = states_in(Path(self.args.output_dir))
        return UserError(
            f"{what} at step {self.state.global_step}; lower learning_rate, and check the checkpoint and the data "
            f"({f'what was saved before is kept: {kept[0]}' if kept else 'no state had been saved'})"
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log figures.

        Args:
            logs: Figures by name.
            start_time: As transformers has it.
        """
        if "train_loss" in logs:
            logs["train_loss"] = self._whole_loss()
        super().log(logs, start_time)

    def _whole_loss(self) -> float:
        """The mean over all updates. The log has the mean since the row before, and a row at every saved state."""
        total, done = 0.0, 0
        for row in self.state.log_history:
            if "loss" in row:
                total, done = total + row["loss"] * (row["step"] - done), row["step"]
        return total / max(done, 1)

    def _run_epoch(self, **arguments: Any) -> None:
        if self.control.should_training_stop or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(**arguments)

    def _maybe_log_save_evaluate(self, *arguments: Any, **others: Any) -> None:
        trained = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        finite = torch.stack([getattr(p, "_local_tensor", p).detach().isfinite().all() for _, p in trained])
        if not bool(finite.all()):
            raise self.broken(f"weight '{trained[finite.tolist().index(False)][0]}' is not a finite number")
        self.control.should_log |= self.control.should_save or self.control.should_training_stop
        super()._maybe_log_save_evaluate(*arguments, **others)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the weights, and a probe of them. All processes must call it.

        Args:
            output_dir: Folder to write into.
            _internal_call: As transformers has it.

        Raises:
            UserError: The folder cannot be written.
        """
        folder = Path(output_dir or self.args.output_dir)
        with writing(folder):
            if self.is_fsdp_enabled:  # whatever form its states are saved in, weights are saved whole
                weights = self.accelerator.get_state_dict(self.model)
                if self.args.should_save:
                    self._save(str(folder), state_dict=weights)
            else:
                super().save_model(output_dir, _internal_call)
        self._save_probe(self.model_wrapped, folder)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Without gradient and dropout."""
        model = self.model_wrapped
        was_training = model.training
        model.eval()
        with torch.no_grad():
            yield
        model.train(was_training)

    def keep_measured(self, found: dict[str, float]) -> dict[str, float]:
        """Log what was measured on held-out data, and keep the weights where they are the best.

        Args:
            found: Figures by name, ``loss`` among them.

        Returns:
            The same, each under ``eval_`` and its name.
        """
        metrics = {f"eval_{name}": value for name, value in found.items()}
        self.log(dict(metrics))
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.keep_best(found["loss"])
        return metrics

    def keep_best(self, loss: float) -> None:
        """Save the weights where no earlier ones have a lower held-out loss. All processes must call it.

        Args:
            loss: The held-out loss. The weights of the start are never kept.
        """
        best = Path(self.args.output_dir) / "best"
        mark = best / BEST_NAME
        before = read_json(mark)["loss"] if mark.exists() else float("inf")
        if self.state.global_step == 0 or loss >= before:
            return
        self.accelerator.wait_for_everyone()  # all have read the mark
        self.save_model(str(best))
        if self.is_world_process_zero():
            write_atomically(mark, json.dumps({"step": self.state.global_step, "loss": loss}))
        self.accelerator.wait_for_everyone()

    def rehearse(self, folder: Path, export: Callable[[Path, Path], None]) -> None:
        """Try everything that saving at the end needs before the first update: write, read back, delete.

        Args:
            folder: Folder to try in; it is deleted.
            export: Makes a checkpoint, in a second folder, of what is saved in a first one.

        Raises:
            UserError: The disk is full, or the weights cannot be saved or read back.
        """
        if self.is_world_process_zero():
            try:
                with writing(folder):
                    self._save(str(folder))
                self._save_probe(self.model, folder)
                export(folder, folder / "out")
            except ValueError as error:
                raise UserError(f"the model cannot be saved ({first_line(error)}); mend its checkpoint") from error
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if state_dict is not None:  # gathered, so that one weight under two names is two tensors
            tied = getattr(self.model, "all_tied_weights_keys", None) or {}
            state_dict = {name: weight for name, weight in state_dict.items() if name not in tied}
        super()._save(output_dir, state_dict)

    def _save_probe(self, model: Any, folder: Path) -> None:
        with self.accelerator.autocast():
            values = probe(model, has_head=self.has_head)
        if self.is_world_process_zero():
            with writing(folder):
                np.save(folder / PROBE_NAME, values, allow_pickle=False)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        state = Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        try:
            with writing(state):
                super()._save_checkpoint(model, trial)
        except UserError:
            shutil.rmtree(state, ignore_errors=True)
            raise
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            mark_whole(state)
