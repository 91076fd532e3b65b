from __future__ import annotations

import pytest

from prmbench.engines.load import LoadOptions
from prmbench.errors import UserError
from prmbench.training.recipes.optimisation import trainer_arguments
from prmbench.training.rm.recipe import RMRecipe
from prmbench.training.run_folder import last_state, mark_whole
from prmbench.training.sft.recipe import SFTRecipe

BASE = {"model": "m", "output": "o", "data": "d", "batch_size": 8, "micro_batch_size": 2}


def test_a_state_cut_short_by_a_kill_is_passed_over(tmp_path):
    assert last_state(tmp_path / "none") is None
    for step, whole in ((8, True), (100, True), (120, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").touch()
        if whole:
            mark_whole(folder)
    assert last_state(tmp_path) == str(tmp_path / "checkpoint-100")


def test_batches_divide_among_processes(tmp_path, monkeypatch):
    recipe = SFTRecipe(**BASE)
    assert trainer_arguments(recipe, tmp_path, 10)["gradient_accumulation_steps"] == 4
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert trainer_arguments(recipe, tmp_path, 10)["gradient_accumulation_steps"] == 2
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match="batch_size 8 is no multiple of micro_batch_size 2 x 3 processes"):
        trainer_arguments(recipe, tmp_path, 10)


def test_updates():
    assert SFTRecipe(**BASE).updates(20) == 3  # the last one smaller
    assert RMRecipe(**BASE, objective="dpo").updates(20) == 2  # full ones only
    assert RMRecipe(**BASE, objective="dpo", epochs=1.5).updates(20) == 3
    assert SFTRecipe(**BASE, max_steps=7).updates(20) == 7


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"attn_implementation": "flash"}, r"attn_implementation 'flash': expected eager, sdpa, flex_attention"),
        ({"attn_implementation": "flash_attention_2", "bf16": False}, "reads half precision alone; leave bf16 out"),
    ],
)
def test_an_attention_that_is_not_known_or_cannot_read_the_weights_is_refused(fields, wanted):
    with pytest.raises(ValueError, match=wanted):
        SFTRecipe(**BASE, **fields)


def test_models_of_a_training_compute_as_it_says_and_those_of_evaluation_do_not():
    asked = {"attn_implementation": "flash_attention_2", "padding_free": True, "liger": True}
    recipe = SFTRecipe(**BASE, **asked, bf16=False, dtype="bfloat16")
    assert {name: getattr(recipe.load_options, name) for name in asked} == asked
    assert recipe.scoring_options == LoadOptions(dtype="bfloat16")
