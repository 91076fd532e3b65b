"""Prefixes that have run are not run again, and nothing comes out otherwise."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from prmbench.engines.hf.engine import HFEngine
from prmbench.engines.hf.grow import Continuation, grow
from prmbench.engines.hf.prefix_store import PrefixStore
from prmbench.engines.sampling import Request, SamplingParams


@pytest.fixture(scope="module")
def engine(tiny) -> HFEngine:
    return HFEngine(AutoModelForCausalLM.from_pretrained(tiny).eval())


def store_of(engine: HFEngine) -> PrefixStore:
    return PrefixStore(engine.trunk, engine.device)


def whole_states(engine: HFEngine, ids: np.ndarray) -> torch.Tensor:
    with torch.inference_mode():
        return engine.trunk(input_ids=torch.from_numpy(ids)[None], use_cache=False).last_hidden_state[0]


class Counted:
    """Counts the tokens that a decoder is given, padding left out."""

    def __init__(self, trunk: torch.nn.Module) -> None:
        self.tokens = 0
        self.hook = trunk.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module, args, kwargs):
        ids, mask = kwargs["input_ids"], kwargs.get("attention_mask")
        self.tokens += ids.numel() if mask is None else int(mask[:, -ids.shape[1] :].sum())


def distinct_prefixes(sequences) -> int:
    """How many different prefixes some sequences have: what must be run, by brute force."""
    return len({tuple(ids[:n].tolist()) for ids in sequences for n in range(1, len(ids) + 1)})


sequences = st.lists(
    st.lists(st.integers(1, 3), min_size=1, max_size=9).map(lambda ids: np.array(ids)), min_size=1, max_size=6
)


@settings(max_examples=10, deadline=None)
@given(st.lists(sequences, min_size=1, max_size=4))
def test_states_are_those_of_whole_sequences(engine, rounds):
    store = store_of(engine)
    for some in rounds:
        positions = [np.arange(len(ids)) for ids in some]
        got = store.states(some, positions)
        expected = torch.cat([whole_states(engine, ids) for ids in some])
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)
    assert store.works


@settings(max_examples=10, deadline=None)
@given(sequences, sequences)
def test_the_tree_knows_the_longest_prefix_and_keeps_what_it_is_told(engine, some, others):
    store = store_of(engine)
    store.advance(some)
    store.advance(others)

    def longest(ids, known) -> int:
        return max(
            n for n in range(len(ids) + 1) if n == 0 or any(len(k) >= n and (k[:n] == ids[:n]).all() for k in known)
        )

    for ids in [*some, *others]:
        assert store.find(ids).length == len(ids)
    store.keep(others)
    for ids in [*some, *others]:
        # A node is kept whole, so a sequence may be known a little further than what was to be kept.
        assert store.find(ids).length >= longest(ids, others)
        prefix = store.find(ids)
        if prefix.length:
            expected = whole_states(engine, ids)[: prefix.length]
            torch.testing.assert_close(torch.cat(prefix.hidden()), expected, atol=2e-5, rtol=1e-4)


def test_each_token_of_a_growing_response_is_run_once(engine):
    rng = np.random.default_rng(0)
    store, counted = store_of(engine), Counted(engine.trunk)
    prompt = rng.integers(5, 200, 11)
    paths = [prompt]
    everything = []
    for _ in range(4):
        store.advance(paths)
        # Children that differ in their first token: three of each path.
        paths = [np.append(one, [10 * k + 5, *rng.integers(5, 200, k + 1)]) for one in paths[:3] for k in range(3)]
        everything += paths
        store.states(paths, [np.array([len(ids) - 1]) for ids in paths])
        store.keep(paths)
    counted.hook.remove()
    assert counted.tokens == store.tokens + checks(store) == distinct_prefixes(everything) + checks(store)


def checks(store: PrefixStore) -> int:
    """Tokens of the sequences that were run whole once, to see that states are right."""
    return store.checked_tokens


def test_parts_of_a_response_are_the_whole_response(engine):
    """A response that is sampled in parts has the tokens of one that is sampled at once, whatever is sampled beside it."""
    rng = np.random.default_rng(1)
    params = SamplingParams(max_new_tokens=24, temperature=0.9, top_p=0.95)
    prompts = [rng.integers(5, 200, n) for n in (4, 9, 9)]
    stop = frozenset(range(7, engine.vocabulary, 40))
    requests = [Request(ids, f"p{i}", k) for i, ids in enumerate(prompts) for k in range(3)]
    expected = engine.generate(requests, stop, params, seed=5)
    for size in (1, 3, 100):
        store = store_of(engine)
        done: dict[int, np.ndarray] = {i: np.zeros(0, dtype=np.int64) for i in range(len(requests))}
        reasons = dict.fromkeys(done, "length")
        left = list(done)
        while left:
            wanted = [
                Continuation(
                    np.concatenate([requests[i].prompt, done[i]]),
                    requests[i].key,
                    requests[i].sample,
                    len(done[i]),
                    24 - len(done[i]),
                    lambda ids, size=size: len(ids) >= size,
                )
                for i in left
            ]
            parts = grow(engine, store, wanted, stop, params, seed=5)
            for i, part in zip(left, parts, strict=True):
                done[i] = np.concatenate([done[i], part.ids])
                reasons[i] = part.finish_reason
            left = [i for i in left if reasons[i] != "stop" and len(done[i]) < 24]
        for i, whole in enumerate(expected):
            assert done[i].tolist() == whole.ids.tolist()
            assert reasons[i] == whole.finish_reason


def test_sampling_in_steps_runs_each_token_once(engine):
    rng = np.random.default_rng(2)
    store, counted = store_of(engine), Counted(engine.trunk)
    params = SamplingParams(max_new_tokens=12)
    paths = [rng.integers(5, 200, 6)] * 3
    everything: list[np.ndarray] = []
    for step in range(3):
        wanted = [
            Continuation(ids, "p", 10 * step + i, 0, 12, lambda ids: len(ids) == 4) for i, ids in enumerate(paths)
        ]
        parts = grow(engine, store, wanted, frozenset(), params, 0)
        paths = [np.concatenate([ids, part.ids]) for ids, part in zip(paths, parts, strict=True)]
        everything += paths
        store.keep(paths)
    counted.hook.remove()
    # The last token of a path has not run. Rows sample beside each other, so tokens that they share are sampled apart.
    apart = len(paths[0]) - 1 - 6
    assert store.tokens == 6 + 3 * apart
    assert counted.tokens - checks(store) == store.tokens


@pytest.mark.parametrize("ignored", ["the cache", "attention_mask"])
def test_what_cannot_be_kept_is_run_whole(engine, monkeypatch, ignored):
    """An architecture may ignore its cache, or the padding in it: nothing is kept then, and the states are right."""
    store = store_of(engine)
    rng = np.random.default_rng(3)
    first, second = rng.integers(5, 200, 9), rng.integers(5, 200, 2)
    longer = [np.append(first, rng.integers(5, 200, 5)), np.append(second, 7)]
    forward, name = type(engine.trunk).forward, store.argument if ignored == "the cache" else ignored
    monkeypatch.setattr(type(engine.trunk), "forward", lambda self, **k: forward(self, **{**k, name: None}))
    store.states([first, second], [np.array([8]), np.array([1])])
    got = store.states([*longer, first], [np.array([3, 13]), np.array([2]), np.array([2])])
    monkeypatch.undo()
    assert not store.works
    whole = [whole_states(engine, ids) for ids in (*longer, first)]
    expected = torch.stack([*whole[0][[3, 13]], whole[1][2], whole[2][2]])
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)


def test_scores_do_not_depend_on_what_is_kept(engine):
    rng = np.random.default_rng(4)
    stem = rng.integers(5, 200, 8)
    some = [np.append(stem, rng.integers(5, 200, n)) for n in (3, 5, 7)]
    want = frozenset({"logprob", "logit", "logsumexp", "hidden", "topk"})
    plain = engine.score(some, [4, 8, 9], want, top=3)
    engine.prefixes = store_of(engine)
    try:
        engine.score([stem], [2], want, top=3)
        kept = engine.score(some, [4, 8, 9], want, top=3)
    finally:
        engine.prefixes = None
    for mine, theirs in itertools.product(("logprob", "logit", "logsumexp", "hidden", "topk_logprobs"), [0, 1, 2]):
        np.testing.assert_allclose(getattr(kept[theirs], mine), getattr(plain[theirs], mine), atol=1e-4)


def test_sliding_windows_are_run_whole():
    from transformers import Gemma2Config, Gemma2Model

    shape = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    model = Gemma2Model(Gemma2Config(vocab_size=40, head_dim=8, num_key_value_heads=1, sliding_window=4, **shape))
    store = PrefixStore(model.eval(), torch.device("cpu"))
    ids = np.arange(1, 12)
    got = store.states([ids], [np.array([10])])
    assert not store.works
    with torch.inference_mode():
        expected = model(input_ids=torch.from_numpy(ids)[None], use_cache=False).last_hidden_state[0, 10:]
    torch.testing.assert_close(got, expected)
