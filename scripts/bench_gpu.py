"""Measure scoring, sampling and training steps on one GPU: tokens a second, share of the peak FLOP/s, peak memory. Under 8 minutes.

    python scripts/bench_gpu.py [--minutes 7.5] [--peak-tflops 989] [--tokens 1024] [--rows 16] [--only score,rl] [--output FILE]
    python scripts/bench_gpu.py --cpu [--no-vllm]        # the same at a tiny size on a CPU, to see that it runs

The model has the shapes of Qwen3-0.6B and random weights: 28 layers of width 1,024, 151,936 token ids, embeddings tied. Each
measurement runs in a process of its own, so that its peak of memory is its own:

- *score*: log-probs of all tokens of sequences, with transformers and with vLLM.
- *sample*: completions of a fixed length of as many prompts, with both.
- *rm*: an update of a reward model by IPVRM's objective, log-probs of the reference known.
- *grpo*, *distrl*: all that follows sampling in a step, with an IPVRM that is updated too (`bench_rl_step.py` says what that is).

In bfloat16 (training: autocast on float32 weights, as the recipes do) and in float32. FLOPs are those of the model: 2 for each
weight of the layers and each token, 2 x width x vocabulary for each log-prob, attention by the mean length. A backward pass counts
twice a forward pass. What is computed again does not count. Without a peak that is known for the device, the share is left out.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_NAMES = ("layers", "width", "heads", "kv_heads", "head_dim", "intermediate", "vocabulary")
SHAPES = {
    "qwen3-0.6b": dict(zip(_NAMES, (28, 1024, 16, 8, 128, 3072, 151_936), strict=True)),
    "tiny": dict(zip(_NAMES, (2, 64, 2, 1, 32, 64, 300), strict=True)),
}
WAYS = ("score-hf", "score-vllm", "sample-hf", "sample-vllm", "rm", "grpo", "distrl")
PEAKS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "RTX 4090": 165}
"""Dense bfloat16 TFLOP/s by a part of the device's name, as the makers state them."""
SAMPLES, STEPS = 4, 3


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Attributes:
        way: One of `WAYS`.
        dtype: ``bfloat16`` or ``float32``.
        shape: A key of `SHAPES`.
        rows: Sequences of a batch.
        tokens: Tokens of a sequence; a quarter of them is the prompt.
        device: ``cuda`` or ``cpu``.
    """

    way: str
    dtype: str
    shape: str
    rows: int
    tokens: int
    device: str


def make_model(setting: Setting, seed: int = 0) -> Any:
    """A Qwen3 with random weights. Training keeps them in float32, and computes in the setting's type."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    shape = SHAPES[setting.shape]
    trains = setting.way in ("rm", "grpo", "distrl")
    config = Qwen3Config(
        hidden_size=shape["width"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        head_dim=shape["head_dim"],
        intermediate_size=shape["intermediate"],
        vocab_size=shape["vocabulary"],
        tie_word_embeddings=True,
        max_position_embeddings=max(2 * setting.tokens, 64),
    )
    torch.manual_seed(seed)
    dtype = torch.float32 if trains else getattr(torch, setting.dtype)
    with torch.device(setting.device):
        return Qwen3ForCausalLM(config).to(dtype).eval()


def sequences(setting: Setting) -> list[Any]:
    """Random token ids, int64, one row a sequence."""
    import numpy as np

    rng = np.random.default_rng(0)
    return list(rng.integers(2, SHAPES[setting.shape]["vocabulary"], size=(setting.rows, setting.tokens)))


def forward_flops(setting: Setting, logprobs: int) -> float:
    """FLOPs of one forward pass over the rows, with log-probs at some of their tokens."""
    s = SHAPES[setting.shape]
    n = setting.rows * setting.tokens
    layer = s["width"] * s["head_dim"] * 2 * (s["heads"] + s["kv_heads"]) + 3 * s["width"] * s["intermediate"]
    attention = 2 * s["heads"] * s["head_dim"] * setting.tokens / 2
    return 2 * n * s["layers"] * (layer + attention) + 2 * logprobs * s["width"] * s["vocabulary"]


def scorer(setting: Setting, engine: Any) -> tuple[Callable[[], Any], int, float]:
    """Score all rows at once."""
    rows = sequences(setting)
    n = setting.rows * (setting.tokens - 1)
    run = lambda: engine.score(rows, [1] * len(rows), frozenset({"logprob"}))  # noqa: E731
    return run, setting.rows * setting.tokens, forward_flops(setting, n)


def sampler(setting: Setting, engine: Any) -> tuple[Callable[[], Any], int, float]:
    """Sample three quarters of each row after its first quarter."""
    from prmbench.engines.sampling import Request, SamplingParams

    prompt = setting.tokens // 4
    new = setting.tokens - prompt
    requests = [Request(ids[:prompt], str(i), 0) for i, ids in enumerate(sequences(setting))]

    def run() -> None:
        found = engine.generate(requests, frozenset(), SamplingParams(max_new_tokens=new), 0)
        assert all(len(one.ids) == new for one in found)

    return run, setting.rows * new, forward_flops(setting, setting.rows * new)


def autocast(setting: Setting) -> Callable[[], Any]:
    """The context that training computes in."""
    import torch

    if setting.dtype == "float32":
        return nullcontext
    return lambda: torch.autocast(setting.device, torch.bfloat16)


def reward_trainer(setting: Setting) -> tuple[Callable[[], Any], int, float]:
    """An update of a reward model."""
    import numpy as np
    import torch

    from prmbench.reward_models.objectives import OBJECTIVES
    from prmbench.training.data.pairs import Response
    from prmbench.training.model.forward import give_logprobs
    from prmbench.training.rm.losses import find_loss
    from prmbench.training.rm.trainer import RewardModelTrainer, Row, collate

    meaning, model, context = OBJECTIVES.find("ipvrm"), make_model(setting), autocast(setting)
    give_logprobs(model, "the reward model")
    trainer = object.__new__(RewardModelTrainer)
    trainer.loss, trainer.has_head = find_loss(meaning), False
    recipe: Any = argparse.Namespace(scale=meaning.beta, offset=meaning.margin)
    trainer.recipe = recipe
    prompt = setting.tokens // 4
    known = np.full(setting.tokens - prompt, -11.9, dtype=np.float32)
    rows = [Row(Response(ids, prompt), known) for ids in sequences(setting)]
    batch = collate(list(zip(rows[0::2], rows[1::2], strict=True)))
    batch = {name: value.to(setting.device) for name, value in batch.items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def run() -> float:
        with context():
            loss = trainer.compute_loss(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    scored = setting.rows * (setting.tokens - prompt)
    return run, setting.rows * setting.tokens, 3 * forward_flops(setting, scored)


def policy_trainer(setting: Setting) -> tuple[Callable[[], Any], int, float]:
    """All of a step of policy optimisation but its sampling."""
    import numpy as np
    import torch

    from prmbench.data.rollouts import Rollout
    from prmbench.data.verdicts import Verdict
    from prmbench.reward_models.card import Card
    from prmbench.training.model.forward import give_logprobs
    from prmbench.training.rl.balance import OnlineObjective
    from prmbench.training.rl.batch import PromptGroup, make_batch
    from prmbench.training.rl.loss import policy_loss
    from prmbench.training.rl.methods import Algorithm
    from prmbench.training.rl.reward import ImplicitReward
    from prmbench.training.rl.step import Preparation

    # The models.
    policy, phi, context = make_model(setting), make_model(setting, 1), autocast(setting)
    give_logprobs(policy, "the policy")
    give_logprobs(phi, "the reward model")
    card = Card(kind="implicit", objective="ipvrm")
    online = OnlineObjective.of_card(card, "dlw+adb")
    reward = ImplicitReward(phi, card, online, None, context, torch.optim.AdamW(phi.parameters(), lr=1e-6))
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-6)
    # The rollouts: four of a prompt, right and wrong.
    prompt, rows = setting.tokens // 4, sequences(setting)
    groups = []
    for g in range(setting.rows // SAMPLES):
        own = rows[g * SAMPLES : (g + 1) * SAMPLES]
        rollouts = [
            Rollout(f"p{g}", k, "", "", "", ids[prompt:], "length", Verdict.CORRECT if k <= g % 3 else Verdict.WRONG)
            for k, ids in enumerate(own)
        ]
        groups.append(PromptGroup(np.asarray(own[0][:prompt]), tuple(rollouts)))
    batch = make_batch(groups, 2, [0])
    algorithm = Algorithm(method=setting.way)
    parts = max(1, setting.rows // 2 // SAMPLES)
    stop = torch.tensor([1], device=setting.device)
    preparation = Preparation(algorithm, stop, parts, context, lambda *_: None, reward=reward)

    def run() -> float:
        total = 0.0
        micros = preparation.run(policy, batch, learn=True)
        for start in range(0, len(micros), parts):
            for micro in micros[start : start + parts]:
                assert micro.sampled is not None
                with context():
                    found = policy(**micro.call, **micro.pick())
                    loss = policy_loss(
                        algorithm, found["values"], micro.sampled, found.get("picked"), micro.candidates
                    ).loss
                loss.backward()
                total += float(loss.detach())
            optimizer.step()
            optimizer.zero_grad()
        return total

    # pi_old, the reward model before and after its update, the gradients of both models: 1 + 2 + 3 + 3 forward passes.
    scored = setting.rows * (setting.tokens - prompt)
    return run, setting.rows * setting.tokens, 9 * forward_flops(setting, scored)


def prepare(setting: Setting) -> tuple[Callable[[], Any], int, float]:
    """Give what is timed, the tokens that it goes through, and its FLOPs."""
    if setting.way in ("grpo", "distrl"):
        return policy_trainer(setting)
    if setting.way == "rm":
        return reward_trainer(setting)
    what, engine = setting.way.split("-")
    if engine == "hf":
        from prmbench.engines.hf.engine import HFEngine

        made: Any = HFEngine(make_model(setting))
    else:
        from prmbench.engines.load import LoadOptions
        from prmbench.engines.vllm.engine import VLLMEngine

        folder = Path(tempfile.mkdtemp(prefix="bench-gpu-"))
        make_model(setting).save_pretrained(folder)
        made = VLLMEngine(folder, LoadOptions(device=setting.device, dtype=setting.dtype), memory_share=0.6)
    return scorer(setting, made) if what == "score" else sampler(setting, made)


def measure(setting: Setting) -> dict[str, Any]:
    """Warm up once, then time steps; the fastest counts."""
    import torch

    run, tokens, flops = prepare(setting)
    on_gpu = setting.device == "cuda"
    first = run()
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(STEPS):
        start = time.perf_counter()
        run()
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "way": setting.way,
        "dtype": setting.dtype,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "loss": first if isinstance(first, float) else None,
        "seconds": min(seconds),
        "tokens_per_second": tokens / min(seconds),
        "tflops": flops / min(seconds) / 1e12,
        "peak_bytes": peak,
    }


def row(found: dict[str, Any], peak_tflops: float | None) -> str:
    """A line of the table."""
    known = next((value for name, value in PEAKS.items() if name in found["device"]), None)
    peak = peak_tflops or (known if found["dtype"] == "bfloat16" else None)
    share = f"{found['tflops'] / peak:6.1%}" if peak else "     -"
    return (
        f"{found['way']:12} {found['dtype']:9} {found['seconds']:9.3f} s {found['tokens_per_second']:12,.0f} tokens/s "
        f"{found['tflops']:8.2f} TFLOP/s {share} {found['peak_bytes'] / 2**30:7.2f} GiB"
    )


def main() -> None:
    """Measure every way in a process of its own, as long as there is time, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=7.5, help="after which nothing more is begun or waited for")
    parser.add_argument("--peak-tflops", type=float, help="of the device, where its name does not say it")
    parser.add_argument("--tokens", type=int, default=1024, help="of a sequence")
    parser.add_argument("--rows", type=int, default=16, help="sequences of a batch, a multiple of 8")
    parser.add_argument("--only", default="", help="beginnings of ways, with commas between")
    parser.add_argument("--output", type=Path, help="JSON file to write the figures into")
    parser.add_argument("--cpu", action="store_true", help="a tiny model on the CPU")
    parser.add_argument("--no-vllm", action="store_true", help="leave vLLM out")
    parser.add_argument("--setting", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.setting:
        print(json.dumps(measure(Setting(**json.loads(options.setting)))))
        return
    import torch

    if not options.cpu and not torch.cuda.is_available():
        sys.exit("there is no GPU here; --cpu measures a tiny model on the CPU")
    if options.rows % 8:
        sys.exit(f"--rows {options.rows}: expected a multiple of 8")
    # What is measured.
    shape, device = ("tiny", "cpu") if options.cpu else ("qwen3-0.6b", "cuda")
    rows, tokens = (8, 32) if options.cpu else (options.rows, options.tokens)
    begins = tuple(options.only.split(",")) if options.only else ("",)
    settings = [
        Setting(way, dtype, shape, rows, tokens, device)
        for dtype in ("bfloat16", "float32")
        for way in WAYS
        if way.startswith(begins) and not ("vllm" in way and (options.no_vllm or dtype == "float32"))
    ]
    # Each in a process of its own.
    end, found, late = time.monotonic() + 60 * options.minutes, [], []
    print(f"{shape}, random weights, {rows} sequences of {tokens:,} tokens, on {device}")
    for setting in settings:
        name = f"{setting.way} {setting.dtype}"
        if (left := end - time.monotonic()) <= 5:
            late.append(name)
            continue
        command = [sys.executable, __file__, "--setting", json.dumps(vars(setting))]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=left)
        except subprocess.TimeoutExpired:
            late.append(name)
            continue
        if done.returncode:
            print(f"{name}: failed\n{done.stderr[-1500:]}")
            continue
        found.append(json.loads(done.stdout.splitlines()[-1]))
        print(row(found[-1], options.peak_tflops), flush=True)
    # What follows from them.
    seconds = {(one["way"], one["dtype"]): one["seconds"] for one in found}
    for dtype in ("bfloat16", "float32"):
        if {("grpo", dtype), ("distrl", dtype)} <= seconds.keys():
            print(f"distrl / grpo in {dtype}: {seconds['distrl', dtype] / seconds['grpo', dtype]:.2f} in time")
    for way in WAYS:
        if {(way, "bfloat16"), (way, "float32")} <= seconds.keys():
            print(f"{way}: float32 / bfloat16 {seconds[way, 'float32'] / seconds[way, 'bfloat16']:.2f} in time")
    if late:
        print(f"no time was left for: {', '.join(late)}")
    if options.output:
        options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
