"""Reward models with a head, and judges, in real vLLM against transformers. Each model is closed before the next is loaded."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import support
import support_prm
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer

from prmbench.engines.load import LoadOptions
from prmbench.engines.vllm.layout import write_layout
from prmbench.engines.vllm.pooling import VLLMPooling
from prmbench.errors import UserError
from prmbench.reward_models.loading import load_reward_model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_process")]

CPU = LoadOptions(device="cpu", dtype="float32")
TOLERANCE = 1e-3
"""Between the scores of vLLM and those of transformers in float32 on a CPU. Scores are of size 1 to 30 here."""
WIDE = support_prm.WIDE

STATES = """
from prmbench import MarkedRewardModel, MarkLayout, register
import torch

@register("spread")
class Spread(MarkedRewardModel):
    default_layout = MarkLayout(prompt="text", mark="\\n")

    def read(self, states):
        return states[:, :7].pow(2).sum(1) - states[:, 7:9].abs().sum(1)
"""
"""A kind of one's own, whose head is no linear layer."""


@pytest.fixture(scope="module")
def smol(smollm2, tmp_path_factory):
    folder = tmp_path_factory.mktemp("smol")
    return AutoTokenizer.from_pretrained(support_prm.save_causal(folder, support_prm.smol_tokenizer(smollm2), "qwen2"))


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """Explicit PRMs as `prmbench train prm` leaves them, by objective."""
    from prmbench.training.prm.recipe import PRMRecipe
    from prmbench.training.prm.run import train_prm

    place = tmp_path_factory.mktemp("trained")
    rows = []
    for trace in support.make_traces(16):
        k = trace["label"] if trace["label"] >= 0 else len(trace["steps"])
        labels = ["right"] * k + ["wrong"] * (len(trace["steps"]) - k)
        values = [0.75 if one == "right" else 0.25 for one in labels]
        rows.append({name: value for name, value in trace.items() if name != "label"})
        rows[-1] |= {"labels": labels, "values": values}
    (place / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def train(objective, **settings):
        output = place / f"{objective}{len(settings)}"
        if not output.exists():
            recipe = {"objective": objective, "model": str(tiny), "data": str(place / "data.jsonl"), "held_out": 4}
            recipe |= {"output": str(output), "batch_size": 8, "learning_rate": 3e-3, "max_steps": 2}
            train_prm(PRMRecipe(**recipe, **settings))
        return output

    return train


def made(name, place, smol, trained):
    """A checkpoint of a family, and how it is loaded."""
    if name == "qwen2.5-math-prm":
        return support_prm.save_mlp_classifier(place / "m", smol, **WIDE), {"preset": name}
    if name == "two layers on a Llama":
        folder = support_prm.save_mlp_classifier(place / "m", smol, **WIDE)
        shape = {**support_prm.SHAPE, **WIDE}
        support_prm._strong(
            AutoModelForCausalLM.from_config(support_prm.LlamaConfig(vocab_size=len(smol), **shape))
        ).save_pretrained(place / "llama")
        heads = {k: v for k, v in load_file(folder / "model.safetensors").items() if k.startswith("score")}
        support_prm._rewrite(place / "llama", load_file(place / "llama" / "model.safetensors") | heads)
        smol.save_pretrained(place / "llama")
        return place / "llama", {"preset": "qwen2.5-math-prm"}
    if name in ("trl-prm qwen2", "trl-prm llama"):
        preset, arch = name.split()
        return support_prm.save_linear_classifier(place / "m", smol, arch, **WIDE), {"preset": preset}
    if name == "skywork-o1-open-prm":
        return support_prm.save_value_head(place / "m", smol, **WIDE), {"preset": name}
    if name == "math-shepherd":
        return support_prm.save_causal(place / "m", support_prm.mistral_tokenizer(), **WIDE), {"preset": name}
    if name in ("rlhflow-mistral", "rlhflow-mistral tied"):
        tied = {"tie_word_embeddings": "tied" in name}
        return support_prm.save_causal(place / "m", smol, "qwen2", **WIDE, **tied), {"preset": "rlhflow-mistral"}
    if name == "token pair of Granite":
        from transformers import GraniteConfig, GraniteForCausalLM

        config = GraniteConfig(vocab_size=len(smol), logits_scaling=0.25, **{**support_prm.SHAPE, **WIDE})
        torch.manual_seed(8)
        return support_prm._save(support_prm._strong(GraniteForCausalLM(config)), smol, place / "m"), {
            "preset": "rlhflow-mistral"
        }
    if name == "own kind":
        (place / "spread.py").write_text(STATES)
        folder = support_prm.save_linear_classifier(place / "m", smol, **WIDE)
        return folder, {"kind": "spread", "plugin": place / "spread.py"}
    if name.startswith("trained "):
        return trained(name.split()[1]), {}
    if name.startswith("adapter"):
        torch.manual_seed(7)
        pair = name.endswith("token pair")
        load = AutoModelForCausalLM if pair else AutoModelForTokenClassification
        if pair:
            base = support_prm.save_causal(place / "base", smol, "qwen2", **WIDE)
        else:
            base = support_prm.save_linear_classifier(place / "base", smol, **WIDE)
        settings = {"target_modules": ["q_proj", "up_proj"], "modules_to_save": None if pair else ["score"]}
        adapter = get_peft_model(load.from_pretrained(base), LoraConfig(r=4, init_lora_weights=False, **settings))
        adapter.save_pretrained(place / "adapter")
        return place / "adapter", {"preset": "rlhflow-mistral" if pair else "trl-prm"}
    if name.startswith("q_rm"):
        folder = support_prm.save_causal(place / "m", smol, "qwen2", **WIDE)
        head = torch.randn(1, WIDE["hidden_size"]) / WIDE["hidden_size"] ** 0.5
        support.change_weights(folder, lambda weights: weights.update({"value_head.weight": head}))
        return folder, {"kind": "q_rm", "read_state": name.split()[1]}
    n = int(name.split()[1])
    how = {"kind": "judge", "generation": {"n": n, "temperature": 0.0, "max_new_tokens": 8}}
    return support_prm.save_causal(place / "m", smol, "qwen2", max_position_embeddings=2048, **WIDE), how


FAMILIES = [
    "qwen2.5-math-prm",
    "two layers on a Llama",
    "trl-prm qwen2",
    "trl-prm llama",
    "skywork-o1-open-prm",
    "math-shepherd",
    "rlhflow-mistral",
    "rlhflow-mistral tied",
    "token pair of Granite",
    "own kind",
    "trained step_ce",
    "trained step_soft",
    "trained token_pair",
    "adapter of a token pair",
    "adapter of a classifier",
    "q_rm after",
    "q_rm before",
    "judge 0",
    "judge 1",
]


@contextlib.contextmanager
def loaded(folder, engine, options=CPU, **how):
    """A reward model, closed at the end."""
    model = load_reward_model(folder, engine=engine, load_options=options, **how)
    try:
        yield model
    finally:
        held = getattr(model, "trunk", None) or model.model
        if engine == "vllm":
            held.close()


def traces_of(model, n=12):
    """Made solutions; one with marks inside its texts, empty steps and several scripts; and one that is long."""
    found = [(one["problem"], one["steps"]) for one in support.make_traces(n)]
    odd = ["a <extra_0> b ки + -", "", "Straße, 答案 = 3\n\n", "5 + 4 = 9 \n", "\U0001f600 +"]
    found += [("Is 2 + 2 = 4? \n ки <extra_0>", odd), ("Q?", ["One."]), ("Long? " * 40, ["a step + 1", "another"] * 20)]
    encoded = [model.encode(problem, steps) for problem, steps in found]
    return [one for one in encoded if len(one) <= model.max_length]


def scores_of(model, traces):
    return [one.sums if one.scores is None else one.scores for one in model.score(traces)]


def relative_differences(ours, theirs):
    """Of numbers beyond 1 a share of the largest: float32 has 24 bits, wherever the point is."""
    return [d / max(1.0, float(np.abs(b).max())) for d, b in zip(differences(ours, theirs), theirs, strict=True)]


def differences(ours, theirs):
    return [float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True)]


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_transformers(family, smol, trained, tmp_path, record_property):
    folder, how = made(family, tmp_path, smol, trained)
    with loaded(folder, "hf", **how) as model:
        traces = traces_of(model)
        expected = scores_of(model, traces)
        hashes, scoring = model.hashes, model.scoring()
    with loaded(folder, "vllm", **how) as model:
        assert [one.ids.tolist() for one in traces_of(model)] == [one.ids.tolist() for one in traces]
        found = scores_of(model, traces)
        alone = [scores_of(model, [trace])[0] for trace in traces[-4:]]
        mixed = scores_of(model, [traces[i] for i in (-1, 0, -3, 1, -2)])
        assert (model.engine, model.hashes, model.scoring()) == ("vllm", hashes, scoring)
    assert len({round(float(x), 4) for one in expected for x in one}) > 20  # the scores tell steps apart
    largest, spread = max(differences(found, expected)), np.concatenate(expected).std()
    record_property("largest difference", largest)
    print(f"\n{family}: {sum(map(len, expected))} steps, spread {spread:.1f}, largest difference {largest:.1e}")
    assert largest < TOLERANCE
    # What else is in the batch does not matter, nor its order.
    assert max(differences(alone, found[-4:])) < 1e-4
    assert max(differences(mixed, [found[i] for i in (-1, 0, -3, 1, -2)])) < 1e-4


# --- what vLLM does with states that it has, and with parts ---


def test_parts_and_kept_states_change_nothing(smol, tmp_path):
    """Chunked prefill is on and the prefix cache is off.

    A text in parts of 48 tokens gives the very same numbers, and so does one seen before, beside one that begins with it.
    """
    folder = support_prm.save_linear_classifier(tmp_path / "m", smol, **WIDE)
    (tmp_path / "layout").mkdir()
    layer = torch.randn(3, WIDE["hidden_size"]), None
    write_layout(folder, tmp_path / "layout", [layer])
    long = np.arange(1023) * 37 % len(smol)  # the longest that is taken
    sequences = [long, long[:300], long[:7], long[::-1][:500]]
    everywhere = [np.arange(len(ids)) for ids in sequences]
    found = {}
    for name, settings in (("whole", {}), ("parts", {"max_num_batched_tokens": 48})):
        engine = VLLMPooling(tmp_path / "layout", CPU, "m", task="token_classify", **settings)
        config = engine.llm.llm_engine.vllm_config
        assert not config.cache_config.enable_prefix_caching
        assert config.scheduler_config.enable_chunked_prefill
        assert engine.max_length == len(long)
        assert config.scheduler_config.max_num_batched_tokens == settings.get("max_num_batched_tokens", 4096)
        found[name] = engine.pool(sequences, everywhere)
        again = engine.pool(sequences[::-1], everywhere[::-1])[::-1]
        engine.close()
        assert max(relative_differences(again, found[name])) < 1e-5
    assert max(relative_differences(found["parts"], found["whole"])) < 1e-5
    assert [one.shape for one in found["whole"]] == [(len(ids), 3) for ids in sequences]
    assert np.abs(found["whole"][0][:300] - found["whole"][1]).max() < 1e-3  # causal: what follows does not matter


def test_a_judge_reads_kept_states_and_says_the_same(smol, tmp_path):
    """The prompts of the steps of a trace begin alike. vLLM keeps their states, which is right where only the next token counts."""
    from prmbench.engines.vllm.engine import VLLMEngine

    folder = support_prm.save_causal(tmp_path / "m", smol, "qwen2", **WIDE)
    whole = np.arange(400) * 37 % len(smol)
    sequences = [whole[:n] for n in (400, 399, 200, 17, 1)]
    engine = VLLMEngine(folder, CPU, "m")
    cold = [engine.next_logprobs_after([ids], [5, 48_000]) for ids in sequences[::-1]][::-1]
    warm = engine.next_logprobs_after(sequences, [5, 48_000])
    from vllm import SamplingParams

    (asked,) = engine.llm.generate([{"prompt_token_ids": whole.tolist()}], SamplingParams(max_tokens=1), use_tqdm=False)
    longest = engine.next_logprobs_after([np.resize(whole, engine.max_length - 1)], [5])
    engine.close()
    assert asked.num_cached_tokens > 300  # so they were read
    assert np.isfinite(longest).all()
    assert warm.shape == (5, 2)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    for ids, one, other in zip(sequences, cold, warm, strict=True):
        with torch.no_grad():
            expected = model(torch.tensor(ids)[None]).logits[0, -1].log_softmax(-1)[[5, 48_000]].numpy()
        assert one[0] == pytest.approx(expected, abs=TOLERANCE)
        assert other == pytest.approx(expected, abs=TOLERANCE)


def test_steps_of_vllm_are_no_token_pairs(tmp_path):
    """Why vLLM's STEP pooling is not used: it finds marks by their id, and its token ids pick coordinates of the state."""
    from vllm import PoolingParams
    from vllm.config import PoolerConfig

    from prmbench.engines.vllm.start import set_environment, start_llm

    set_environment(CPU)  # without the size of its cache vLLM asks for nearly all the memory there is
    tokenizer = support_prm.mistral_tokenizer()
    folder = support_prm.save_causal(tmp_path / "m", tokenizer, **WIDE)
    (tmp_path / "layout").mkdir()
    write_layout(folder, tmp_path / "layout", None)
    mark, columns = tokenizer.convert_tokens_to_ids("ки"), [7, 100]
    pooler = PoolerConfig(task="token_embed", tok_pooling_type="STEP", step_tag_id=mark, returned_token_ids=columns)
    how = {"runner": "pooling", "convert": "embed", "pooler_config": pooler, "enable_chunked_prefill": False}
    llm = start_llm(tmp_path / "layout", CPU, "m", 0.3, skip_tokenizer_init=False, **how)
    ids = [5, mark, 9, 11, mark]  # the first one may be in the text of a problem
    params = PoolingParams(use_activation=False)
    (found,) = llm.encode([{"prompt_token_ids": ids}], params, pooling_task="token_embed", use_tqdm=False)
    llm.llm_engine.engine_core.shutdown()
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(folder)
        states = model.model(torch.tensor([ids])).last_hidden_state[0]
    assert torch.allclose(found.outputs.data, states[[1, 4]][:, columns], atol=1e-4)


# --- several devices ---


def test_data_parallel_gives_what_one_gives(smol, tmp_path):
    folder = support_prm.save_mlp_classifier(tmp_path / "m", smol, **WIDE)
    with loaded(folder, "hf", preset="qwen2.5-math-prm") as model:
        traces = traces_of(model, 5)
        expected = scores_of(model, traces)
    two = LoadOptions(device="cpu", dtype="float32", data_parallel=2)
    with loaded(folder, "vllm", two, preset="qwen2.5-math-prm") as model:
        assert max(differences(scores_of(model, traces), expected)) < TOLERANCE
        assert max(differences(scores_of(model, traces[:1]), expected[:1])) < TOLERANCE
        assert model.device_and_dtype() == ("cpu", "float32")
        processes = [worker.process for worker in model.trunk.engine._workers]
        processes[0].kill()
        with pytest.raises(UserError, match=r"a vLLM process ended .exit code -9"):
            model.score(traces)
    assert not any(process.is_alive() for process in processes)


TENSOR_PARALLEL = """
import json, sys
from pathlib import Path
from prmbench.cli.app import leave
from prmbench.engines.load import LoadOptions
from prmbench.reward_models.loading import load_reward_model

if __name__ == "__main__":
    folder, out, steps = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    options = LoadOptions("cpu", "float32", tensor_parallel=2)
    model = load_reward_model(folder, preset="qwen2.5-math-prm", engine="vllm", load_options=options)
    out.write_text(json.dumps(model.score([model.encode("1 + 1?", steps)])[0].scores.tolist()))
    model.trunk.close()
    leave(0)  # as `prmbench` does
"""


@pytest.mark.parametrize("layers", [1, 2])
def test_tensor_parallel_gives_what_one_device_gives(smol, tmp_path, layers):
    """Heads as well. In a program of its own: vLLM reads its settings once a process."""
    save = support_prm.save_linear_classifier if layers == 1 else support_prm.save_mlp_classifier
    folder, steps = save(tmp_path / "m", smol, **WIDE), ["1 + 1 = 2.", "", "So \\boxed{2}."]
    (tmp_path / "two.py").write_text(TENSOR_PARALLEL)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")}
    command = [sys.executable, tmp_path / "two.py", folder, tmp_path / "found.json", json.dumps(steps)]
    done = subprocess.run(command, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    with loaded(folder, "hf", preset="qwen2.5-math-prm") as model:
        expected = model.score([model.encode("1 + 1?", steps)])[0].scores
    assert json.loads((tmp_path / "found.json").read_text()) == pytest.approx(expected.tolist(), abs=TOLERANCE)
