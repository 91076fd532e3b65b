from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prmbench.engines.hf import head
from prmbench.engines.hf.head import logit_tiles, read_tiles

WANT = frozenset({"logit", "logsumexp", "logprob", "topk"})


@given(
    st.integers(0, 10_000),
    st.integers(1, 40),
    st.integers(1, 200),
    st.integers(1, 60),
    st.floats(0.1, 80),
    st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_equals_whole_rows_in_float64(seed, rows, vocabulary, width, scale, bias):
    """Any size of tile, weak and strong logits, a bias or none."""
    rng = np.random.default_rng(seed)
    states, weight, added = (
        torch.from_numpy(rng.normal(size=size)).float() for size in ((rows, 8), (vocabulary, 8), (vocabulary,))
    )
    weight *= scale
    targets = torch.from_numpy(rng.integers(vocabulary, size=rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "tile_width", lambda device: width)
        tiles = list(logit_tiles(states, weight, added if bias else None, None))
        assert [start for start, _ in tiles] == list(range(0, vocabulary, width))
        found = read_tiles(tiles, targets, WANT, 5)
    logits = states.double() @ weight.double().T + (added.double() if bias else 0)
    expected = {
        "logit": logits.gather(1, targets[:, None])[:, 0],
        "logsumexp": logits.logsumexp(-1),
        "topk_logprobs": logits.log_softmax(-1).topk(min(5, vocabulary)).values,
    }
    expected["logprob"] = expected["logit"] - expected["logsumexp"]
    tolerance = 1e-5 * max(1.0, float(logits.abs().max()))
    assert set(found) == {*expected, "topk_ids"}
    for name, value in expected.items():
        assert found[name].dtype == torch.float64
        assert (found[name] - value).abs().max() < tolerance
    at = logits.log_softmax(-1).gather(1, found["topk_ids"])
    assert (at - expected["topk_logprobs"]).abs().max() < tolerance
    assert all(len(set(row.tolist())) == len(row) for row in found["topk_ids"])


def test_tokens_that_cannot_occur():
    """A bias of -inf, over a whole tile too: such tokens have probability 0 and the others are as without them."""
    states, weight = torch.eye(2), torch.tensor([[1.0, 0.0]] * 6)
    bias = torch.tensor([-torch.inf, -torch.inf, 0.0, 0.5, -torch.inf, 0.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "tile_width", lambda device: 2)
        found = read_tiles(logit_tiles(states, weight, bias, None), torch.tensor([3, 0]), WANT, 3)
    assert found["logprob"].tolist() == [pytest.approx(0.5 - np.log(2 + np.exp(0.5))), -np.inf]
    assert found["topk_ids"][:, 0].tolist() == [3, 3]


def test_what_an_architecture_does_to_logits_is_done_to_tiles():
    states, weight = torch.randn(3, 4), torch.randn(9, 4)

    def finish(x):
        return torch.tanh(x / 2) * 2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "tile_width", lambda device: 4)
        found = read_tiles(
            logit_tiles(states, weight, None, finish), torch.tensor([0, 5, 8]), frozenset({"logsumexp"}), 0
        )
    assert (found["logsumexp"] - finish(states @ weight.T).double().logsumexp(-1)).abs().max() < 1e-6
