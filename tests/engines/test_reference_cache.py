"""The reference cache: the very bits, misses by construction, a bounded size, and nothing that goes wrong with it stops a run."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import numpy as np
import pytest
import support
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import prmbench
from prmbench.engines.load import LoadOptions
from prmbench.engines.reference_cache import Identity, LogprobCache, Shape, cache_limit, cache_path
from prmbench.errors import UserError
from prmbench.reward_models.loading import load_reward_model

QUICK = {"n_resamples": 20, "batch_tokens": 400}
ONE = Identity("a" * 64, "hf", "cpu", "float32", {"torch": "1"})
SHAPE = Shape(407, 1024)


@pytest.fixture
def at(tmp_path, monkeypatch):
    """The cache switched on, in a folder of this test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PRMBENCH_CACHE_GIB", "1")
    return cache_path()


@pytest.fixture
def store(at):
    return LogprobCache()


def batch(seed=0, rows=3):
    rng = np.random.default_rng(seed)
    ids = [rng.integers(0, 400, size=rng.integers(5, 30)) for _ in range(rows)]
    return ids, [int(rng.integers(1, len(one))) for one in ids]


def evaluate(rm, reference, data, output, **loading):
    entry, path = prmbench.evaluate(rm, reference=reference, data=data, output=output, **QUICK, **loading)
    return entry, (path.parent / "items.jsonl").read_bytes()


# --- through an evaluation ---


def test_the_next_reward_model_uses_it_and_gets_the_very_bits(tiny, tiny_tuned, traces_file, tmp_path, at, monkeypatch):
    other = support.save_checkpoint(tmp_path / "other", seed=2)
    plain, bytes_plain = evaluate(other, tiny, traces_file, tmp_path / "plain", reference_cache=False)
    assert not at.exists()
    first, _ = evaluate(tiny_tuned, tiny, traces_file, tmp_path / "first")
    assert first.provenance.run.cached_tokens == 0
    loaded = []
    real = AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(
        AutoModelForCausalLM, "from_pretrained", lambda folder, **k: loaded.append(folder) or real(folder, **k)
    )
    second, bytes_second = evaluate(other, tiny, traces_file, tmp_path / "second")
    assert loaded == [other]  # the reference was not even loaded
    run = second.provenance.run
    assert run.cached_tokens == run.tokens == plain.provenance.run.tokens > 0
    assert bytes_second == bytes_plain
    assert second.model_copy(update={"provenance": None}) == plain.model_copy(update={"provenance": None})


def test_an_adapter_and_a_whole_checkpoint_share_their_reference(tiny, tiny_tuned, traces_file, tmp_path, at):
    torch.manual_seed(5)
    settings = LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny), settings).save_pretrained(tmp_path / "adapter")
    _, plain = evaluate(tmp_path / "adapter", tiny, traces_file, tmp_path / "plain", reference_cache=False)
    evaluate(tiny_tuned, tiny, traces_file, tmp_path / "first")
    found, cached = evaluate(tmp_path / "adapter", tiny, traces_file, tmp_path / "second")
    assert found.provenance.run.cached_tokens == found.provenance.run.tokens
    assert cached == plain


def changed_weight(folder, traces):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] * 1.01
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def changed_config(folder, traces):
    config = json.loads((folder / "config.json").read_text())
    config["rms_norm_eps"] = 1e-3
    (folder / "config.json").write_text(json.dumps(config))


def changed_record(folder, traces):
    traces.write_text("".join(line.replace("What is", "What was") + "\n" for line in traces.read_text().splitlines()))


@pytest.mark.parametrize(
    ("change", "loading"),
    [
        (changed_weight, {}),
        (changed_config, {}),
        (changed_record, {}),
        (None, {"tokens": {"separator": "\n"}}),
        (None, {"tokens": {"system": "Be brief."}}),
        (None, {"load_options": LoadOptions(dtype="bfloat16")}),
    ],
)
def test_what_changed_misses(tiny, tiny_tuned, traces_file, tmp_path, at, change, loading):
    reference = shutil.copytree(tiny, tmp_path / "reference")
    evaluate(tiny_tuned, reference, traces_file, tmp_path / "before")
    if change:
        change(reference, traces_file)
    after, with_cache = evaluate(tiny_tuned, reference, traces_file, tmp_path / "after", **loading)
    _, without = evaluate(tiny_tuned, reference, traces_file, tmp_path / "plain", reference_cache=False, **loading)
    assert after.provenance.run.cached_tokens == 0
    assert with_cache == without


def test_one_changed_record_costs_its_batch_alone(tiny, tiny_tuned, traces_file, tmp_path, at):
    evaluate(tiny_tuned, tiny, traces_file, tmp_path / "before")
    content = traces_file.read_text()
    traces_file.write_text(content.replace('"What is', '"What was', 1))  # one token of one trace
    after, with_cache = evaluate(tiny_tuned, tiny, traces_file, tmp_path / "after")
    run = after.provenance.run
    assert 0 < run.cached_tokens < run.tokens
    assert with_cache == evaluate(tiny_tuned, tiny, traces_file, tmp_path / "plain", reference_cache=False)[1]


def test_another_reference_is_refused_though_it_was_cached(tiny, tiny_tuned, traces_file, tmp_path, at):
    """The vocabularies are compared though the reference is not loaded."""
    evaluate(tiny_tuned, tiny, traces_file, tmp_path / "before")
    model = load_reward_model(tiny_tuned, reference=tiny)
    assert (model.reference.shape.vocabulary, model.reference.shape.max_length) == (407, 1024)
    with sqlite3.connect(at) as db:
        db.execute("UPDATE reference SET vocabulary = 408")
    with pytest.raises(UserError, match="407 logits a position, its reference .* has 408"):
        load_reward_model(tiny_tuned, reference=tiny)


def damaged(at):
    content = bytearray(at.read_bytes())
    content[100:] = os.urandom(len(content) - 100)
    at.write_bytes(content)


@pytest.mark.parametrize("damage", [damaged, lambda at: at.write_bytes(b"not a database" * 99), None])
def test_a_cache_that_cannot_be_used_stops_nothing(tiny, tiny_tuned, traces_file, tmp_path, at, capsys, damage):
    _, expected = evaluate(tiny_tuned, tiny, traces_file, tmp_path / "plain")
    gc.collect()  # closes its file: what was in the write-ahead log is in the file itself
    assert at.stat().st_size > 20_000
    if damage is None:  # its folder cannot be written
        shutil.rmtree(at.parent)
        at.parent.write_text("a file")
    else:
        damage(at)
    capsys.readouterr()
    _, found = evaluate(tiny_tuned, tiny, traces_file, tmp_path / "again")
    assert found == expected
    said = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(said) == 1
    assert "going on without it" in said[0]


# --- the store ---


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_come_back_exactly(store, dtype):
    ids, first = batch()
    rng = np.random.default_rng(1)
    values = rng.normal(size=sum(len(a) - b for a, b in zip(ids, first, strict=True))).astype(dtype).astype(np.float64)
    key = ONE.key(ids, first)
    assert store.get(key, len(values)) is None
    assert store.shape(ONE) is None
    store.put(key, values, ONE, "sft", SHAPE)
    again = LogprobCache()
    assert again.get(key, len(values)).tobytes() == values.tobytes()
    assert again.get(key, len(values) + 1) is None
    assert again.shape(ONE) == SHAPE
    assert again.listed()[0].bytes == values.size * (4 if dtype == "float32" else 8)


def test_a_key_is_of_everything():
    ids, first = batch()
    keys = {ONE.key(ids, first)}
    moved = [one.copy() for one in ids]
    moved[1][0] += 1
    keys |= {ONE.key(moved, first), ONE.key(ids, [first[0] + 1, *first[1:]]), ONE.key(ids[::-1], first[::-1])}
    keys |= {ONE.key(ids[:2], first[:2]), ONE.key([np.concatenate(ids[:2]), ids[2]], [first[0], first[2]])}
    for change in ({"weights": "b" * 64}, {"engine": "vllm"}, {"device": "cuda"}, {"dtype": "bfloat16"}):
        keys.add(Identity(**{**ONE.__dict__, **change}).key(ids, first))
    keys.add(Identity(**{**ONE.__dict__, "kernels": {"torch": "2"}}).key(ids, first))
    assert len(keys) == 11


def test_a_damaged_row_is_a_miss_and_is_mended(store, at):
    key = ONE.key(*batch())
    store.put(key, np.arange(4.0), ONE, "sft", SHAPE)
    with sqlite3.connect(at) as db:
        db.execute("UPDATE batch SET data = ?", (np.array([0, 1, 2, 4], dtype="float32").tobytes(),))
    assert store.get(key, 4) is None
    store.put(key, np.arange(4.0), ONE, "sft", SHAPE)
    assert store.get(key, 4).tolist() == [0, 1, 2, 3]


def test_the_size_is_bounded_and_what_was_used_longest_ago_goes(at):
    limit = 400_000
    store = LogprobCache(limit=limit)
    values = np.arange(2000.0)
    for i in range(200):  # 1.6 MB in all
        store.put(bytes([i]), values, ONE, "sft", SHAPE)
    there = [i for i in range(200) if store.get(bytes([i]), 2000) is not None]
    assert there == list(range(200 - len(there), 200))
    assert len(there) * 8_000 > limit / 2
    store._close()
    assert store.size() < limit * 1.2
    with sqlite3.connect(at) as db:  # the oldest row was used again, long after the others
        db.execute("UPDATE batch SET used = used - 1e6")
    reader = LogprobCache(limit=limit)
    assert reader.get(bytes([there[0]]), 2000) is not None
    for i in range(20):
        reader.put(b"new" + bytes([i]), values, ONE, "sft", SHAPE)
    assert reader.get(bytes([there[0]]), 2000) is not None
    assert reader.get(bytes([there[1]]), 2000) is None


def write_many(path, start, n):
    store = LogprobCache(path, 2**30)
    for i in range(start, start + n):
        store.put(i.to_bytes(4, "big"), np.arange(float(i), i + 500), ONE, "sft", SHAPE)
    assert not store._broken


def test_two_processes_at_once(at):
    spawn = multiprocessing.get_context("fork")
    both = [spawn.Process(target=write_many, args=(at, start, 150)) for start in (0, 100)]
    for one in both:
        one.start()
    for one in both:
        one.join()
        assert one.exitcode == 0
    store = LogprobCache()
    assert all(store.get(i.to_bytes(4, "big"), 500)[0] == i for i in range(250))


def test_a_kill_leaves_a_cache_that_works(at):
    rng = np.random.default_rng(3)
    for _ in range(5):
        one = multiprocessing.get_context("fork").Process(target=write_many, args=(at, 0, 100_000))
        one.start()
        while not at.exists():  # a busy machine starts a process late
            time.sleep(0.01)
        time.sleep(rng.uniform(0.05, 0.2))
        os.kill(one.pid, signal.SIGKILL)
        one.join()
        assert one.exitcode == -signal.SIGKILL
        with sqlite3.connect(at) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store = LogprobCache()
    n = store.listed()[0].batches
    assert n > 0
    assert all(store.get(i.to_bytes(4, "big"), 500)[0] == i for i in range(n))


def test_limits(monkeypatch):
    for text, expected in {"": 4 * 2**30, "0": 0, "0.5": 2**29}.items():
        monkeypatch.setenv("PRMBENCH_CACHE_GIB", text)
        assert cache_limit() == expected
    for text in ("much", "-1", "nan"):
        monkeypatch.setenv("PRMBENCH_CACHE_GIB", text)
        with pytest.raises(UserError, match=f"PRMBENCH_CACHE_GIB={text}: expected a number of GiB"):
            cache_limit()


def test_list_and_clear(store, at):
    def run(*arguments, code=0):
        done = subprocess.run([sys.executable, "-m", "prmbench", "cache", *arguments], capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    other = Identity("b" * 64, "hf", "cpu", "float32", {})
    store.put(b"1", np.arange(9.0), ONE, "sft\x1b[31m", SHAPE)
    store.put(b"2", np.arange(5.0), ONE, "sft\x1b[31m", SHAPE)
    store.put(b"3", np.arange(7.0), other, "base", SHAPE)
    store.put(b"4", np.random.default_rng(0).normal(size=300_000), ONE, "sft\x1b[31m", SHAPE)
    store._close()
    shown = run("list")
    assert "\x1b" not in shown
    assert "aaaaaaaaaaaa  hf cpu float32  300,014 tokens" in shown
    assert str(at) in shown
    found = json.loads(run("list", "--json"))
    assert {one["name"]: (one["batches"], one["tokens"]) for one in found["references"]} == {
        "sft?[31m": (3, 300_014),
        "base": (1, 7),
    }
    assert "not in the cache; there are base, sft" in run("clear", "--reference", "nope", code=2)
    assert ": 2.3 MiB freed" in run("clear", "--reference", "aaaaaa")
    assert at.stat().st_size < 2**17
    assert [one["name"] for one in json.loads(run("list", "--json"))["references"]] == ["base"]
    run("clear")
    assert not at.exists()
    assert json.loads(run("list", "--json"))["references"] == []
