"""Measure one IPVRM training step against the plain implementation: time, and peak memory above the weights.

    python scripts/bench_rm_step.py [--vocabulary 50000] [--width 512] [--layers 8] [--pairs 4] [--tokens 256] [--repeats 3]

- Plain: full logits of both models at every position, a log-softmax over the vocabulary, the log-probs picked out, the loss, the
  backward pass.
- Ours: log-probs from hidden states in blocks, at response tokens only, made again in the backward pass.

Both compute the reference in the step, on the same batch, from the same weights, in float32, and update with the same AdamW. Each
runs in processes of its own, so that its peak is its own, and the two take turns. The losses must agree.
"""

from __future__ import annotations

import argparse
import json

from bench_tools import alternate, medians, timed_steps

from prmbench.studies.step_bench import random_llama


def worker(options: argparse.Namespace) -> None:
    """Run one way: a step to warm up, then timed steps. Prints JSON."""
    import torch
    from transformers import LlamaForCausalLM

    from prmbench.engines.hf.engine import HFEngine
    from prmbench.training.model.forward import give_logprobs
    from prmbench.training.rm.losses import ipvrm

    torch.set_num_threads(options.threads)
    model, reference = (random_llama(options.vocabulary, options.width, options.layers, seed) for seed in (0, 1))
    reference.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    rows, prompt = 2 * options.pairs, options.tokens // 4
    ids = torch.randint(options.vocabulary, (rows, options.tokens), generator=torch.Generator().manual_seed(2))
    mask = torch.ones(rows, options.tokens - prompt, dtype=torch.bool)
    correct = torch.arange(rows) % 2 == 0

    def update(values: torch.Tensor) -> float:
        loss = ipvrm(values, mask, correct, 10.0, 5.0).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss)

    def plain() -> float:
        def logprobs(of: LlamaForCausalLM) -> torch.Tensor:
            logits = of(input_ids=ids, use_cache=False).logits[:, :-1]
            return logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0][:, prompt - 1 :]

        with torch.no_grad():
            before = logprobs(reference)
        return update(logprobs(model) - before)

    if options.way == "ours":
        give_logprobs(model, "the model")
        engine = HFEngine(reference, "the reference")
        where_rows = torch.repeat_interleave(torch.arange(rows), mask.shape[1])
        where_columns = torch.arange(prompt, options.tokens).repeat(rows)

    def ours() -> float:
        found = engine.score(list(ids.numpy()), [prompt] * rows, frozenset({"logprob"}))
        before = torch.stack([torch.from_numpy(one.logprob).float() for one in found])
        return update(model(input_ids=ids, rows=where_rows, columns=where_columns)["values"].view(mask.shape) - before)

    step = ours if options.way == "ours" else plain
    first = step()  # makes the gradients and AdamW's moments, which both ways hold alike
    model.zero_grad(set_to_none=True)
    print(json.dumps({"loss": first, **timed_steps(step, options.steps)}))


def main() -> None:
    """Take the two ways in turn and print ratios of medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"vocabulary": 50_000, "width": 512, "layers": 8, "pairs": 4, "tokens": 256}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--repeats", type=int, default=3, help="processes of each way")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a process; the fastest counts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--way", choices=("plain", "ours"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        worker(options)
        return
    found = alternate(("plain", "ours"), options.repeats)
    losses = [one["loss"] for results in found.values() for one in results]
    middle = medians(found)
    shape = f"vocabulary {options.vocabulary:,}, width {options.width}, {options.layers} layers"
    shape += f", {2 * options.pairs} x {options.tokens} tokens"
    print(f"{shape}, {options.threads} threads, float32; medians of {options.repeats} processes each")
    for way, result in middle.items():
        print(
            f"  {way:6} {result['seconds']:6.2f} s a step   {result['peak'] / 2**20:8,.0f} MiB above weights and optimizer"
        )
    ratios = {k: middle["ours"][k] / middle["plain"][k] for k in ("seconds", "peak")}
    print(f"  ratio  {ratios['seconds']:6.2f}              {ratios['peak']:8.2f}")
    print(f"  largest difference of the losses {max(losses) - min(losses):.1e}")


if __name__ == "__main__":
    main()
