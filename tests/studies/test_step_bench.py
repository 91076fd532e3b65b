"""The step benchmark: what is timed, in which order, and what of memory counts."""

import pytest
import torch

from prmbench.studies import measure_steps
from prmbench.studies.lab import Lab
from prmbench.studies.runs import StudyRun, perform
from prmbench.studies.settings import BEST
from prmbench.studies.step_bench import BenchStep, StepShape, allocated, measure_in_turns

SHAPE = StepShape(vocabulary=64, width=32, layers=1, prompts=2, tokens=16, micro=4, sharpen=30.0)


def test_both_ways_start_from_the_same_weights_and_rollouts():
    grpo, distrl = (BenchStep(name, SHAPE, 3) for name in ("grpo", "distrl"))
    for one, other in ((grpo.policy, distrl.policy), (grpo.phi, distrl.phi)):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert [r.ids.tolist() for r in grpo.batch.responses] == [r.ids.tolist() for r in distrl.batch.responses]
    assert not torch.equal(grpo.phi.model.norm.weight, grpo.policy.model.norm.weight)
    assert BenchStep("grpo", SHAPE, 4).policy.lm_head.weight[0, 0] != grpo.policy.lm_head.weight[0, 0]


def test_a_step_updates_both_models_and_only_distrl_has_candidates():
    for name in ("grpo", "distrl"):
        step = BenchStep(name, SHAPE, 0)
        before = [[p.clone() for p in model.parameters()] for model in (step.policy, step.phi)]
        step.run()
        for model, old in zip((step.policy, step.phi), before, strict=True):
            moved = [(p - q).abs().max().item() for p, q in zip(model.parameters(), old, strict=True)]
            assert 0 < max(moved) < 1e-4
        assert (step.logged.get("candidates/size", 0.0) > 0) == (name == "distrl")


def test_the_sampled_tokens_part_of_the_loss_is_that_of_one_policy_gradient_step():
    # With pi = pi_old every ratio is 1, so GRPO's first loss is minus the mean of the advantages of its minibatch.
    step = BenchStep("grpo", SHAPE, 0)
    micros = step._preparation.run(step.policy, step.batch, learn=True)
    first = micros[: SHAPE.micro_batches]
    expected = -sum(float((m.sampled.advantages * m.sampled.weights).sum()) for m in first)
    assert BenchStep("grpo", SHAPE, 0).run() == pytest.approx(expected, abs=1e-6)


def test_memory_counts_what_is_held_at_once():
    def run():
        first = torch.zeros(1_000_000)
        del first
        second = torch.zeros(250_000)
        third = torch.zeros(250_000)
        return second, third

    assert allocated(run) == pytest.approx(4_000_000, rel=0.01)


class _Fake:
    """A way of a step that notes its calls."""

    kept_bytes = 7

    def __init__(self, name, calls):
        self.name, self.calls, self.logged = name, calls, {}

    def run(self):
        self.calls.append(self.name)
        torch.zeros(10)


def test_ways_are_timed_in_turns_and_the_fastest_counts(monkeypatch):
    calls = []
    ticks = iter([0, 5, 10, 12, 20, 21, 30, 36])  # steps of 5 and 2, then of 1 and 6 seconds
    monkeypatch.setattr("prmbench.studies.step_bench.time.perf_counter", lambda: next(ticks))
    found = measure_in_turns({"a": _Fake("a", calls), "b": _Fake("b", calls)}, 2)
    assert calls == ["a", "b"] + ["a", "b"] * 2 + ["a", "b"]
    assert (found["a"]["seconds"], found["b"]["seconds"]) == (1, 2)
    assert found["a"]["peak"] >= 7 + 40


def test_weights_and_moments_of_both_models_are_part_of_the_peak():
    step = BenchStep("grpo", SHAPE, 0)
    n = sum(p.numel() for p in step.policy.parameters())
    assert step.kept_bytes == 2 * n * 4 * 3
    found = measure_in_turns({"grpo": step}, 1)["grpo"]
    assert found["peak"] > step.kept_bytes + 2 * n * 4  # a step also holds both gradients
    assert found["size"] == 0


def test_a_seed_measures_both_methods_once(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    sizes = {"vocabulary": 64, "width": 32, "layers": 1, "prompts": 2, "tokens": 16, "micro": 4, "sharpen": 30}
    monkeypatch.setattr(measure_steps, "STEP_SIZES", sizes)
    measured = []
    measure = measure_steps._measure
    monkeypatch.setattr(measure_steps, "_measure", lambda seed: (measured.append(seed), measure(seed))[1])
    rows = [perform(StudyRun("step", name), Lab(5)) for name in (BEST, "grpo ipvrm")]
    assert measured == [5]
    assert [row["size"] > 0 for row in rows] == [True, False]
    assert all(row["seconds"] > 0 and row["peak_gib"] > 0 for row in rows)
