from __future__ import annotations

import json

import numpy as np
import pytest
import support_prm
import torch
from transformers import AutoModelForCausalLM

from prmbench.errors import UserError
from prmbench.reward_models.card import make_card
from prmbench.reward_models.loading import load_reward_model
from prmbench.reward_models.presets import PRESETS, fill_in, find_preset
from prmbench.reward_models.registry import find_kind
from prmbench.reward_models.subject import verified_by
from prmbench.stats.protocols import token_protocol_scores


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_valid_card_of_a_known_kind(name):
    preset = PRESETS[name]
    card = make_card(fill_in(preset.card, {"preset": name}), name)
    kind = find_kind(card.kind)
    assert all(getattr(card, field) is None or field in kind.reads for field in ("marks", "pair", "generation"))
    assert preset.of
    assert preset.checked


@pytest.mark.parametrize("name", PRESETS)
def test_another_way_of_scoring_is_not_the_verified_one(name):
    preset = PRESETS[name]
    as_it_is = fill_in(preset.card, {"preset": name})
    assert verified_by(make_card(as_it_is, name)) == preset.verified
    assert verified_by(make_card({**as_it_is, "reference_name": "elsewhere"}, name)) == preset.verified
    changed = {"beta": 0.005} if name == "eurus-prm" else {"tokens": {"step_prefix": "{i}) "}}
    assert verified_by(make_card(fill_in(as_it_is, changed), name)) is None
    assert verified_by(make_card(preset.card, name)) is None  # no preset is named


def test_several_greedy_texts_are_one():
    with pytest.raises(UserError, match="field 'generation': 3 greedy texts are all the same"):
        make_card({"kind": "critic", "generation": {"n": 3}}, "card")


def test_what_presets_fix():
    """As the authors' own code has it (see `checked` of each)."""
    shepherd = PRESETS["math-shepherd"].card
    assert (shepherd["marks"]["read"], shepherd["marks"]["mark"], shepherd["pair"]) == ("at", "ки", ["+", "-"])
    assert PRESETS["rlhflow-mistral"].card["marks"]["read"] == "before"
    assert PRESETS["qwen2.5-math-prm"].card["tokens"]["system"].endswith("\\boxed{}.")
    assert PRESETS["reasonflux-prm"].card["tokens"] == {}
    assert PRESETS["eurus-prm"].card["beta"] == 0.001
    assert PRESETS["processbench-critic"].card["generation"] == {"n": 1, "temperature": 0.0, "max_new_tokens": 8192}
    maj = PRESETS["processbench-critic-maj8"].card["generation"]
    assert (maj["n"], maj["temperature"], maj["top_p"]) == (8, 1.0, 0.9)


def test_progress_advantage_is_the_log_ratio_of_a_policy_to_its_start(tiny, tiny_tuned):
    model = load_reward_model(tiny_tuned, preset="progress-advantage", reference=str(tiny))
    encoded = model.encode("What is 3 + 4?", ["Adding 3 and 4.", "It is 7."])
    (scores,) = model.score([encoded])
    found = token_protocol_scores(scores.sums, scores.n_tokens, model.card.scale())
    ids, logprobs = torch.from_numpy(encoded.ids), []
    for folder in (tiny_tuned, tiny):
        with torch.no_grad():
            logits = AutoModelForCausalLM.from_pretrained(folder)(ids[None]).logits[0].double()
        logprobs.append(logits.log_softmax(-1)[:-1].gather(1, ids[1:, None])[:, 0].numpy()[encoded.n_prompt - 1 :])
    steps = [logprobs[0][encoded.step_of == i] - logprobs[1][encoded.step_of == i] for i in (0, 1)]
    assert found["process_mean"].tolist() == pytest.approx([one.mean() for one in steps], abs=1e-5)
    assert found["process"].tolist() == pytest.approx([one.sum() for one in steps], abs=1e-4)
    assert found["prefix"].tolist() == pytest.approx(np.cumsum([one.sum() for one in steps]).tolist(), abs=1e-4)
    assert model.fixed_thresholds() == {}
    with pytest.raises(UserError, match="pass `reference=`|pass `reference`"):
        load_reward_model(tiny_tuned, preset="progress-advantage")


def test_fill_in_goes_into_objects_and_changes_nothing():
    base = {"a": {"x": 1, "y": 2}, "b": 3}
    assert fill_in(base, {"a": {"y": 5}, "c": 4}) == {"a": {"x": 1, "y": 5}, "b": 3, "c": 4}
    assert base == {"a": {"x": 1, "y": 2}, "b": 3}


def test_mistakes(smollm2, tmp_path):
    with pytest.raises(UserError, match=r"preset 'math-sheperd' .*did you mean 'math-shepherd'"):
        find_preset("math-sheperd")
    folder = support_prm.save_causal(tmp_path / "m", support_prm.smol_tokenizer(smollm2), "qwen2")
    with pytest.raises(UserError, match="`kind=endo`: the preset rlhflow-mistral is of kind token_pair"):
        load_reward_model(folder, preset="rlhflow-mistral", kind="endo")
    with pytest.raises(UserError, match=r"`preset=NAME` \(a public PRM\)"):
        load_reward_model(folder)


@pytest.mark.slow
def test_a_card_names_its_preset_and_goes_over_it(smollm2, tmp_path):
    folder = support_prm.save_causal(tmp_path / "m", support_prm.smol_tokenizer(smollm2), "qwen2")
    (folder / "prmbench.json").write_text(json.dumps({"preset": "rlhflow-mistral", "marks": {"before_steps": "\n\n"}}))
    model = load_reward_model(folder)
    assert (model.kind, model.card.preset) == ("token_pair", "rlhflow-mistral")
    assert (model.card.marks.before_steps, model.card.marks.read) == ("\n\n", "before")
    # Another preset leaves the card's fields out; its own keeps them, as does one on a card without.
    assert load_reward_model(folder, preset="processbench-critic").kind == "critic"
    assert load_reward_model(folder, preset="rlhflow-deepseek").card.marks.before_steps == " "
    assert load_reward_model(folder, preset="rlhflow-mistral").card.marks.before_steps == "\n\n"
    assert load_reward_model(folder, kind="endo").card.marks is None
    (folder / "prmbench.json").write_text(json.dumps({"preset": "rlhflow-mistral", "marks": {"befor_steps": "x"}}))
    with pytest.raises(UserError, match=r"field 'marks.befor_steps'.*did you mean 'before_steps'"):
        load_reward_model(folder)
