from __future__ import annotations

import pytest
import torch

from prmbench.engines.load import LoadOptions, load_causal_lm
from prmbench.reward_models import log_ratio_dtype
from prmbench.reward_models.loading import load_reward_model
from prmbench.reward_models.log_ratio_dtype import HEADROOM, choose_dtype, float32_bytes


@pytest.fixture
def cuda(monkeypatch):
    """A CUDA device that is not there: its memory is asked for, and models land on the CPU."""
    free = {"bytes": 0}
    monkeypatch.setattr(log_ratio_dtype, "free_bytes", lambda options: free["bytes"])
    monkeypatch.setattr(LoadOptions, "resolve_device", lambda self: torch.device("cuda:0"))
    return free


def test_weights_in_float32(tiny):
    model = load_causal_lm(tiny, LoadOptions())
    assert float32_bytes(tiny) == 4 * sum(p.numel() for p in model.parameters())


def test_float32_where_both_models_fit(tiny, tiny_tuned, cuda):
    both = HEADROOM * (float32_bytes(tiny) + float32_bytes(tiny_tuned))
    cuda["bytes"] = round(both) + 1
    options, warnings = choose_dtype(LoadOptions(), [tiny_tuned, tiny])
    assert (options.dtype, warnings) == ("float32", [])
    cuda["bytes"] = round(both) - 1
    options, warnings = choose_dtype(LoadOptions(), [tiny_tuned, tiny])
    assert options.dtype == "bfloat16"
    assert "Half of the step scores of a log-ratio can be rounding" in warnings[0]
    assert LoadOptions().resolve_dtype() == torch.bfloat16  # what other kinds go on with


def test_an_engine_that_reserves_memory_needs_room_for_each(tiny, cuda):
    one = HEADROOM * float32_bytes(tiny)
    cuda["bytes"] = round(one / 0.42) + 1
    assert choose_dtype(LoadOptions(), [tiny, tiny], share=0.42)[0].dtype == "float32"
    cuda["bytes"] -= 9
    assert choose_dtype(LoadOptions(), [tiny, tiny], share=0.42)[0].dtype == "bfloat16"
    assert choose_dtype(LoadOptions(tensor_parallel=2), [tiny, tiny], share=0.42)[0].dtype == "float32"


def test_what_the_user_says_and_a_cpu_stay(tiny, cuda, monkeypatch):
    assert choose_dtype(LoadOptions(dtype="bfloat16"), [tiny]) == (LoadOptions(dtype="bfloat16"), [])
    monkeypatch.setattr(LoadOptions, "resolve_device", lambda self: torch.device("cpu"))
    assert choose_dtype(LoadOptions(), [tiny]) == (LoadOptions(), [])


@pytest.mark.parametrize(("share", "dtype"), [(1.0, "float32"), (0.5, "bfloat16")])
def test_an_implicit_model_is_loaded_so_and_warns(tiny, tiny_tuned, cuda, monkeypatch, capsys, share, dtype):
    cuda["bytes"] = round(share * HEADROOM * (float32_bytes(tiny) + float32_bytes(tiny_tuned))) + 1
    seen = []

    def load(name, folder, options, source, *, memory_share, allowed):
        seen.append(options.dtype)
        from prmbench.engines.hf.engine import HFEngine

        with monkeypatch.context() as patch:
            patch.setattr(LoadOptions, "resolve_device", lambda self: torch.device("cpu"))
            return HFEngine(load_causal_lm(folder, options), source)

    monkeypatch.setattr("prmbench.reward_models.implicit.load_engine", load)
    monkeypatch.setattr("prmbench.reward_models.implicit.reference_identity", lambda *_, **__: None)
    model = load_reward_model(tiny_tuned, reference=tiny, reference_cache=False)
    assert seen == [dtype] * len(seen)
    assert model.device_and_dtype()[1] == dtype
    assert [w in capsys.readouterr().err for w in model.warnings] == ([] if dtype == "float32" else [True])
