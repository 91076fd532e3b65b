from __future__ import annotations

import support
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.cache_utils import DynamicLayer

from prmbench.engines.hf.kv_cache import GrowingLayer, growing_cache

ACTIONS = st.lists(st.sampled_from(["one", "many", "select", "repeat", "crop"]), min_size=1, max_size=25)


@given(ACTIONS, st.integers(0, 1_000))
@settings(max_examples=60, deadline=None)
def test_holds_what_transformers_layer_holds(actions, seed):
    torch.manual_seed(seed)
    mine, theirs = GrowingLayer(), DynamicLayer()
    rows = 3
    for action in ["many", *actions]:
        if action in ("one", "many"):
            keys, values = torch.randn(2, rows, 2, 1 if action == "one" else 70, 4)
            found, expected = (layer.update(keys.clone(), values.clone()) for layer in (mine, theirs))
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        elif action == "crop" and theirs.get_seq_length() > 5:
            for layer in (mine, theirs):
                layer.crop(-5)
        elif action in ("select", "repeat"):
            indices = torch.randint(rows, (max(1, rows - 1) if action == "select" else rows + 1,))
            rows = len(indices)
            for layer in (mine, theirs):
                layer.batch_select_indices(indices)
        assert mine.get_seq_length() == theirs.get_seq_length()
        assert torch.equal(mine.keys, theirs.keys)
        assert torch.equal(mine.values, theirs.values)


def test_a_token_is_written_where_it_stays():
    layer = GrowingLayer()
    layer.update(*torch.randn(2, 3, 2, 10, 4))
    places = set()
    for _ in range(50):
        layer.update(*torch.randn(2, 3, 2, 1, 4))
        places.add(layer.keys.data_ptr())
    assert len(places) == 1


def test_all_layers_of_a_plain_decoder_grow():
    assert [type(layer) for layer in growing_cache(support.tiny_llama(20).config).layers] == [GrowingLayer] * 2
