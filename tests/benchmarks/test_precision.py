from __future__ import annotations

import numpy as np
import pytest
import support

import prmbench
from prmbench.benchmarks.best_of_n.run import _within_problems
from prmbench.benchmarks.best_of_n.schema import CompletionScores
from prmbench.benchmarks.precision import LIMIT, TOKEN_NOISE, precision_warning
from prmbench.benchmarks.registry import recompute
from prmbench.engines.load import LoadOptions


def scores(spread, n=10_001):
    """Normal scores with this standard deviation, of 49 tokens each."""
    from scipy.stats import norm

    return spread * norm.ppf(np.linspace(0, 1, n + 2)[1:-1]), np.full(n, 49)


@pytest.mark.parametrize("dtype", list(TOKEN_NOISE))
def test_the_limit_by_hand(dtype):
    # 49 tokens: noise is 7 times a token's; at risk where that is more than LIMIT of the spread.
    edge = 7 * TOKEN_NOISE[dtype] / LIMIT
    assert precision_warning(dtype, *scores(1.01 * edge)) is None
    assert f"{dtype} rounds the log-ratio of 49 tokens by about" in precision_warning(dtype, *scores(0.99 * edge))
    assert precision_warning("float32", *scores(0.01 * edge)) is None


def test_a_few_far_values_hide_nothing():
    sums, counts = scores(0.01)
    sums[:100] = 1e6
    assert precision_warning("bfloat16", sums, counts)


def test_a_run_in_half_precision_says_so_and_keeps_it(tiny, traces_file, tmp_path, capsys):
    """A model beside a reference that differs by a hair: its log-ratios are smaller than bfloat16's rounding."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    near = AutoModelForCausalLM.from_pretrained(tiny)
    with torch.no_grad():
        for parameter in near.parameters():
            parameter += 1e-4 * torch.randn_like(parameter)
    near.save_pretrained(tmp_path / "near")
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path / "near")
    for dtype, expected in {"bfloat16": 1, "float32": 0}.items():
        entry, path = prmbench.evaluate(
            tmp_path / "near",
            reference=tiny,
            data=traces_file,
            output=tmp_path / dtype,
            n_resamples=0,
            load_options=LoadOptions(dtype=dtype),
        )
        assert len(entry.provenance.warnings) == expected
        assert capsys.readouterr().err.count("warning: bfloat16 rounds") == expected
        assert recompute(path).provenance.warnings == entry.provenance.warnings


def test_candidates_are_compared_within_their_problem():
    """Problems far apart, candidates of one a hair apart: only the second counts."""
    made = [
        CompletionScores(
            "s", f"p{p}", k, "d", k == 0, 0, 49 + p, np.array([49]), np.array([0.0]), 100.0 * p + 0.01 * k, None
        )
        for k in range(4)
        for p in range(6)
    ]
    sums, lengths = _within_problems(made)
    assert np.allclose(sums.reshape(6, 4), [-0.015, -0.005, 0.005, 0.015])
    assert lengths.reshape(6, 4).tolist() == [[49 + p] * 4 for p in range(6)]
    assert precision_warning("bfloat16", sums, lengths)


def test_far_apart_models_are_not_at_risk(tiny, tmp_path, traces_file):
    entry, _ = prmbench.evaluate(
        support.save_checkpoint(tmp_path / "far", seed=3),
        reference=tiny,
        data=traces_file,
        output=tmp_path / "run",
        n_resamples=0,
        load_options=LoadOptions(dtype="bfloat16"),
    )
    assert entry.provenance.warnings == []
