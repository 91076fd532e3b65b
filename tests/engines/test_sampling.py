from __future__ import annotations

import pytest
from pydantic import ValidationError

from prmbench.engines.sampling import SamplingParams, uniforms


def test_random_numbers_belong_to_the_completion():
    base = uniforms(0, "p", 0, 5)
    assert (uniforms(0, "p", 0, 9)[:5] == base).all()
    for other in (uniforms(1, "p", 0, 5), uniforms(0, "q", 0, 5), uniforms(0, "p", 1, 5)):
        assert (other != base).all()


def test_bad_parameters():
    for bad in ({"temperature": -1}, {"top_p": 0}, {"top_k": -1}, {"max_new_tokens": 0}, {"temprature": 1}):
        with pytest.raises(ValidationError):
            SamplingParams(**bad)
