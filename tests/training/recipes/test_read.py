from __future__ import annotations

import pytest
from typer.testing import CliRunner

from prmbench.cli.app import app
from prmbench.errors import UserError
from prmbench.training.recipes.read import as_overrides, load_recipe
from prmbench.training.sft.recipe import SFTRecipe

GOOD = "model: m\ndata: d.jsonl\noutput: o\n"


def load(tmp_path, text, *overrides):
    (tmp_path / "r.yaml").write_text(text)
    return load_recipe(tmp_path / "r.yaml", SFTRecipe, overrides)


def test_values_and_overrides(tmp_path):
    recipe = load(
        tmp_path, GOOD + "lora: {rank: 8}\n", "learning_rate=1.0e-4", "lora.alpha=16", "stop=null", "output=x=y"
    )
    assert (recipe.learning_rate, recipe.lora.rank, recipe.lora.alpha, recipe.output) == (1e-4, 8, 16, "x=y")


@pytest.mark.parametrize("folder", ["runs: old", "a #1", "[x]", "2026", "null", "é", "it's", 'a"b', "%TAG"])
def test_a_path_as_an_override_keeps_its_characters(tmp_path, folder):
    changes = {"model": tmp_path / folder, "data": folder, "learning_rate": 1e-5, "stop": None, "seed": 3}
    recipe = load(tmp_path, GOOD, *as_overrides(changes))
    assert (recipe.model, recipe.data) == (str(tmp_path / folder), folder)
    assert (recipe.learning_rate, recipe.stop, recipe.seed) == (1e-5, None, 3)
    assert as_overrides({"evaluate.problems": [tmp_path]}) == [f'evaluate.problems=["{tmp_path}"]']


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (GOOD + "learning_rat: 1\n", (), r"r.yaml: key 'learning_rat' is not known \(did you mean 'learning_rate'"),
        (GOOD + "lora: {rnak: 8}\n", (), r"key 'lora.rnak' is not known \(did you mean 'rank'"),
        (GOOD, ("lora.rnak=8",), r"^`overrides=lora.rnak=8`: key 'lora.rnak' is not known \(did you mean 'rank'"),
        (GOOD, ("lora={rnak: 8}", "stop=null"), r"^`overrides=lora=\{rnak: 8\}`: key 'lora.rnak' is not known"),
        (
            GOOD,
            ("epochs=many", "epochs=more"),
            "^`overrides=epochs=more`: key 'epochs': input should be a valid number",
        ),
        (
            GOOD,
            ("batch_size=10", "micro_batch_size=4"),
            "^`overrides=batch_size=10 micro_batch_size=4`: batch_size 10 is no",
        ),
        (GOOD + "epochs: many\n", ("stop=null",), "r.yaml: key 'epochs': input should be a valid number"),
        (GOOD + "batch_size: 10\nmicro_batch_size: 4\n", ("stop=null",), "r.yaml: batch_size 10 is no multiple"),
        (GOOD + "batch_size: 10\nmicro_batch_size: 4\n", (), "batch_size 10 is no multiple of micro_batch_size 4"),
        (GOOD + "schedule: cosin\n", (), "schedule 'cosin': expected cosine, linear or constant"),
        ("model: m\noutput: o\n", (), "key 'data': field required"),
        (GOOD + "epochs: many\n", (), "key 'epochs': input should be a valid number"),
        ("a: [1\n", (), r"r.yaml, line 2, column 1: broken YAML"),
        ("- 1\n", (), "holds a list; expected keys"),
        ("a: " + "1" * 5000, (), "r.yaml: broken YAML .*4300 digits"),
        ("a: " + "[" * 5000, (), "r.yaml: broken YAML .*recursion"),
        ("a: " + "x" * (1 << 20), (), "is larger than 1 MiB"),
        (GOOD, ("a=" + "1" * 5000,), "broken YAML .*4300 digits"),
        (GOOD + "epochs: 1e308\n", (), "key 'epochs': input should be a valid number|less than or equal to 1000000"),
        (GOOD, ("epochs=1.0e+308",), "key 'epochs': input should be less than or equal to 1000000"),
        (GOOD, ("epochs=.inf",), "key 'epochs': input should be"),
        (GOOD, ("oops",), "`overrides=oops`: expected a.b=value"),
        (GOOD, ("model.x=1",), "`overrides=model.x=1`: 'model' holds a value"),
    ],
)
def test_mistakes_are_named(tmp_path, text, overrides, message):
    with pytest.raises(UserError, match=message):
        load(tmp_path, text, *overrides)


def test_a_key_that_stands_twice_is_a_mistake(tmp_path):
    with pytest.raises(UserError, match=r"line 3, column 1: broken YAML \(key 'epochs' stands twice"):
        load(tmp_path, "model: m\nepochs: 3\nepochs: 4\n")
    with pytest.raises(UserError, match=r"line 4, column 3: broken YAML \(key 'rank' stands twice"):
        load(tmp_path, "model: m\nlora:\n  rank: 3\n  rank: 4\n")


def test_a_missing_recipe_names_the_nearest(tmp_path):
    (tmp_path / "mine.yaml").write_text(GOOD)
    with pytest.raises(UserError, match=r"no such recipe \(did you mean 'mine.yaml'"):
        load_recipe(tmp_path / "mnie.yaml", SFTRecipe)


def test_recipes_that_ship_are_found_by_name():
    assert load_recipe("miniature/sft.yaml", SFTRecipe).max_steps == 2000


def test_extends_takes_over_keys(tmp_path):
    (tmp_path / "a.yaml").write_text("model: m\nepochs: 3\nbatch_size: 16\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.yaml").write_text("extends: [../a.yaml, c.yaml]\noutput: o\nbatch_size: 32\n")
    (tmp_path / "sub" / "c.yaml").write_text("data: d.jsonl\nepochs: 5\n")
    recipe = load_recipe(tmp_path / "sub" / "b.yaml", SFTRecipe, ["epochs=7"])
    assert (recipe.model, recipe.data, recipe.epochs, recipe.batch_size) == ("m", "d.jsonl", 7, 32)
    (tmp_path / "d.yaml").write_text("extends: none.yaml\n")
    with pytest.raises(UserError, match="key 'extends': no such file"):
        load_recipe(tmp_path / "d.yaml", SFTRecipe)
    (tmp_path / "e.yaml").write_text("extends: e.yaml\n")
    with pytest.raises(UserError, match="extends this file in turn"):
        load_recipe(tmp_path / "e.yaml", SFTRecipe)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\xff\xfe\x00", "is not text"),
        (b"extends: 5\n", "key 'extends' holds 5"),
        (b"extends: b.yaml\n", "extends this file in turn"),
    ],
)
def test_broken_recipes(tmp_path, text, message):
    (tmp_path / "a.yaml").write_bytes(text)
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(UserError, match=message):
        load_recipe(tmp_path / "a.yaml", SFTRecipe)


def test_a_folder_and_a_broken_override(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        load_recipe(tmp_path, SFTRecipe)
    with pytest.raises(UserError, match=r"`overrides=a=\[1,`: broken YAML"):
        load_recipe("miniature/sft.yaml", SFTRecipe, ["a=[1,"])
    shown = CliRunner().invoke(app, ["train", "sft", "miniature/sft.yaml", "--set", "a=[1,"])
    assert str(shown.exception).startswith("--set a=[1,: broken YAML")
