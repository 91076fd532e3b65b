from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
from support_miniature import step_of_parts

from prmbench.data.prompts import find_prompt
from prmbench.data.tokens import TraceEncoder
from prmbench.data.traces import load_traces
from prmbench.engines.checkpoint import checkpoint_hash
from prmbench.engines.load import LoadOptions, load_causal_lm
from prmbench.engines.tokenizer import load_tokenizer
from prmbench.errors import ArgumentError, UserError
from prmbench.miniature.backbones import BACKBONES, build_model, build_tokenizer, save_untrained
from prmbench.miniature.build import (
    SHIPPED,
    Build,
    make_chats,
    make_problems,
    make_traces,
    rollout_error,
    train_policy,
    write_lines,
)
from prmbench.miniature.checker import error_kind, first_wrong_step, read_content
from prmbench.miniature.demo import Demo, Sizes
from prmbench.miniature.demo_view import show
from prmbench.miniature.injected import INJECTED
from prmbench.miniature.solutions import FORMATS, WORDS
from prmbench.miniature.world import World, parse_problem
from prmbench.policies.policy import load_policy
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
        *turns, (_, answer) = ((m["role"], m["content"]) for m in chat["messages"])
        ids, p = encode_chat(encoder, Chat(tuple(turns), answer))
        assert tokenizer.unk_token_id not in ids.tolist()
        text = tokenizer.decode(ids[p:], skip_special_tokens=True)
        assert [s.strip() for s in text.split("\n\n")] == answer.split("\n\n")
        again = encoder.text_ids(text)
        assert (again == ids[p:-1]).all()  # what a policy wrote tokenizes to what it sampled


def test_training_data_are_demonstrations_of_training_problems_in_three_formats():
    """A good third are right; what is wrong is a misconception. Formats have the shares and the system messages they should."""
    found = Counter()
    for chat in make_chats(WORLD, 2_000, 0):
        *system, user, assistant = (one["content"] for one in chat["messages"])
        problem, steps = parse_problem(user), assistant.split("\n\n")
        assert problem.split() == "train"
        assert error_kind(problem, steps, WORLD) in ("none", "wrong result")
        found["right"] += first_wrong_step(problem, steps, WORLD) == -1
        form = {(): "tagged", ("untagged",): "plain", ("prose",): "prose"}[tuple(system)]
        found[form] += 1
        assert steps[0].startswith("<") == (form == "tagged")
        assert any(word in steps[0] for word in WORDS.values()) == (form == "prose")
    assert found["right"] / 2_000 == pytest.approx(0.37, abs=0.05)
    assert found["tagged"] / 2_000 == pytest.approx(0.7, abs=0.04)
    assert found["prose"] / 2_000 == pytest.approx(0.15, abs=0.03)


def test_problems_are_seeded_and_different():
    first = make_problems(WORLD, "test", 50, 0)
    assert first == make_problems(WORLD, "test", 50, 0)
    assert len({p["problem"] for p in first}) == 50
    assert first != make_problems(WORLD, "test", 50, 1)
    with pytest.raises(ArgumentError, match="`n=400`: the split 'validation' of .* has fewer problems"):
        make_problems(World(modulus=4, min_ops=1, max_ops=1), "validation", 400, 0)


SMALL = Sizes(problems=40, samples=4, traces=40, outcomes=60, outcome_samples=5, reranked=6, candidates=16)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo with the policy that ships, at a size of seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield Demo(Build(), SMALL, log=lambda _: None)


def test_the_policy_that_ships_is_an_ordinary_checkpoint(demo):
    assert demo.policy_folder == demo.build.folder() / "sft"
    assert checkpoint_hash(demo.policy_folder) == checkpoint_hash(SHIPPED)
    assert train_policy(Build()) == demo.policy_folder  # it is copied once
    assert sum(one.stat().st_size for one in SHIPPED.iterdir()) < 3_000_000
    assert not [one for one in SHIPPED.iterdir() if one.suffix in (".bin", ".pt", ".pkl")]
    origin = json.loads((SHIPPED / "origin.json").read_text())
    assert origin["build"] == json.loads(json.dumps(asdict(Build())))
    assert Build().folder() != Build(from_scratch=True).folder()
    assert len(demo.rollouts) == 160
    assert sum(demo.errors.values()) == 160


def test_verdicts_agree_with_the_checker(demo):
    for rollout in demo.rollouts:
        kind = rollout_error(rollout, demo.build.world)
        if kind == "none":
            assert rollout.correct
        if kind == "wrong answer":
            assert not rollout.correct


def test_traces_are_labelled_by_the_checker_in_all_formats(demo, tmp_path):
    world = demo.build.world
    traces = make_traces(demo.rollouts, world, 40, seed=0)
    assert traces == make_traces(demo.rollouts, world, 40, seed=0)
    for tagged, plain, prose in zip(*(traces[form] for form in FORMATS), strict=True):
        problem = parse_problem(plain["problem"])
        assert (tagged["label"], tagged["id"], tagged["problem"]) == (plain["label"], plain["id"], plain["problem"])
        assert (prose["id"], prose["problem"]) == (plain["id"], plain["problem"])
        assert [s.partition(" ")[2] for s in tagged["steps"]] == plain["steps"]
        # Two halves of a split operation are one step of prose, and its label is that of the first wrong half.
        content = read_content(problem, plain["steps"])
        place = step_of_parts(content, "prose")
        if tagged["generator"] == "policy" or tagged["generator"].endswith("result"):
            assert prose["label"] == (-1 if plain["label"] < 0 else place[plain["label"]])
        for trace in (tagged, plain, prose):
            assert trace["label"] == first_wrong_step(problem, trace["steps"], world)
            assert trace["final_answer_correct"] == (content[1] == problem.answer(world))
        if tagged["generator"].startswith("policy: "):
            assert tagged["generator"] == f"policy: {error_kind(problem, plain['steps'], world)}"
    generators = {t["generator"] for t in traces["tagged"]}
    assert "policy" in generators
    assert any(g == f"injected: {kind}" for kind in INJECTED for g in generators)
    write_lines(tmp_path / "tagged.jsonl", traces["tagged"])
    assert len(load_traces(tmp_path / "tagged.jsonl")) == len(traces["tagged"])


@pytest.mark.slow
def test_the_demo_shows_the_whole_loop(demo, capsys):
    show(demo)
    said = capsys.readouterr().out
    titles = (
        "the policy",
        "sample 4 completions",
        "make 40 labelled traces",
        "train a reward model",
        "rerank 16",
        "compare the miniature",
    )
    for number, title in enumerate(titles, start=1):
        assert f"{number}. {title}" in said
    for text in (
        "First errors by kind",
        "EndoRM",
        "IPVRM",
        "Best-of-N",
        "pass rate at temperature 1",
        "true first error",
        "next:",
    ):
        assert text in said
    commands = [line.split("prmbench ")[1] for line in said.splitlines() if "prmbench " in line]
    for folder in re.findall(r"(/\S+)", " ".join(commands)):
        assert Path(folder).exists(), folder


@pytest.mark.slow
def test_a_policy_from_scratch(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build = Build(world=World(modulus=5, min_ops=2, max_ops=2), n_chats=400, steps=5, seed=1)
    lines: list[str] = []
    policy = train_policy(build, lines.append)
    assert policy == build.folder() / "sft"
    assert train_policy(build, lines.append) == policy
    assert "is there already" in lines[-1]
    load_policy(str(policy), find_prompt("bare"))
