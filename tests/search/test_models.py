"""Searches with real models: plain sampling in the limit, scores as Best-of-N has them, each token run once."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import support
import support_prm
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from prmbench.benchmarks.best_of_n.metrics import completion_scores
from prmbench.benchmarks.best_of_n.run import evaluate_best_of_n
from prmbench.data.completions import StoredCompletion
from prmbench.data.prompts import find_prompt
from prmbench.engines.hf.kv_cache import cache_argument
from prmbench.engines.sampling import Request, SamplingParams
from prmbench.policies.policy import load_policy
from prmbench.reward_models.loading import load_reward_model
from prmbench.reward_models.objectives import Convention
from prmbench.reward_models.subject import describe
from prmbench.search.compute import shape_of
from prmbench.search.drive import run_searches
from prmbench.search.methods import METHODS, Setting, best
from prmbench.search.paths import ROOT, Growth, Task
from prmbench.search.sampler import PolicySampler
from prmbench.search.scorer import ModelScorer
from prmbench.search.step_ends import StepEnds

PROMPT = find_prompt("number")
MARKERS = (" ", "e", "1")
PARAMS = SamplingParams(max_new_tokens=20)
PROBLEMS = ("What is 2 + 3?", "Tom has 3 apples.", "What is 2 + 4?")


@pytest.fixture(scope="module")
def policy(tiny):
    loaded = load_policy(str(tiny), PROMPT)
    loaded.stop |= frozenset(range(7, loaded.engine.vocabulary, 25))  # or a random model would hardly ever end
    return loaded


@pytest.fixture(scope="module")
def kinds(tiny, tiny_tuned, tmp_path_factory):
    """A reward model of every kind that scores, by name: loads it."""
    folder = tmp_path_factory.mktemp("kinds")
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny), LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    )
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    adapted.peft_config["default"].base_model_name_or_path = str(tiny)
    adapted.save_pretrained(folder / "adapter")
    q_rm = support.save_checkpoint(folder / "q_rm", seed=8)
    weights = load_file(q_rm / "model.safetensors")
    width = json.loads((q_rm / "config.json").read_text())["hidden_size"]
    save_file(
        weights | {"value_head.weight": torch.randn(1, width)}, q_rm / "model.safetensors", metadata={"format": "pt"}
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<extra_0>", "ки"]})
    support_prm.save_mlp_classifier(folder / "classifier", tokenizer)
    support_prm.save_value_head(folder / "value_head", tokenizer)
    support_prm.save_causal(folder / "pair", support_prm.mistral_tokenizer())
    other = support_prm.mistral_tokenizer()
    other.chat_template = support.TEMPLATE
    support_prm.save_causal(folder / "other", other)
    given = {
        "implicit": (tiny_tuned, {"reference": str(tiny), "objective": "ipvrm"}),
        "implicit sum": (tiny_tuned, {"reference": str(tiny), "objective": "implicit_prm"}),
        "adapter": (folder / "adapter", {"objective": "dpo"}),
        "q_rm after": (q_rm, {"kind": "q_rm", "objective": "q_rm", "read_state": "after"}),
        "q_rm before": (q_rm, {"kind": "q_rm", "objective": "q_rm", "read_state": "before"}),
        "endo": (tiny_tuned, {"kind": "endo"}),
        "classifier": (folder / "classifier", {"kind": "classifier"}),
        "value_head": (folder / "value_head", {"kind": "value_head"}),
        "token_pair": (folder / "pair", {"preset": "math-shepherd"}),
        "other vocabulary": (folder / "other", {"kind": "endo"}),
    }
    return lambda name: load_reward_model(given[name][0], **given[name][1])


KINDS = (
    "implicit",
    "implicit sum",
    "adapter",
    "q_rm after",
    "q_rm before",
    "endo",
    "classifier",
    "value_head",
    "token_pair",
    "other vocabulary",
)


def tasks_of(policy):
    return [Task(f"p{i}", text, policy.encoder.prompt_ids(PROMPT.render(text))) for i, text in enumerate(PROBLEMS)]


def search(policy, model, method, setting, *, how="own", tasks=None, seed=0, keep=True):
    ends = StepEnds(policy.encoder.tokenizer, MARKERS)
    sampler = PolicySampler(policy, ends, PARAMS, seed)
    scorer = ModelScorer(model, policy, PROMPT, how, Convention.of(describe(model, "m", "m")))
    tasks = tasks_of(policy) if tasks is None else tasks
    searches = [(task, METHODS[method](setting(task))) for task in tasks]
    if not keep:
        return run_searches(searches, sampler, scorer)
    with scorer.keeping():
        return run_searches(searches, sampler, scorer)


@pytest.mark.parametrize("method", ["best-of-n", "beam", "dvts", "particles"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_one_path_is_what_the_policy_samples(policy, kinds, method, temperature, monkeypatch):
    monkeypatch.setattr(f"{__name__}.PARAMS", PARAMS.model_copy(update={"temperature": temperature, "top_p": 0.9}))
    tasks = tasks_of(policy)
    requests = [Request(task.prompt, task.key, 0) for task in tasks]
    expected = policy.engine.generate(requests, policy.stop, PARAMS, seed=3)
    found = search(policy, kinds("endo"), method, lambda t: Setting(1, width=1, key=t.key), seed=3)
    for one, plain in zip(found, expected, strict=True):
        (path,) = one.candidates
        assert path.ids.tolist() == plain.ids.tolist()
        assert path.end == plain.finish_reason
        assert sum(cost.sampled for cost in one.costs) == len(plain.ids)
    if method != "best-of-n":
        assert max(len(one.candidates[0].ends) for one in found) > 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_score_of_a_response_is_that_of_best_of_n(policy, kinds, kind, tmp_path):
    """Step by step, from what is kept, comes what scoring the whole response at once gives; and so without anything kept."""
    model = kinds(kind)
    for how in ("own", "min"):
        found = search(policy, model, "beam", lambda t: Setting(4, width=2, key=t.key), how=how)
        again = search(policy, model, "beam", lambda t: Setting(4, width=2, key=t.key), how=how, keep=False)
        decode = policy.encoder.tokenizer.decode
        stored = [
            StoredCompletion(
                subset="a",
                id=f"p{i}",
                problem=PROBLEMS[i],
                answer="1",
                sample=k,
                text=decode(path.ids, skip_special_tokens=True),
                ids=path.ids,
                truncated=path.end == "length",
            )
            for i, one in enumerate(found)
            for k, path in enumerate(one.candidates)
        ]
        _, path = evaluate_best_of_n(model, stored, PROMPT, name="m", source="m", output=tmp_path / how, n_resamples=0)
        items = [json.loads(line) for line in (path.parent / "items.jsonl").read_text().splitlines()]
        from prmbench.benchmarks.best_of_n.schema import CompletionScores

        convention = Convention.of(describe(model, "m", "m"))
        expected = [
            completion_scores(CompletionScores(**one), convention)[convention.own if how == "own" else how]
            for one in items
        ]
        got = [path.score for one in found for path in one.candidates]
        np.testing.assert_allclose(got, expected, atol=2e-3, rtol=1e-4)
        # Without kept states the same paths are found, and cost more.
        ids = [[path.ids.tolist() for path in one.candidates] for one in found]
        assert ids == [[path.ids.tolist() for path in one.candidates] for one in again]
        spent = [sum(cost.scored for one in some for cost in one.costs) for some in (found, again)]
        windows = kind in ("token_pair", "other vocabulary")  # Mistral's: its states are not kept
        assert spent[0] == spent[1] if windows else spent[0] < spent[1]


class Forwards:
    """Counts the tokens that a decoder runs, padding left out."""

    def __init__(self, trunk: torch.nn.Module) -> None:
        self.tokens = 0
        self.hook = trunk.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module, args, kwargs):
        ids, mask = kwargs["input_ids"], kwargs.get("attention_mask")
        self.tokens += ids.numel() if mask is None else int(mask[:, -ids.shape[1] :].sum())


@pytest.mark.parametrize("kind", ["implicit", "adapter", "endo", "classifier", "q_rm after"])
@pytest.mark.parametrize("method", ["beam", "dvts", "particles"])
def test_no_prefix_is_run_twice(policy, kinds, kind, method):
    """What runs on the policy, the model and its reference is what is counted: each prompt once, each token of a path once."""
    model = kinds(kind)
    decoders = model.decoders()
    trunks = list({id(t): t for d in decoders for t in [getattr(d, "trunk", None) or d.model]}.values())
    task = tasks_of(policy)[1]
    ends = StepEnds(policy.encoder.tokenizer, MARKERS)
    sampler = PolicySampler(policy, ends, PARAMS, 0)
    scorer = ModelScorer(model, policy, PROMPT, "own", Convention.of(describe(model, "m", "m")))
    watch = {"policy": Forwards(policy.engine.trunk)} | {
        f"model {i}": Forwards(trunk) for i, trunk in enumerate(trunks)
    }
    with scorer.keeping():
        stores = list(scorer.stores)
        (found,) = run_searches(
            [(task, METHODS[method](Setting(6, width=3, temperature=math.inf, key="p1")))], sampler, scorer
        )
    for one in watch.values():
        one.hook.remove()
    cost = found.costs[0]
    for more in found.costs[1:]:
        cost = cost + more
    assert len(found.costs) > 3
    assert sampler.store.works
    assert all(store.works for store in stores)
    # The policy: operations are counted from the same tokens as run, those of idle rows left out.
    assert watch["policy"].tokens >= sampler.store.tokens + sampler.store.checked_tokens
    assert sampler.store.tokens <= len(task.prompt) + cost.sampled
    # The models: what is counted is run, but for the last tokens of paths that nothing follows, in each decoder.
    ran = sum(store.tokens for store in stores)
    assert ran + sum(store.checked_tokens for store in stores) == sum(
        watch[f"model {i}"].tokens for i in range(len(trunks))
    )
    rounds = 6 * len(found.costs)
    assert len(stores) * (cost.scored - rounds) <= ran <= len(stores) * cost.scored


def test_costs_are_worked_out_from_the_shape(policy, kinds):
    """Two steps of one path, by hand: the prompt, then every token but the last of each step, whose logits are read."""
    model = kinds("endo")
    task = tasks_of(policy)[0]
    (found,) = search(policy, model, "beam", lambda t: Setting(1, width=1, key=t.key), tasks=[task])
    shape = shape_of(policy.engine)
    (path,) = found.candidates
    at = [0, *path.ends]
    prompt = len(task.prompt)
    assert found.costs[0].policy_flops == shape.forward(0, prompt, 1)
    for k, cost in enumerate(found.costs[1:]):
        new = at[k + 1] - at[k]
        assert (cost.sampled, cost.scored) == (new, new)
        start = prompt + at[k] - (1 if k else 0)
        assert cost.policy_flops == pytest.approx(
            shape.forward(start, prompt + at[k + 1] - 1, new - 1 + (1 if k else 0)), rel=1e-12
        )
    whole = sum(cost.model_flops for cost in found.costs)
    assert whole == pytest.approx(shape.forward(0, prompt + len(path.ids), len(path.ids)), rel=1e-12)


def test_operations_are_those_that_torch_counts(policy, smollm2):
    """An independent count of matrix products: torch's own, of a token after a prefix, and of a whole sequence's weights."""
    from torch.utils.flop_counter import FlopCounterMode

    # Torch does not count within its kernels for a CPU; half precision is slow there.
    eager = {"attn_implementation": "eager", "dtype": torch.float32}
    for model in (AutoModelForCausalLM.from_pretrained(one, **eager).eval() for one in (policy.source, smollm2)):
        shape = shape_of(type("Engine", (), {"model": model}))
        ids = torch.arange(3, 20)[None]
        with torch.inference_mode():
            cache = model(input_ids=ids[:, :-1], use_cache=True).past_key_values
            with FlopCounterMode(display=False) as counted:
                model(input_ids=ids[:, -1:], use_cache=True, **{cache_argument(model): cache})
            assert counted.get_total_flops() == pytest.approx(shape.forward(16, 17, 1), rel=1e-3)
            with FlopCounterMode(display=False) as counted:
                model(input_ids=ids, use_cache=False)
        # Kernels attend to the whole square, of which a causal model needs the lower half.
        square = 4 * shape.attention * 17 * 17
        causal = 4 * shape.attention * 17 * 18 // 2
        assert counted.get_total_flops() == pytest.approx(shape.forward(0, 17, 17) - causal + square, rel=1e-3)


def test_forward_sums_over_tokens():
    from prmbench.search.compute import ModelShape

    shape = ModelShape(weights=7, attention=3, head=5)
    for start, end in ((0, 1), (0, 9), (4, 9), (6, 6)):
        expected = sum(2 * 7 + 4 * 3 * (p + 1) for p in range(start, end)) + 2 * 5 * 2
        assert shape.forward(start, end, 2) == expected


def test_an_engine_of_another_kind_is_asked_by_its_tokens(policy, monkeypatch):
    """Without kept states a step is sampled by asking for tokens up to one that may end it: the same ends, no token lost."""
    ends = StepEnds(policy.encoder.tokenizer, MARKERS)
    sampler = PolicySampler(policy, ends, PARAMS, 0)
    sampler.store = None
    task = tasks_of(policy)[0]
    paths = [(path) for path, _ in sampler.grow([(task, Growth(ROOT, k)) for k in range(6)])]
    kept = PolicySampler(policy, ends, PARAMS, 0)
    expected = [path for path, _ in kept.grow([(task, Growth(ROOT, k)) for k in range(6)])]
    # The first part of a step has the numbers of plain sampling; where that part ends the step, the step is the same.
    assert sum(a.ids.tolist() == b.ids.tolist() for a, b in zip(paths, expected, strict=True)) >= 3
    for path in paths:
        ids = path.ids.tolist()
        assert path.end or ends.ended(ids)
        assert not any(ends.ended(ids[:n]) for n in range(1, len(ids)))


@pytest.mark.parametrize(
    ("text", "ended"),
    [
        ("a", False),
        ("a\n", False),
        ("a\n\n", True),
        ("\n\n", False),
        ("\n\na", False),
        ("\n\na\n\n", True),
        ("a<step>", True),
        ("a\n\n\n", True),
    ],
)
def test_where_a_step_ends(tiny, text, ended):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    ends = StepEnds(tokenizer, ("\n\n", "<step>"))
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert ends.ended(ids) == ended
    assert ends.may_end(ids[-1]) or not ended
    assert set(ends.ending.tolist()) == {i for i in range(len(tokenizer)) if ends.may_end(i)}


def test_a_step_is_cut_where_it_is_too_long(policy, kinds):
    ends = StepEnds(policy.encoder.tokenizer, ("never so",), longest=3)
    sampler = PolicySampler(policy, ends, PARAMS, 0)
    grown = [path for path, _ in sampler.grow([(task, Growth(ROOT, 0)) for task in tasks_of(policy)])]
    assert all(len(path.ids) == 3 or path.end for path in grown)
    assert any(path.end is None for path in grown)


def test_a_search_does_not_depend_on_its_batch(policy, kinds):
    model = kinds("implicit")
    for method in ("beam", "dvts", "particles"):
        together = search(policy, model, method, lambda t: Setting(5, width=2, key=t.key))
        for k, task in enumerate(tasks_of(policy)):
            (alone,) = search(policy, model, method, lambda t: Setting(5, width=2, key=t.key), tasks=[task])
            assert [p.ids.tolist() for p in alone.candidates] == [p.ids.tolist() for p in together[k].candidates]
            assert [c.sampled for c in alone.costs] == [c.sampled for c in together[k].costs]
            assert [c.flops for c in alone.costs] == pytest.approx([c.flops for c in together[k].costs], rel=1e-12)


def test_guided_search_raises_the_score(policy, kinds):
    """What it is for: the chosen path scores higher than the first sample, on the mean."""
    model = kinds("implicit")
    one = search(policy, model, "best-of-n", lambda t: Setting(1, key=t.key))
    for method in ("best-of-n", "beam", "dvts"):
        found = search(policy, model, method, lambda t: Setting(8, width=4, key=t.key))
        gain = [a.candidates[best(a.candidates)].score - b.candidates[0].score for a, b in zip(found, one, strict=True)]
        assert min(gain) >= 0 or method != "best-of-n"
        assert sum(gain) > 0
        assert not any(math.isinf(p.score) for a in found for p in a.candidates)
