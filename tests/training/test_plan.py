from __future__ import annotations

import json

import pytest
import support
import torch
from support_training import TRAINED, write_outcomes
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, Qwen3Config
from typer.testing import CliRunner

from prmbench.cli.app import app
from prmbench.errors import UserError
from prmbench.resources import resource_folder
from prmbench.reward_models.q_rm import VALUE_HEAD
from prmbench.training.plan import GIB, SHARDED, Launch, activation_numbers, adapter_count, parameter_count
from prmbench.training.prm.recipe import PRMRecipe
from prmbench.training.recipes.lora import LoraOptions
from prmbench.training.recipes.read import load_recipe
from prmbench.training.recipes.shapes import Backbone
from prmbench.training.rl.recipe import RLRecipe
from prmbench.training.rm.recipe import RMRecipe
from prmbench.training.sft.recipe import SFTRecipe

BACKBONES = {
    "qwen3-0.6b": 596_049_920,
    "qwen3-8b": 8_190_735_360,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
}
SHAPES = [
    Backbone(
        layers=2, width=64, heads=4, kv_heads=2, head_dim=16, intermediate=96, vocabulary=200, tied=True, qk_norm=q
    )
    for q in (False, True)
] + [Backbone(layers=3, width=32, heads=4, kv_heads=4, head_dim=8, intermediate=128, vocabulary=150, tied=False)]


def build(shape):
    config = (Qwen3Config if shape.qk_norm else LlamaConfig)(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=shape.tied,
    )
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("shape", SHAPES)
def test_counts_equal_real_models(shape):
    from peft import get_peft_model

    model = build(shape)
    assert parameter_count(shape) == sum(p.numel() for p in model.parameters())
    lora = LoraOptions(rank=3, alpha=3)
    adapted = get_peft_model(model, lora.config())
    assert adapter_count(shape, lora) == sum(p.numel() for p in adapted.parameters() if p.requires_grad)


@pytest.mark.parametrize("shape", SHAPES)
def test_activations_equal_what_autograd_keeps(shape):
    kept: dict[int, tuple[int, torch.Tensor]] = {}
    tokens, totals = 128, []
    for layers in (1, 3):
        model = build(shape.model_copy(update={"layers": layers}))
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        kept.clear()

        def keep(tensor, own=own):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = (storage.nbytes(), tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            out = model.get_decoder()(input_ids=torch.randint(0, 100, (1, tokens)), use_cache=False)
        totals.append(sum(n for n, _ in kept.values()) / 4 / tokens)
        assert out is not None
    assert sum(activation_numbers(shape)) == pytest.approx((totals[1] - totals[0]) / 2, rel=0.05)


EXPLICIT = ("step_ce", "step_soft", "token_pair", "beta_binomial", "prefix_gain")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_recipe_of_the_paper_plans_without_hub_or_gpu(backbone):
    folder = resource_folder("training")
    names = sorted(p.stem for p in (folder / backbone).glob("*.yaml"))
    assert names == sorted(["backbone", "sft", *TRAINED, *EXPLICIT, *POLICIES])
    for name in EXPLICIT:
        explicit = load_recipe(f"{backbone}/{name}.yaml", PRMRecipe)
        plan = explicit.plan()
        width = explicit.backbone.width
        head = {"token_pair": 0, "prefix_gain": 2 * width, "beta_binomial": 5 * width + 3}.get(name, 2 * width + 2)
        assert (explicit.objective, plan.parameters) == (name, BACKBONES[backbone] + head)
        assert plan.steps > 100
    for name in [*TRAINED, "sft"]:
        recipe = load_recipe(f"{backbone}/{name}.yaml", SFTRecipe if name == "sft" else RMRecipe)
        plan = recipe.plan()
        extra = recipe.backbone.width if name == "q_rm" else 0
        assert plan.parameters == BACKBONES[backbone] + extra
        assert plan.steps > 100
        assert recipe.batch_size == 64
        if name == "sft":
            assert recipe.data == "eurus-2/chats.jsonl"  # what `prmbench data eurus sft --output eurus-2` writes
            assert (recipe.learning_rate, recipe.warmup_ratio, recipe.max_length, recipe.epochs) == (
                1e-4 if backbone == "qwen3-8b" else 5e-5,
                0.01,
                3072,
                1,
            )
            assert (recipe.lora is not None) == (backbone == "qwen3-8b")
        else:
            assert (recipe.objective, recipe.learning_rate, recipe.prompt) == (name, 5e-7, "eurus")
            assert (recipe.scale, recipe.offset) == {
                "ipvrm": (10, 5),
                "ipvrm_late": (10, 5),
                "ipvrm_early": (10, 5),
                "implicit_prm": (0.05, 0),
                "dpo": (0.05, 0),
                "q_rm": (0.2, 2),
            }[name]
        assert sum(item.bytes for item in plan.memory) == plan.total() > plan.total(Launch(8))


POLICIES = {
    "grpo": ("grpo", None),
    "grpo_dpo": ("grpo", ("dpo", "naive", "old")),
    "grpo_implicit_prm": ("grpo", ("implicit_prm", "naive", "old")),
    "grpo_ipvrm": ("grpo", ("ipvrm", "dlw+adb", "old")),
    "distrl_dpo": ("distrl", ("dpo", "naive", "old")),
    "distrl_implicit_prm": ("distrl", ("implicit_prm", "naive", "old")),
    "distrl_ipvrm": ("distrl", ("ipvrm", "dlw+adb", "old")),
    "prime": ("prime", ("implicit_prm", "naive", "start")),
    "spro": ("spro", None),
    "reinforce": ("reinforce", ("q_rm", "frozen", "old")),
}


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_recipe_of_the_paper_plans(backbone, name):
    recipe = load_recipe(f"{backbone}/{name}.yaml", RLRecipe)
    method, reward = POLICIES[name]
    assert not any("warning" in remark for remark in recipe.remarks())
    assert recipe.method == method
    assert (recipe.problems, recipe.prompt) == ("eurus-2/problems.jsonl", "eurus")
    if reward is None:
        assert recipe.reward_model is None
    else:
        model, update, reference = reward
        options = recipe.reward_model
        assert (options.model, options.update, options.reference) == (f"out/{backbone}/{model}", update, reference)
        assert (options.rate, options.lora is None) == ((2e-6, True) if update == "frozen" else (1e-4, False))
    assert (recipe.batch_size, recipe.oversample, recipe.samples, recipe.learning_rate) == (256, 2, 4, 3e-5)
    assert (recipe.alpha, recipe.p_min, recipe.details.clip.low, recipe.details.clip.high) == (0.1, 0.1, 0.20, 0.28)
    assert (recipe.lora.rank, recipe.lora.alpha, recipe.seed) == (128, 128, 42)
    plan = recipe.plan()
    assert plan.parameters == BACKBONES[backbone]
    assert (plan.steps, plan.updates) == (100, 100 * recipe.minibatches)
    assert plan.tokens == 100 * 512 * 4 * recipe.expected.tokens
    held = {item.name: item.bytes for item in plan.memory}
    assert ("reward model" in held) == (reward is not None)
    assert ("its gradients and moments" in held) == (reward is not None and reward[1] != "frozen")
    assert (
        "reference" not in held
    )  # pi_old's log-probs are at hand, and without its adapter the policy is where it started


def test_a_policy_plan_counts_what_is_loaded(tiny):
    fields = {"model": str(tiny), "problems": "p.jsonl", "output": "out", "expected": {"records": 100, "tokens": 50}}
    fields |= {"method": "distrl", "batch_size": 8, "max_length": 64, "epochs": 2, "minibatches": 2}
    reward = {"model": "rm", "kind": "implicit", "update": "naive", "reference": "start"}
    plan = RLRecipe.model_validate({**fields, "reward_model": reward}).plan()
    assert (plan.steps, plan.updates) == (2 * (100 // 16), 2 * (100 // 16) * 2)
    held = {item.name: item.bytes for item in plan.memory}
    assert held["reference"] == held["reward model"] == held["weights"] == 4 * plan.parameters
    assert held["its gradients and moments"] == 3 * held["weights"]
    released = RLRecipe.model_validate({**fields, "reward_model": reward, "preset": "released"}).plan()
    assert released.rows == 16
    with pytest.raises(UserError, match="needs a reward_model"):
        RLRecipe.model_validate(fields).plan()


def test_other_recipes_that_ship_are_valid():
    for name in ("ipvrm", "implicit_prm"):
        assert load_recipe(f"smollm2-135m/{name}.yaml", RMRecipe).plan().parameters == 134_515_008
    for name in ("grpo", "grpo_ipvrm", "distrl_ipvrm"):
        recipe = load_recipe(f"smollm2-135m/{name}.yaml", RLRecipe)
        assert recipe.plan().parameters == 134_515_008
        assert recipe.reward_model is None or recipe.reward_model.rate == 2e-6
    load_recipe("miniature/rm.yaml", RMRecipe)
    assert load_recipe("smollm2-135m/step_ce.yaml", PRMRecipe).plan().parameters == 134_515_008 + 2 * 576 + 2
    load_recipe("miniature/rl.yaml", RLRecipe)
    load_recipe("miniature/sft.yaml", SFTRecipe)


@pytest.fixture
def local(tiny, tmp_path):
    return {
        "objective": "ipvrm",
        "model": str(tiny),
        "data": str(write_outcomes(tmp_path / "o.jsonl")),
        "output": "out",
        "held_out": 4,
        "batch_size": 4,
        "micro_batch_size": 2,
    }


def test_local_data_and_checkpoint_are_counted(local, tiny):
    plan = RMRecipe(**local, epochs=2).plan()
    config = AutoConfig.from_pretrained(tiny)
    assert (plan.records, plan.rows, plan.steps) == (20, 2, 10)
    assert plan.data_from == f"counted in {local['data']}"
    assert plan.parameters == sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(tiny).parameters())
    weights, gradients, moments = (item.bytes for item in plan.memory[:3])
    assert (gradients, moments) == (weights, 2 * weights) == (4 * plan.parameters, 8 * plan.parameters)
    assert {item.name for item in RMRecipe(**local, reference_logprobs="as-needed").plan().memory} >= {"reference"}
    head = RMRecipe(**{**local, "objective": "q_rm"}).plan()
    assert head.trained == plan.parameters + config.hidden_size - config.vocab_size * config.hidden_size
    assert VALUE_HEAD  # its weights are the ones added


def test_what_cannot_be_planned_is_said(local, tmp_path):
    with pytest.raises(UserError, match="the recipe has no 'backbone'"):
        RMRecipe(**{**local, "model": "owner/nowhere"}).plan()
    with pytest.raises(UserError, match="the recipe has no 'expected'"):
        RMRecipe(**{**local, "data": "nowhere.jsonl"}).plan()
    wrong = {**support.tiny_llama(50).config.to_dict(), "backbone": None}
    shape = Backbone(
        layers=9, width=32, heads=4, kv_heads=2, head_dim=8, intermediate=64, vocabulary=wrong["vocab_size"], tied=False
    )
    with pytest.raises(UserError, match=r"backbone\.layers is 9 in the recipe, 2 in"):
        RMRecipe(**local, backbone=shape).plan()


def test_dry_run_on_the_command_line():
    run = CliRunner().invoke(app, ["train", "rm", "qwen3-8b/ipvrm.yaml", "--dry-run", "--devices", "8"])
    assert run.exit_code == 0, run.output
    assert "parameters  8,190,735,360, 8,190,735,360 of them trained" in run.output
    assert "on each of 8 devices" in run.output
    run = CliRunner().invoke(app, ["train", "sft", "qwen3-8b/sft.yaml", "--dry-run", "--json"])
    plan = json.loads(run.output)
    assert plan["steps"] == -(-230_000 // 64)
    assert plan["total_bytes"] == sum(item["bytes"] for item in plan["memory"])


@pytest.mark.parametrize(
    ("command", "recipe", "change", "message"),
    [
        ("rl", "qwen3-0.6b/grpo.yaml", "prompt=euros", "prompt template 'euros' is not known (did you mean 'eurus'"),
        ("rm", "qwen3-0.6b/ipvrm.yaml", "prompt=euros", "prompt template 'euros' is not known (did you mean 'eurus'"),
        ("sft", "qwen3-0.6b/sft.yaml", "stop={pass_rate: 0.5, problems: p, prompt: bar}", "(did you mean 'bare'"),
        ("sft", "llama3.2-1b/sft.yaml", "chat_template=lama3", "nor a template that ships (did you mean 'llama3'"),
    ],
)
def test_a_dry_run_refuses_what_does_not_exist(command, recipe, change, message):
    run = CliRunner().invoke(app, ["train", command, recipe, "--dry-run", "--set", change])
    assert isinstance(run.exception, UserError), run.output
    assert message in str(run.exception)


def test_a_dry_run_says_what_the_run_would_warn_of():
    changes = ["--set", "reward_model.lora=null", "--set", "reward_model.learning_rate=1e-4"]
    run = CliRunner().invoke(app, ["train", "rl", "llama3.2-1b/distrl_ipvrm.yaml", "--dry-run", "--json", *changes])
    assert "GAE has gae_weight 1" in run.stderr
    assert "warning: all weights of the reward model are updated" in run.stderr
    assert [json.loads(run.stdout)[name] for name in ("steps", "updates")] == [100, 400]


def test_what_each_launch_divides():
    """Of Qwen3-8B in float32 on 8 devices, added up here from the counts of weights alone."""
    plan = load_recipe("qwen3-8b/ipvrm.yaml", RMRecipe).plan()
    n, forward = plan.parameters, sum(item.bytes for item in plan.memory if item.part is None)
    weights, gradients, moments, copies = 4 * n, 4 * n, 8 * n, 2 * n
    layer = 4096 * (2 * 4096 + 2 * 1024) + 3 * 4096 * 12288 + 2 * 4096 + 2 * 128
    gathered = 2 * (2 * 151936 * 4096 + 2 * layer)
    wanted = {
        "ddp": weights + 2 * gradients + moments + copies,  # DDP sends them from buckets of its own
        "zero1": weights + gradients + moments / 8 + copies,
        "zero2": weights + (gradients + moments) / 8 + copies,
        "zero3": (weights + gradients + moments + copies) / 8 + gathered,
        "fsdp": (weights + gradients + moments + copies) / 8 + gathered,
    }
    assert wanted.keys() == SHARDED.keys()
    for sharding, expected in wanted.items():
        assert plan.total(Launch(8, sharding)) == pytest.approx(expected + forward, abs=8)
        assert plan.total(Launch(1, sharding)) == weights + gradients + moments + copies + forward


def test_models_beside_the_trained_one_are_divided_as_it_is():
    plan = load_recipe("qwen3-8b/distrl_ipvrm.yaml", RLRecipe, ["engine=hf"]).plan()
    for sharding, parts in {"fsdp": 64, "zero3": 64, "zero2": 1, "ddp": 1}.items():
        held = {item.name: item.bytes for item in plan.on_device(Launch(64, sharding))}
        assert held["reward model"] == held["weights"] == -(-2 * plan.parameters // parts)
    assert held.get("gathered") is None
    divided = {item.name: item.bytes for item in plan.on_device(Launch(64, "fsdp"))}
    assert divided["gathered"] == 2 * plan.parameters  # the policy, while it samples
    frozen = load_recipe("qwen3-8b/reinforce.yaml", RLRecipe).plan()
    held = {item.name: item.bytes for item in frozen.on_device(Launch(64, "fsdp"))}
    assert held["reward model"] == 2 * frozen.parameters  # a head's kind: scored as the evaluation scores it


def test_the_share_of_vllm():
    """Awake it is added; asleep it counts beside what stays between two updates; on a server it takes nothing here."""
    changes = ["vllm.gpu_memory_utilization=0.4", "vllm.tensor_parallel_size=2"]
    awake = load_recipe("qwen3-8b/grpo.yaml", RLRecipe, changes).plan()
    launch = Launch(8, "fsdp", device_gib=100)
    training = sum(item.bytes for item in awake.on_device(launch))
    assert awake.total(launch) == training + 40 * GIB
    assert awake.sampler.weights == awake.parameters  # two bytes a weight, two devices
    assert awake.sampler.token == 2 * 36 * 4 * 128 * 2
    room = (40 * GIB - awake.parameters) // awake.sampler.token
    assert f"room for about {room:,} tokens of cache" in awake.text(launch)
    asleep = load_recipe("qwen3-8b/grpo.yaml", RLRecipe, [*changes, "vllm.enable_sleep_mode=true"]).plan()
    resident = sum(item.bytes for item in asleep.on_device(launch) if item.part is not None)
    assert asleep.total(launch) == max(training, resident + 40 * GIB) < awake.total(launch)
    server = ["vllm.mode=server", "vllm.server_base_url=http://a:1"]
    assert load_recipe("qwen3-8b/grpo.yaml", RLRecipe, server).plan().total(launch) == training
    small = load_recipe("qwen3-8b/grpo.yaml", RLRecipe, ["vllm.gpu_memory_utilization=0.1"]).plan()
    assert "which do not fit: raise vllm.gpu_memory_utilization" in small.text(launch)


def test_hours_and_whether_it_fits():
    plan = load_recipe("qwen3-8b/ipvrm.yaml", RMRecipe).plan()
    launch = Launch(8, "fsdp", device_gib=80, throughput=3000)
    assert plan.hours(launch) == pytest.approx(plan.tokens / 3000 / 8 / 3600)
    assert plan.hours(Launch(8)) is None
    command = ["train", "rm", "qwen3-8b/ipvrm.yaml", "--dry-run", "--devices", "8", "--device-memory", "80"]
    run = CliRunner().invoke(app, [*command, "--throughput", "3000"])
    assert f"hours       {plan.hours(launch):,.1f} on 8 devices of 3,000 tokens/s" in run.output
    assert "fits        yes, into 80 GiB" in run.output
    run = CliRunner().invoke(app, [*command, "--launch", "ddp"])
    assert "(ddp): nothing is divided" in run.output
    assert "fits        no, into 80 GiB" in run.output
    found = json.loads(CliRunner().invoke(app, [*command, "--json", "--launch", "zero2"]).output)
    assert found["device_bytes"] == plan.total(Launch(8, "zero2"))
    assert found["launch"]["sharding"] == "zero2"
    assert sum(item["bytes"] for item in found["device_memory"]) == found["device_bytes"]
    wrong = CliRunner().invoke(app, [*command, "--launch", "zero4"])
    assert "expected ddp, zero1, zero2, zero3, fsdp" in str(wrong.exception)
