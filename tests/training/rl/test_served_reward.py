"""A reward model behind an address trains a policy as the same model does here."""

from __future__ import annotations

import json

import pytest
import support
from rl_driver import make_recipe, same_weights, save_reward
from support_serving import running

from prmbench.errors import UserError
from prmbench.reward_models.loading import load_reward_model
from prmbench.training.rl.run import train_rl

TIMES = ("seconds", "_runtime", "_per_second", "memory")


def figures(result):
    return [
        {k: v for k, v in row.items() if isinstance(v, float) and not any(t in k for t in TIMES)}
        for row in result.history
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["endo", "implicit"])
def test_a_served_model_trains_as_the_same_model_does_here(world, tmp_path, chosen_outcomes, kind):
    """EndoRM is scored by the same code at both ends. An implicit model here is scored by the trainer's own forward."""
    folder = world[0] if kind == "endo" else save_reward(tmp_path / "rm", "ipvrm", str(world[0]))
    here = {"model": str(folder), "kind": kind, **({"reference": str(world[0])} if kind == "implicit" else {})}
    common = {"method": "grpo", "max_steps": 2, "learning_rate": 1e-3}
    wanted = train_rl(make_recipe(world, tmp_path / "here", reward_model=here, **common))
    with running(load_reward_model(folder, kind=kind)) as server:
        lines: list[str] = []
        recipe = make_recipe(world, tmp_path / "there", reward_model={"model": server.url}, **common)
        found = train_rl(recipe, log=lines.append)
        assert any(f"({kind}" in line and server.url in line for line in lines)
        again = train_rl(recipe)  # the run is over: nothing is done
        assert again.history == found.history
    assert found.reward_model is None
    for mine, theirs in zip(figures(found), figures(wanted), strict=True):
        assert mine == pytest.approx({k: theirs[k] for k in mine}, abs=1e-3, rel=1e-3)
    same_weights(tmp_path / "here" / "model.safetensors", tmp_path / "there" / "model.safetensors", 1e-3)
    report = json.loads((tmp_path / "there" / "rl.json").read_text())
    assert report["hashes"]["reward_model"] == server.service.served.identity


URL = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("reward", "method", "said"),
    [
        ({"update": "dlw"}, "grpo", r"update dlw: http://127.0.0.1:9 is a server, whose model is never updated"),
        ({}, "distrl", "method distrl: needs values of candidate tokens"),
        ({"reference": "start"}, "grpo", "reward_model.reference: .* was started with its own"),
        ({"objective": "dpo"}, "grpo", "reward_model.objective: .* was started with its own"),
    ],
)
def test_what_a_server_cannot_do_is_refused_before_it_is_asked(world, tmp_path, reward, method, said):
    recipe = make_recipe(world, tmp_path / "out", method=method, reward_model={"model": URL, **reward})
    with pytest.raises(UserError, match=said):
        train_rl(recipe)
    with pytest.raises(UserError, match=said):
        recipe.plan()


def test_a_server_that_does_not_fit_is_refused(world, tmp_path):
    other = support.wrap(support.sentencepiece_style())
    folder = tmp_path / "other"
    support.tiny_llama(len(other)).save_pretrained(folder)
    other.save_pretrained(folder)
    unlike = load_reward_model(folder, kind="endo")
    with running(unlike) as server, pytest.raises(UserError, match="differ in their vocabularies"):
        train_rl(make_recipe(world, tmp_path / "out", reward_model={"model": server.url}))
    with running(load_reward_model(world[0], kind="endo")) as server:
        for change, said in (
            ({"kind": "q_rm"}, "serves a model of kind endo; leave it out"),
            ({}, "method reinforce: takes a reward model of kind q_rm; .* is endo"),
        ):
            recipe = make_recipe(
                world,
                tmp_path / "out",
                method="grpo" if change else "reinforce",
                reward_model={"model": server.url, **change},
            )
            with pytest.raises(UserError, match=said):
                train_rl(recipe)
        long = make_recipe(world, tmp_path / "out", max_new_tokens=1010, reward_model={"model": server.url})
        with pytest.raises(UserError, match=r"leave room|takes 1,023; lower max_new_tokens"):
            train_rl(long)
