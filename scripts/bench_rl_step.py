"""Measure one DistRL step against one GRPO step with the same reward model, and against keeping whole distributions.

A step here is everything after sampling: pi_old's log-probs and candidates, the reward model's update and scores, advantages,
and two updates of the policy. There are three ways, on the same rollouts from the same weights, in float32. `grpo` and `distrl`
are what the trainer does, with an IPVRM that is updated online. `whole` is DistRL with full logits and a log-softmax over the
vocabulary kept for the batch's tokens of all three models (pi_old, the reward model, the policy). Each way runs in a process of
its own, in turns, so that its peak of memory is its own. The losses of `distrl` and `whole` must agree. Weights are random, and
sharpened until a state has about as many candidates as Table 11 says.

    python scripts/bench_rl_step.py [--vocabulary 50000] [--width 512] [--layers 8] [--prompts 4] [--tokens 256] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

from bench_tools import alternate, medians, random_llama, timed_steps

SAMPLES = 4
WAYS = ("grpo", "distrl", "whole")


def worker(options: argparse.Namespace) -> None:
    """Run one way: a step to warm up, then timed steps; prints JSON."""
    import numpy as np
    import torch

    from prmbench.data.rollouts import Rollout
    from prmbench.data.verdicts import Verdict
    from prmbench.reward_models.card import Card
    from prmbench.training.model.forward import give_logprobs
    from prmbench.training.rl.advantages import scaled_td
    from prmbench.training.rl.balance import OnlineObjective
    from prmbench.training.rl.batch import PromptGroup, make_batch
    from prmbench.training.rl.candidates import likely_tokens
    from prmbench.training.rl.loss import Tokens, policy_loss, token_weights
    from prmbench.training.rl.methods import Algorithm, ScoredBatch, compute_advantages
    from prmbench.training.rl.reward import ImplicitReward
    from prmbench.training.rl.step import Preparation

    # The policy, and a reward model a little away from it.
    torch.set_num_threads(options.threads)
    policy, phi = (random_llama(options.vocabulary, options.width, options.layers, seed=0) for _ in range(2))
    with torch.no_grad():
        policy.model.norm.weight.fill_(options.sharpen)
        phi.load_state_dict(policy.state_dict())
        for parameter in phi.parameters():
            parameter += 1e-4 * torch.randn_like(parameter)
    # Rollouts of random tokens, right and wrong.
    rng, prompt = np.random.default_rng(1), options.tokens // 4
    groups = []
    for g in range(options.prompts):
        ids = rng.integers(2, options.vocabulary, size=(SAMPLES, options.tokens - prompt))
        rollouts = [
            Rollout(f"p{g}", k, "", "", "", row, "length", Verdict.CORRECT if k <= g % 3 else Verdict.WRONG)
            for k, row in enumerate(ids)
        ]
        groups.append(PromptGroup(rng.integers(2, options.vocabulary, size=prompt), tuple(rollouts)))
    batch = make_batch(groups, 2, [0])
    # What both ways update.
    algorithm = Algorithm(method="grpo" if options.way == "grpo" else "distrl")
    card = Card(kind="implicit", objective="ipvrm")
    online = OnlineObjective.of_card(card, "dlw+adb")
    phi_optimizer = torch.optim.AdamW(phi.parameters(), lr=1e-6)
    reward = ImplicitReward(phi, card, online, None, nullcontext, phi_optimizer)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-6)
    logged: dict[str, float] = {}
    per_minibatch = max(1, options.prompts * SAMPLES // 2 // options.micro)
    preparation = Preparation(
        algorithm, torch.tensor([1]), per_minibatch, nullcontext, logged.__setitem__, reward=reward
    )
    if options.way != "whole":
        give_logprobs(policy, "the policy")
        give_logprobs(phi, "the reward model")

    # An update, and the trainer's way of a step.
    def update(parts: list[Callable[[], torch.Tensor]]) -> float:
        total = 0.0
        for part in parts:
            loss = part()
            loss.backward()
            total += float(loss.detach())
        optimizer.step()
        optimizer.zero_grad()
        return total

    def ours() -> float:
        micros = preparation.run(policy, batch, learn=True)
        losses = []
        for start in range(0, len(micros), per_minibatch):

            def of(micro: Any) -> torch.Tensor:
                found = policy(**micro.call, **micro.pick())
                return policy_loss(
                    algorithm, found["values"], micro.sampled, found.get("picked"), micro.candidates
                ).loss

            losses.append(update([partial(of, m) for m in micros[start : start + per_minibatch]]))
        return losses[0]

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
            losses.append(update([partial(of, p) for p in pieces]))
        return losses[0]

    # A step to warm up, then timed ones.
    run = whole if options.way == "whole" else ours
    first = run()  # makes the gradients and AdamW's moments, which all ways hold alike
    policy.zero_grad(set_to_none=True)
    found = timed_steps(run, options.steps)
    print(json.dumps({"loss": first, **found, "size": logged.get("candidates/size", 0.0)}))


def main() -> None:
    """Alternate the ways and print ratios of medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"vocabulary": 50_000, "width": 512, "layers": 8, "prompts": 4, "tokens": 256, "micro": 4}
    for name, value in sizes.items():
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
