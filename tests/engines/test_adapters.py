"""PEFT adapters of many kinds: on, off, merged, wherever a checkpoint is named, against PEFT's own forward and the base alone."""

from __future__ import annotations

import copy
import json
import shutil

import numpy as np
import peft
import pytest
import support
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer

import prmbench
from prmbench import limits
from prmbench.engines.adapters import switchable
from prmbench.engines.checkpoint import checkpoint_hash
from prmbench.engines.load import LoadOptions, load_causal_lm, load_trunk
from prmbench.errors import UserError
from prmbench.reward_models.loading import load_reward_model

# PEFT and torch warn of what some kinds of adapters are; here they are made on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

CPU = LoadOptions("cpu", "float32")
PROBLEM, STEPS = "What is 3 + 4?", ["Adding 3 to 4 gives 7.", "So it is 7.", "Therefore 7."]
LINEAR = ["q_proj", "up_proj"]


def lora(**fields):
    return peft.LoraConfig(**{"r": 4, "target_modules": LINEAR, "init_lora_weights": False, **fields})


# name: (config, whether switching it off gives the base, on a base with biases)
KINDS = {
    "lora": (lora(), True),
    "rank-stabilised": (lora(use_rslora=True), True),
    "gaussian": (lora(init_lora_weights="gaussian"), True),
    "orthogonal": (lora(init_lora_weights="orthogonal"), True),
    "dora": (lora(use_dora=True), True),
    "pissa": (lora(init_lora_weights="pissa"), False),
    "olora": (lora(init_lora_weights="olora"), False),
    "bias all": (lora(bias="all"), False),
    "bias lora_only": (lora(bias="lora_only"), False),
    "lora bias": (lora(lora_bias=True), True),
    "some layers": (lora(layers_to_transform=[0]), True),
    "head saved": (lora(modules_to_save=["lm_head"]), True),
    "tables saved": (lora(modules_to_save=["embed_tokens", "lm_head"]), True),
    "norm saved": (lora(modules_to_save=["norm"]), True),
    "head": (lora(target_modules=["lm_head"]), True),
    "embedding": (lora(target_modules=["embed_tokens", "q_proj"]), True),
    "tokens": (lora(trainable_token_indices=[5, 9]), True),
    "trainable tokens": (peft.TrainableTokensConfig(token_indices=[5, 9]), True),
    "ia3": (peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]), True),
    "loha": (peft.LoHaConfig(r=4, target_modules=LINEAR, init_weights=False), True),
    "lokr": (peft.LoKrConfig(r=4, target_modules=LINEAR, init_weights=False), True),
    "adalora": (peft.AdaLoraConfig(target_modules=LINEAR, init_r=4, target_r=2, total_step=9), True),
    "oft": (peft.OFTConfig(oft_block_size=8, target_modules=LINEAR), True),
    "boft": (peft.BOFTConfig(boft_block_size=4, target_modules=LINEAR), True),
    "vera": (peft.VeraConfig(r=4, target_modules=["q_proj"]), True),
    "norms": (peft.LNTuningConfig(target_modules=["norm", "input_layernorm"]), True),
    "hra": (peft.HRAConfig(r=4, target_modules=LINEAR), True),
    "shira": (peft.ShiraConfig(r=4, target_modules=LINEAR), True),
    "osf": (peft.OSFConfig(target_modules=["q_proj"]), True),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    return {
        "biases": support.save_checkpoint(root / "biases", attention_bias=True, mlp_bias=True),
        "tied": support.save_checkpoint(root / "tied", tie_word_embeddings=True),
    }


def adapt(base, folder, config, noise=0.05):
    """Write an adapter of some kind, moved away from where it starts. The model with it in place, as PEFT computes it."""
    torch.manual_seed(1)
    adapter = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), copy.deepcopy(config))
    with torch.no_grad():
        for parameter in adapter.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * noise)
    adapter.eval().save_pretrained(folder)
    return adapter


def logits(model, seed=0):
    ids = torch.from_numpy(np.random.default_rng(seed).integers(3, 400, size=(1, 30)))
    with torch.no_grad():
        return model(input_ids=ids).logits[0].numpy()


@pytest.mark.parametrize("base", ["biases", "tied"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_on_off_and_merged(bases, base, kind, tmp_path):
    config, gives_base = KINDS[kind]
    folder, plain = tmp_path / "adapter", AutoModelForCausalLM.from_pretrained(bases[base]).eval()
    wanted = logits(adapt(bases[base], folder, config))
    assert np.abs(wanted - logits(plain)).max() > 1e-3

    # On: as PEFT has it. Off: the very bits of the base, or it is said that it does not give the base.
    model, off = switchable(load_causal_lm(bases[base], CPU), folder)
    assert logits(model) == pytest.approx(wanted, abs=1e-5)
    assert (off is not None) == (gives_base or (base == "tied" and kind.startswith("bias")))  # `tied` has no biases
    if off is not None:
        with off():
            assert (logits(model) == logits(plain)).all()

    # Merged: the same, and again after it was saved. One kind cannot be merged into layers that lack a bias.
    if (kind, base) == ("lora bias", "tied"):
        with pytest.raises(UserError, match="a LORA adapter cannot be merged into its base"):
            load_causal_lm(folder, CPU)
        return
    merged = load_causal_lm(folder, CPU)
    assert logits(merged) == pytest.approx(wanted, abs=3e-3 if kind == "randlora" else 1e-4)
    merged.save_pretrained(tmp_path / "merged")
    assert logits(load_causal_lm(tmp_path / "merged", CPU)) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("kind", ["lora", "pissa", "olora", "bias all", "dora", "tokens", "head", "norm saved"])
def test_step_sums_are_those_of_two_whole_models(bases, kind, tmp_path):
    config, gives_base = KINDS[kind]
    adapted = adapt(bases["biases"], tmp_path / "adapter", config)
    plain = AutoModelForCausalLM.from_pretrained(bases["biases"]).eval()
    model = load_reward_model(tmp_path / "adapter")
    assert (model.reference.engine() is model.model) == gives_base
    encoded = model.encode(PROBLEM, STEPS)
    assert model.score([encoded])[0].sums == pytest.approx(step_sums(encoded, adapted, plain), abs=1e-4)


def step_sums(encoded, model, reference):
    """In float64, by whole logits."""
    ids, at = torch.tensor(encoded.ids)[None], np.arange(encoded.n_prompt, len(encoded.ids))
    both = []
    for one in (model, reference):
        with torch.no_grad():
            found = one(input_ids=ids).logits[0].double().log_softmax(-1).numpy()
        both.append(found[at - 1, encoded.ids[at]])
    return encoded.step_sums(both[0] - both[1])


def test_log_probs_that_are_kept_are_those_of_the_base(bases, tmp_path, monkeypatch):
    """Another model, scored after an adapter that changes its base, gets what it gets without the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PRMBENCH_CACHE_GIB", "1")
    data = support.write_traces(tmp_path / "traces.jsonl", 6)
    other = support.save_checkpoint(tmp_path / "other", seed=3, attention_bias=True, mlp_bias=True)
    run = {"data": data, "n_resamples": 10}
    alone = [
        prmbench.evaluate(other, reference=bases["biases"], output=tmp_path / "alone", reference_cache=False, **run)
    ]
    for number, kind in enumerate(("pissa", "bias all")):
        adapt(bases["biases"], tmp_path / kind, KINDS[kind][0])
        prmbench.evaluate(tmp_path / kind, output=tmp_path / f"{kind}-out", **run)
        alone.append(prmbench.evaluate(other, reference=bases["biases"], output=tmp_path / f"after{number}", **run))
    items = [(path.parent / "items.jsonl").read_bytes() for _, path in alone]
    assert items[1] == items[2] == items[0]
    assert alone[2][0].provenance.run.cached_tokens == alone[2][0].provenance.run.tokens  # it was there to be found


def test_a_reference_that_is_not_the_base(bases, tmp_path):
    """The adapter stays on its own base."""
    adapted = adapt(bases["biases"], tmp_path / "adapter", lora())
    other = support.save_checkpoint(tmp_path / "other", seed=3, attention_bias=True, mlp_bias=True)
    model = load_reward_model(tmp_path / "adapter", reference=other)
    encoded = model.encode(PROBLEM, STEPS)
    wanted = step_sums(encoded, adapted, AutoModelForCausalLM.from_pretrained(other).eval())
    assert model.score([encoded])[0].sums == pytest.approx(wanted, abs=1e-4)
    assert model.hashes == {"model": checkpoint_hash(tmp_path / "adapter"), "reference": checkpoint_hash(other)}


def test_a_copy_of_the_base_is_the_base(bases, tmp_path):
    adapt(bases["biases"], tmp_path / "adapter", lora())
    copied = shutil.copytree(bases["biases"], tmp_path / "copy")
    model = load_reward_model(tmp_path / "adapter", reference=copied)
    assert model.reference.engine() is model.model


def test_more_tokens_than_the_base(bases, tmp_path):
    """Tables that were made longer come with the adapter; the two are compared on the ids that both know."""
    base = bases["biases"]
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(408, mean_resizing=False)
    adapter = peft.get_peft_model(model, lora(modules_to_save=["embed_tokens", "lm_head"]))
    adapter.eval().save_pretrained(tmp_path / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["[PAD]"])
    tokenizer.save_pretrained(tmp_path / "adapter")
    assert logits(load_causal_lm(tmp_path / "adapter", CPU)) == pytest.approx(logits(adapter), abs=1e-4)
    loaded = load_reward_model(tmp_path / "adapter")
    encoded = loaded.encode(PROBLEM, STEPS)
    ids, at = torch.tensor(encoded.ids)[None], np.arange(encoded.n_prompt, len(encoded.ids))
    both = []
    for one in (adapter, AutoModelForCausalLM.from_pretrained(base)):
        with torch.no_grad():
            found = one(input_ids=ids).logits[0, :, :407].double().log_softmax(-1).numpy()
        both.append(found[at - 1, encoded.ids[at]])
    assert loaded.token_values([encoded])[0] == pytest.approx(both[0] - both[1], abs=1e-4)


# --- what is refused ---


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3), "PROMPT_TUNING"),
        (peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3), "PREFIX_TUNING"),
        (peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=16), "P_TUNING"),
        (peft.AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=3, adapter_layers=1), "ADAPTION_PROMPT"),
    ],
)
def test_what_puts_states_before_the_text(bases, config, kind, tmp_path):
    adapt(bases["biases"], tmp_path / "adapter", config)
    for load in (lambda: load_reward_model(tmp_path / "adapter"), lambda: load_causal_lm(tmp_path / "adapter", CPU)):
        with pytest.raises(UserError, match=f"a {kind} adapter puts learned states before the text"):
            load()


def test_a_start_that_no_second_run_repeats(bases, tmp_path):
    adapt(bases["biases"], tmp_path / "adapter", lora(init_lora_weights="pissa_niter_4"))
    with pytest.raises(UserError, match="started by a random decomposition of its base"):
        load_reward_model(tmp_path / "adapter")


def test_without_effect(bases, tmp_path, capsys):
    adapt(bases["biases"], tmp_path / "adapter", lora(init_lora_weights=True), noise=0)
    assert "compute the same, so that every score is 0" in load_reward_model(tmp_path / "adapter").warnings[0]
    assert "compute the same" in capsys.readouterr().err
    with pytest.raises(UserError, match="the adapter has no effect on its base; was it trained"):
        load_causal_lm(tmp_path / "adapter", CPU)


def change_adapter(folder, change):
    weights = load_file(folder / "adapter_model.safetensors")
    change(weights)
    save_file(weights, folder / "adapter_model.safetensors")


def rename(weights):
    for name in list(weights):
        weights[name.replace("q_proj", "query")] = weights.pop(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename, r"4 of its weights have no place there, 4 are missing"),
        (lambda weights: weights.pop(next(iter(weights))), r"0 of its weights have no place there, 1 are missing"),
        (lambda weights: weights[next(iter(weights))].fill_(torch.nan), r"holds NaN or infinite numbers"),
    ],
)
def test_weights_that_do_not_fit_are_not_passed_over(bases, change, message, tmp_path):
    adapt(bases["biases"], tmp_path / "adapter", lora())
    change_adapter(tmp_path / "adapter", change)
    for load in (lambda: load_reward_model(tmp_path / "adapter"), lambda: load_causal_lm(tmp_path / "adapter", CPU)):
        with pytest.raises(UserError, match=message):
            load()


def test_bases_that_are_not_there(bases, tmp_path):
    adapt(bases["biases"], tmp_path / "adapter", lora())
    config = tmp_path / "adapter" / "adapter_config.json"
    for name, message in (
        ("someone/gone", r"adapter_config.json: `base_model_name_or_path=someone/gone`: no such folder"),
        (None, "names no base model"),
        (".", "leads back to itself"),
    ):
        support.change_json(config, base_model_name_or_path=name)
        with pytest.raises(UserError, match=message):
            load_reward_model(tmp_path / "adapter", kind="endo")


# --- wherever a checkpoint is named ---


def test_policies_critics_judges_and_endo(bases, tmp_path):
    from prmbench.data.prompts import find_prompt
    from prmbench.engines.sampling import Request, SamplingParams
    from prmbench.policies.policy import load_policy

    adapted = adapt(bases["biases"], tmp_path / "adapter", lora())
    policy = load_policy(str(tmp_path / "adapter"), find_prompt("bare"))
    prompt = policy.encoder.prompt_ids("What is 1 + 1?")
    (found,) = policy.engine.generate(
        [Request(prompt, "a", 0)], frozenset(), SamplingParams(temperature=0, max_new_tokens=8), 0
    )
    ids = prompt.tolist()
    for token in found.ids:
        with torch.no_grad():
            assert int(adapted(input_ids=torch.tensor([ids])).logits[0, -1].argmax()) == token
        ids.append(int(token))
    assert policy.hashed == checkpoint_hash(tmp_path / "adapter") != checkpoint_hash(bases["biases"])

    adapted.merge_and_unload().save_pretrained(tmp_path / "whole")
    AutoTokenizer.from_pretrained(bases["biases"]).save_pretrained(tmp_path / "whole")
    for kind, settings in (("endo", {}), ("judge", {"pair": ("7", "4")})):
        sums = []
        for folder in (tmp_path / "adapter", tmp_path / "whole"):
            model = load_reward_model(folder, kind=kind, **settings)
            one = model.score([model.encode(PROBLEM, STEPS)])[0]
            sums.append(one.sums if one.sums is not None else one.scores)
        assert sums[0] == pytest.approx(sums[1], abs=1e-3), kind


def test_a_classifier(bases, tmp_path):
    """A head that is trained whole beside low-rank layers."""
    base = bases["biases"]
    torch.manual_seed(2)
    whole = AutoModelForTokenClassification.from_pretrained(base, num_labels=2)
    config = peft.LoraConfig(r=4, target_modules=LINEAR, init_lora_weights=False, task_type="TOKEN_CLS")
    adapter = peft.get_peft_model(whole, config)
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if "modules_to_save" in name:
                parameter.normal_(std=0.5)
    adapter.eval().save_pretrained(tmp_path / "adapter")
    model = load_reward_model(tmp_path / "adapter", kind="classifier", marks={"mark": "<|end|>"})
    encoded = model.encode(PROBLEM, STEPS)
    with torch.no_grad():
        logits = adapter(input_ids=torch.tensor(encoded.ids)[None]).logits[0]
    wanted = (logits[:, 1] - logits[:, 0])[torch.tensor(encoded.marks)].numpy()
    assert model.score([encoded])[0].scores == pytest.approx(wanted, abs=1e-4)
    with pytest.raises(UserError, match=r"holds the head of a reward model \('score.bias'\)"):
        load_causal_lm(tmp_path / "adapter", CPU)
    assert load_trunk(tmp_path / "adapter", CPU).get_output_embeddings() is None


def test_an_adapter_on_an_adapter_and_as_reference(bases, tmp_path):
    first = adapt(bases["biases"], tmp_path / "sft", lora())
    first.merge_and_unload().save_pretrained(tmp_path / "sft-whole")
    second = adapt(tmp_path / "sft-whole", tmp_path / "rm", lora(target_modules=["v_proj"]))
    support.change_json(tmp_path / "rm" / "adapter_config.json", base_model_name_or_path="../sft")
    AutoTokenizer.from_pretrained(bases["biases"]).save_pretrained(tmp_path / "sft-whole")
    for name, reference in ((tmp_path / "rm", None), (tmp_path / "rm", tmp_path / "sft")):
        model = load_reward_model(name, reference=reference)
        encoded = model.encode(PROBLEM, STEPS)
        wanted = step_sums(encoded, second, AutoModelForCausalLM.from_pretrained(tmp_path / "sft-whole").eval())
        assert model.score([encoded])[0].sums == pytest.approx(wanted, abs=1e-3)


def test_the_hash_is_of_the_base_too(bases, tmp_path):
    adapt(bases["biases"], tmp_path / "adapter", lora())
    before = checkpoint_hash(tmp_path / "adapter")
    copied = shutil.copytree(bases["biases"], tmp_path / "copy")
    support.change_weights(copied, lambda weights: weights["model.norm.weight"].mul_(1.01))
    support.change_json(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=str(copied))
    changed = checkpoint_hash(tmp_path / "adapter")
    support.change_weights(copied, lambda weights: weights["model.norm.weight"].mul_(1.01))
    assert len({before, changed, checkpoint_hash(tmp_path / "adapter")}) == 3
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["peft_type"] == "LORA"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("target_modules", "((model|layers|[a-z._0-9])+)+!"),
        ("exclude_modules", "((.)+)+!"),
        ("rank_pattern", {"((.)+)+!": 3}),
        ("modules_to_save", ["((.)+)+!"]),
    ],
)
def test_a_pattern_that_does_not_end_is_one_sentence(bases, field, value, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "SECONDS", 2.0)
    adapt(bases["biases"], tmp_path / "adapter", lora())
    support.change_json(tmp_path / "adapter" / "adapter_config.json", **{field: value})
    with pytest.raises(UserError, match=r"adapter_config.json: a pattern for names of layers .* does not end within"):
        load_causal_lm(tmp_path / "adapter", CPU)


def test_a_pattern_that_ends_is_one(bases, tmp_path):
    config = lora(target_modules=r".*\.(q_proj|up_proj)", rank_pattern={r"up_.*": 2})
    adapted = adapt(bases["biases"], tmp_path / "adapter", config)
    assert logits(load_causal_lm(tmp_path / "adapter", CPU)) == pytest.approx(logits(adapted), abs=1e-4)
