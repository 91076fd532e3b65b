"""Measure one DistRL step against one GRPO step with the same reward model, and against keeping whole distributions.

A step is that of `prmbench.studies.step_bench`: everything after sampling, on random models and rollouts, in float32. There are
three ways, on the same rollouts from the same weights. `grpo` and `distrl` are what the trainer does, with an IPVRM that is updated
online. `whole` is DistRL with full logits and a log-softmax over the vocabulary kept for the batch's tokens of all three models
(pi_old, the reward model, the policy). Each way runs in a process of its own, in turns, so that its peak of memory is its own. The
losses of `distrl` and `whole` must agree.

    python scripts/bench_rl_step.py [--vocabulary 50000] [--width 512] [--layers 8] [--prompts 4] [--tokens 256] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from typing import Any

from bench_tools import alternate, medians, timed_steps

from prmbench.studies.step_bench import SAMPLES

SIZES = {"vocabulary": 50_000, "width": 512, "layers": 8, "prompts": 4, "tokens": 256, "micro": 4}
WAYS = ("grpo", "distrl", "whole")


def worker(options: argparse.Namespace) -> None:
    """Run one way: a step to warm up, then timed steps; prints JSON."""
    import torch

    from prmbench.studies.step_bench import BenchStep, StepShape
    from prmbench.training.rl.advantages import scaled_td
    from prmbench.training.rl.candidates import likely_tokens
    from prmbench.training.rl.loss import Tokens, policy_loss, token_weights
    from prmbench.training.rl.methods import ScoredBatch, compute_advantages

    torch.set_num_threads(options.threads)
    shape = StepShape(**{name: getattr(options, name) for name in (*SIZES, "sharpen")})
    bench = BenchStep("grpo" if options.way == "grpo" else "distrl", shape, 0)
    policy, phi, batch, algorithm = bench.policy, bench.phi, bench.batch, bench.algorithm
    online, phi_optimizer, prompt = bench.online, bench.phi_optimizer, shape.prompt

    # The same step with whole distributions kept.
    every = torch.stack([torch.from_numpy(r.ids) for r in batch.responses])

    def distributions(model: Any, rows: list[int]) -> torch.Tensor:
        return model(input_ids=every[rows], use_cache=False).logits[:, prompt - 1 : -1].log_softmax(-1)

    def whole() -> float:
        rows = [list(range(i, min(i + options.micro, len(every)))) for i in range(0, len(every), options.micro)]
        taken = every[:, prompt:, None]
        with torch.no_grad():
            old = torch.cat([distributions(policy, part) for part in rows])
        old_taken = old.gather(2, taken)[..., 0]
        phi_optimizer.zero_grad()
        with torch.no_grad():
            before = torch.cat([distributions(phi, part).gather(2, taken[part])[..., 0] for part in rows]) - old_taken
        leaf = before.double().requires_grad_()
        (gradient,) = torch.autograd.grad(online.loss(leaf, batch.mask, batch.rewards > 0, batch.groups), leaf)
        for part in rows:
            (distributions(phi, part).gather(2, taken[part])[..., 0] * gradient[part].float()).sum().backward()
        torch.nn.utils.clip_grad_norm_(phi.parameters(), 1.0)
        phi_optimizer.step()
        phi_optimizer.zero_grad()
        with torch.no_grad():
            scored = torch.cat([distributions(phi, part) for part in rows]) - old
        values = scored.gather(2, taken)[..., 0].double()
        scored_batch = ScoredBatch(batch.rewards.double(), batch.groups, batch.mask, values, 10.0)
        found = compute_advantages(algorithm, scored_batch)
        assert found.sigma is not None
        td = scaled_td(scored, found.sigma.float(), 10.0)
        losses = []
        for minibatch in batch.minibatches:
            weights = token_weights(batch.mask[minibatch], "sequence")

            def of(part: list[int], weights: torch.Tensor = weights, minibatch: list[int] = minibatch) -> torch.Tensor:
                now = distributions(policy, part).flatten(0, 1)
                where, tokens = likely_tokens(old[part].flatten(0, 1), algorithm.p_min)
                weight = weights[[minibatch.index(i) for i in part]].flatten()
                sampled = Tokens(old_taken[part].flatten(), found.total[part].flatten().float(), weight)
                picked_old, picked_td = (x[part].flatten(0, 1)[where, tokens] for x in (old, td))
                others = Tokens(picked_old, picked_td, weight[where])
                taken_now = now.gather(1, taken[part].flatten()[:, None])[:, 0]
                return policy_loss(algorithm, taken_now, sampled, now[where, tokens], others).loss

            pieces = [minibatch[i : i + options.micro] for i in range(0, len(minibatch), options.micro)]
            losses.append(bench.update([partial(of, p) for p in pieces]))
        return losses[0]

    # A step to warm up, then timed ones.
    run = whole if options.way == "whole" else bench.run
    first = run()  # makes the gradients and AdamW's moments, which all ways hold alike
    policy.zero_grad(set_to_none=True)
    found = timed_steps(run, options.steps)
    print(json.dumps({"loss": first, **found, "size": bench.logged.get("candidates/size", 0.0)}))


def main() -> None:
    """Alternate the ways and print ratios of medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--sharpen", type=float, default=9.0, help="weight of the last norm")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each way")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a process; the fastest counts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        worker(options)
        return
    found = alternate(WAYS, options.repeats)
    middle = medians(found)
    print(
        f"vocabulary {options.vocabulary:,}, width {options.width}, {options.layers} layers, {options.prompts} prompts x {SAMPLES} "
        f"rollouts x {options.tokens} tokens, {found['distrl'][0]['size']:.2f} candidates a state, {options.threads} threads, "
        f"float32; medians of {options.repeats} processes each"
    )
    for way, result in middle.items():
        print(
            f"  {way:6} {result['seconds']:6.2f} s a step   {result['peak'] / 2**20:8,.0f} MiB above weights and optimizers"
        )
    for other in ("grpo", "whole"):
        ratios = {k: middle["distrl"][k] / middle[other][k] for k in ("seconds", "peak")}
        print(f"  distrl / {other:5} {ratios['seconds']:5.2f} in time, {ratios['peak']:5.2f} in memory")
    losses = [one["loss"] for way in ("distrl", "whole") for one in found[way]]
    print(f"  largest difference of the losses of distrl and whole {max(losses) - min(losses):.1e}")


if __name__ == "__main__":
    main()
