from __future__ import annotations

import json

import pytest

from prmbench.data.tokens import TraceEncoder
from prmbench.data.traces import load_traces
from prmbench.engines.load import LoadOptions, load_causal_lm
from prmbench.engines.tokenizer import load_tokenizer
from prmbench.errors import ArgumentError, UserError
from prmbench.miniature.backbones import BACKBONES, build_model, build_tokenizer, save_untrained
from prmbench.miniature.build import (
    Build,
    make_chats,
    make_problems,
    make_traces,
    rollout_error,
    train_policy,
    write_lines,
)
from prmbench.miniature.demo import run_demo
from prmbench.miniature.world import INJECTED, World, error_kind, first_wrong_step, parse_problem
from prmbench.training.data.chats import Chat, encode_chat

WORLD = World()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_backbones_are_ordinary_checkpoints(tmp_path, backbone):
    folder = save_untrained(tmp_path / "m", backbone, WORLD, seed=1)
    model = load_causal_lm(folder, LoadOptions())
    assert model.config.model_type == BACKBONES[backbone][0]
    assert model.config.num_hidden_layers == BACKBONES[backbone][1]
    tokenizer = load_tokenizer(folder, LoadOptions())
    assert len(tokenizer) == model.config.vocab_size


def test_unknown_backbone():
    with pytest.raises(UserError, match=r"`backbone=lama-small`: not known \(did you mean 'llama-small'"):
        build_model("lama-small", 10, 0, 0)


def test_text_survives_the_tokenizer():
    tokenizer = build_tokenizer(WORLD)
    encoder = TraceEncoder(tokenizer)
    for chat in make_chats(WORLD, 50, 0):
        (_, user), (_, answer) = ((m["role"], m["content"]) for m in chat["messages"])
        ids, p = encode_chat(encoder, Chat((("user", user),), answer))
        assert tokenizer.unk_token_id not in ids.tolist()
        text = tokenizer.decode(ids[p:], skip_special_tokens=True)
        assert [s.strip() for s in text.split("\n\n")] == answer.split("\n\n")
        again = encoder.text_ids(text)
        assert (again == ids[p:-1]).all()  # what a policy wrote tokenizes to what it sampled


def test_training_data_hold_tagged_text_of_training_problems_only():
    for chat in make_chats(WORLD, 300, 0):
        problem = parse_problem(chat["messages"][0]["content"])
        assert problem.split() == "train"
        steps = chat["messages"][1]["content"].split("\n\n")
        assert all(step.startswith("<") for step in steps)
        assert first_wrong_step(problem, steps, WORLD) == -1


def test_problems_are_seeded_and_different():
    first = make_problems(WORLD, "test", 50, 0)
    assert first == make_problems(WORLD, "test", 50, 0)
    assert len({p["problem"] for p in first}) == 50
    assert first != make_problems(WORLD, "test", 50, 1)
    with pytest.raises(ArgumentError, match="`n=400`: the split 'validation' of .* has fewer problems"):
        make_problems(World(modulus=4, min_ops=2, max_ops=3), "validation", 400, 0)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo on a smaller world, in seconds: the policy stops as soon as it can do anything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        build = Build(world=World(modulus=6, min_ops=2, max_ops=3), n_chats=2000, pass_rate=0.3, seed=0)
        lines: list[str] = []
        result = run_demo(build, n_problems=60, n=4, n_traces=40, log=lines.append)
        again = train_policy(build, lines.append)
        yield build, result, lines, again


@pytest.mark.slow
def test_demo_from_nothing_to_a_table(demo):
    build, result, lines, again = demo
    assert result.summary.n_rollouts == 240
    assert 0.1 < result.summary.pass_rate < 1
    assert sum(result.errors.values()) == 240
    assert result.entry.miniature
    assert set(result.entry.benchmark.subsets) == {"tagged", "plain"}
    assert result.entry_path.exists()
    assert again == build.folder() / "sft"
    assert "is there already" in lines[-1]
    report = json.loads((again / "sft.json").read_text())
    assert report["pass_rate"] >= 0.3


@pytest.mark.slow
def test_verdicts_agree_with_the_checker(demo):
    build, result, _, _ = demo
    for rollout in result.rollouts:
        kind = rollout_error(rollout, build.world)
        if kind == "none":
            assert rollout.correct
        if kind == "wrong answer":
            assert not rollout.correct


@pytest.mark.slow
def test_traces_are_labelled_by_the_checker_in_both_formats(demo, tmp_path):
    build, result, _, _ = demo
    traces = make_traces(result.rollouts, build.world, 40, seed=0)
    assert traces == make_traces(result.rollouts, build.world, 40, seed=0)
    for tagged, plain in zip(traces["tagged"], traces["plain"], strict=True):
        assert (tagged["label"], tagged["id"], tagged["problem"]) == (plain["label"], plain["id"], plain["problem"])
        assert [s.partition(" ")[2] for s in tagged["steps"]] == plain["steps"]
        assert tagged["label"] == first_wrong_step(parse_problem(plain["problem"]), plain["steps"], build.world)
        if tagged["generator"].startswith("policy: "):
            kind = error_kind(parse_problem(plain["problem"]), plain["steps"], build.world)
            assert tagged["generator"] == f"policy: {kind}"
    generators = {t["generator"] for t in traces["tagged"]}
    assert "policy" in generators
    assert any(g == f"injected: {kind}" for kind in INJECTED for g in generators)
    write_lines(tmp_path / "tagged.jsonl", traces["tagged"])
    assert len(load_traces(tmp_path / "tagged.jsonl")) == len(traces["tagged"])
