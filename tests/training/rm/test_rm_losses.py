from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support_training import TRAINED
from transformers import AutoModelForCausalLM, AutoTokenizer

from prmbench.errors import UserError
from prmbench.reward_models.objectives import OBJECTIVES
from prmbench.training.recipes.optimisation import checkpointing_argument
from prmbench.training.rm.losses import find_loss, ipvrm, ipvrm_early, ipvrm_late
from prmbench.training.rm.recipe import RMRecipe


def loss_of(name):
    """The loss of an objective, with its paper's beta and margin."""
    objective = OBJECTIVES.find(name)
    return find_loss(objective), objective.beta, objective.margin or 0.0


def minus_log_sigmoid(x):
    """-log(1 / (1 + e^-x)), in plain floats, without overflow."""
    return math.log1p(math.exp(-x)) if x > -30 else -x


def slow_loss(name, sequences, outcomes, beta, margin):
    """Each equation as it is printed, one token at a time."""
    out = []
    if name.startswith("ipvrm"):
        for r, right in zip(sequences, outcomes, strict=True):
            length = len(r)
            total, weights = 0.0, 0.0
            for t in range(1, length + 1):
                v_bar = beta * sum(r[:t]) / t
                single = minus_log_sigmoid(v_bar - margin) if right else minus_log_sigmoid(-(v_bar + margin))
                w = {"ipvrm": 1.0, "ipvrm_late": t / length, "ipvrm_early": 1 - t / length}[name]
                if name == "ipvrm_early" and length == 1:
                    w = 1.0
                total += w * single
                weights += w
            out.append(total / weights if length else 0.0)
    elif name == "implicit_prm":
        for r, right in zip(sequences, outcomes, strict=True):
            s = beta * sum(r)
            out.append((minus_log_sigmoid(s) if right else minus_log_sigmoid(-s)) if r else 0.0)
    else:
        for won, lost in zip(sequences[0::2], sequences[1::2], strict=True):
            if name == "dpo":
                out.append(minus_log_sigmoid(beta * (sum(won) - sum(lost))))
            else:
                means = [sum(z) / len(z) if z else 0.0 for z in (won, lost)]
                out.append(minus_log_sigmoid(beta * (means[0] - means[1]) - margin))
    return out


def padded(sequences, fill=float("nan")):
    width = max(1, *(len(s) for s in sequences))
    values = torch.full((len(sequences), width), fill, dtype=torch.float64)
    mask = torch.zeros(len(sequences), width, dtype=torch.bool)
    for i, s in enumerate(sequences):
        values[i, : len(s)] = torch.tensor(s, dtype=torch.float64)
        mask[i, : len(s)] = True
    return values, mask


rewards = st.lists(st.floats(-5, 5), max_size=7)


@pytest.mark.parametrize("name", TRAINED)
@given(
    st.lists(st.tuples(rewards, rewards), min_size=1, max_size=4),
    st.floats(0.01, 20),
    st.floats(0, 10),
)
@settings(max_examples=60, deadline=None)
def test_equals_the_printed_equation(name, pairs, beta, margin):
    loss = loss_of(name)[0]
    margin = margin if OBJECTIVES.find(name).margin is not None else 0.0
    sequences = [r for pair in pairs for r in pair]
    outcomes = [i % 2 == 0 for i in range(len(sequences))]
    values, mask = padded(sequences)
    found = loss(values, mask, torch.tensor(outcomes), beta, margin)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(slow_loss(name, sequences, outcomes, beta, margin), rel=1e-12, abs=1e-12)


def test_ipvrm_hand_worked():
    # r = (0.1, 0.5), beta 10, m 1: v_bar = 1, 3. Right: -log s(0), -log s(2); wrong: -log(1 - s(2)), -log(1 - s(4)).
    values, mask = padded([[0.1, 0.5], [0.1, 0.5]])
    found = ipvrm(values, mask, torch.tensor([True, False]), 10.0, 1.0)
    right = [math.log(2), math.log(1 + math.exp(-2))]
    wrong = [2 + math.log(1 + math.exp(-2)), 4 + math.log(1 + math.exp(-4))]
    assert found.tolist() == pytest.approx([sum(right) / 2, sum(wrong) / 2])
    late = ipvrm_late(values, mask, torch.tensor([True, False]), 10.0, 1.0)  # weights 1/2 and 1
    assert late.tolist() == pytest.approx([(0.5 * x[0] + x[1]) / 1.5 for x in (right, wrong)])
    early = ipvrm_early(values, mask, torch.tensor([True, False]), 10.0, 1.0)  # weights 1/2 and 0
    assert early.tolist() == pytest.approx([right[0], wrong[0]])


def test_pairs_hand_worked():
    values, mask = padded([[2.0, 1.0], [-1.0]])
    correct = torch.tensor([True, False])
    # DPO: 0.5 * (3 - -1) = 2. Q-RM: 0.5 * (1.5 - -1) - 1 = 0.25. Implicit PRM: s(1.5), 1 - s(-0.5).
    assert loss_of("dpo")[0](values, mask, correct, 0.5, 0.0).item() == pytest.approx(math.log(1 + math.exp(-2)))
    assert loss_of("q_rm")[0](values, mask, correct, 0.5, 1.0).item() == pytest.approx(math.log(1 + math.exp(-0.25)))
    assert loss_of("implicit_prm")[0](values, mask, correct, 0.5, 0.0).tolist() == pytest.approx(
        [math.log(1 + math.exp(-1.5)), math.log(1 + math.exp(-0.5))]
    )


@pytest.mark.parametrize("name", TRAINED)
def test_one_token_and_equal_pairs(name):
    loss, beta, own_margin = loss_of(name)
    correct = torch.tensor([True, False])
    values, mask = padded([[0.3], [0.3]])
    found = loss(values, mask, correct, beta, own_margin)
    assert found.tolist() == pytest.approx(slow_loss(name, [[0.3], [0.3]], [True, False], beta, own_margin))
    if name == "dpo":
        assert found.item() == pytest.approx(math.log(2))  # nothing to choose between equal responses


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_log_ratios_stay_finite(name, dtype):
    loss, _, own_margin = loss_of(name)
    values = torch.tensor([[-1e4, -1e4, 5.0], [1e4, 1e4, 7.0]], dtype=dtype, requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    found = loss(values, mask, torch.tensor([True, False]), 10.0, own_margin)
    found.sum().backward()
    assert found.isfinite().all()
    assert (found > 1e3).all()
    assert values.grad.isfinite().all()
    assert values.grad[0, 2] == 0  # padding
    seen = slice(None, 1 if name == "ipvrm_early" else 2)  # the last token has weight 0 there
    assert (values.grad[0, seen] < 0).all()
    assert (values.grad[1, seen] > 0).all()


@pytest.mark.parametrize("name", TRAINED)
def test_rows_without_tokens(name):
    loss, _, own_margin = loss_of(name)
    values = torch.zeros(2, 3, requires_grad=True)
    found = loss(values, torch.zeros(2, 3, dtype=torch.bool), torch.tensor([True, False]), 1.0, own_margin)
    found.sum().backward()
    assert found.isfinite().all()
    assert (values.grad == 0).all()
    if name != "q_rm" and name != "dpo":
        assert (found == 0).all()


@pytest.mark.parametrize("name", TRAINED)
def test_gradients(name):
    loss, beta, own_margin = loss_of(name)
    values = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    mask = torch.arange(5)[None] < torch.tensor([5, 1, 3, 4])[:, None]
    correct = torch.tensor([True, False, True, False])
    torch.autograd.gradcheck(lambda v: loss(v, mask, correct, beta, own_margin), values)


@given(st.lists(st.tuples(rewards.filter(len), rewards.filter(len)), min_size=1, max_size=3))
@settings(max_examples=30, deadline=None)
def test_padding_and_row_order_do_not_matter(pairs):
    sequences = [r for pair in pairs for r in pair]
    correct = torch.arange(len(sequences)) % 2 == 0
    narrow = padded(sequences)
    wide = [torch.nn.functional.pad(x, (0, 3), value=0) for x in narrow]
    swapped = [x.reshape(len(pairs), 2, -1).flip(0).reshape(len(sequences), -1) for x in narrow]
    for name in TRAINED:
        loss, beta, own_margin = loss_of(name)
        one = loss(*narrow, correct, beta, own_margin)
        torch.testing.assert_close(loss(*wide, correct, beta, own_margin), one)
        other = loss(*swapped, correct, beta, own_margin)
        per_pair = 1 if len(one) == len(pairs) else 2
        torch.testing.assert_close(other.reshape(-1, per_pair).flip(0).flatten(), one, msg=name)


def test_wrong_use_is_refused():
    values, mask = padded([[1.0], [2.0]])
    with pytest.raises(ValueError, match="a correct and an incorrect"):
        loss_of("dpo")[0](values, mask, torch.tensor([False, True]), 1.0, 0.0)
    with pytest.raises(ValueError, match="implicit_prm has no margin"):
        loss_of("implicit_prm")[0](values, mask, torch.tensor([True, False]), 1.0, 2.0)
    with pytest.raises(ValueError, match="a loss of pairs takes no shift"):
        loss_of("dpo")[0](values, mask, torch.tensor([True, False]), 1.0, 0.0, torch.zeros(2))
    recipe = {"model": "m", "data": "d", "output": "o"}
    with pytest.raises(UserError, match="objective 'ipvm' is not known .did you mean 'ipvrm'"):
        RMRecipe(objective="ipvm", **recipe)
    with pytest.raises(UserError, match="objective 'endo': has no loss, so it cannot be trained"):
        RMRecipe(objective="endo", **recipe)


def test_dpo_equals_trl(tiny, tiny_tuned, tmp_path):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rows = {
        "prompt": ["What is 2 + 3?", "Tom has 3 apples."],
        "chosen": ["2 + 3 = 5, so 5.", "So he has 3."],
        "rejected": ["It is 6.", "Then he has 4 or more of them."],
    }
    models = [AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (tiny_tuned, tiny)]
    trainer = DPOTrainer(
        model=models[0],
        ref_model=models[1],
        args=DPOConfig(
            output_dir=str(tmp_path),
            beta=0.7,
            per_device_train_batch_size=2,
            use_cpu=True,
            report_to=[],
            bf16=False,
            **{checkpointing_argument(): False},
        ),
        train_dataset=Dataset.from_dict(rows),
        processing_class=AutoTokenizer.from_pretrained(tiny),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    models[0].eval()
    with torch.no_grad():
        theirs = float(trainer.compute_loss(models[0], dict(batch)))
        ids, asked = batch["input_ids"], batch["completion_mask"].bool()
        logprobs = []
        for model in models:
            logits = model(ids, attention_mask=batch["attention_mask"]).logits.double()
            picked = logits.log_softmax(-1)[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
            logprobs.append(picked)
    ratio = logprobs[0] - logprobs[1]
    n = len(ids) // 2
    order = [row for i in range(n) for row in (i, n + i)]  # TRL: all chosen, then all rejected
    sequences = [ratio[i][asked[i, 1:]].tolist() for i in order]
    values, mask = padded(sequences)
    correct = torch.arange(2 * n) % 2 == 0
    ours = loss_of("dpo")[0](values, mask, correct, 0.7, 0.0).mean()
    assert float(ratio.abs().max()) > 0.1
    assert float(ours) == pytest.approx(theirs, abs=1e-5)
