"""Responses that were begun, continued by a policy and judged whole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prmbench.data.prompts import AnswerStyle
from prmbench.data.verdicts import Verdict
from prmbench.engines.sampling import Completion, Request, SamplingParams
from prmbench.policies.policy import Policy
from prmbench.verify import Verifier


def continue_and_judge(
    policy: Policy,
    requests: Sequence[Request],
    starts: Sequence[NDArray[np.int64]],
    answers: Sequence[str],
    *,
    params: SamplingParams,
    seed: int,
    verifier: Verifier,
    style: AnswerStyle,
) -> tuple[list[Completion], NDArray[np.bool_]]:
    """Sample the rest of responses, as one batch, and judge each with its start before it.

    Args:
        policy: Who goes on.
        requests: What is to be sampled; the prompt of a request ends with the start of its response.
        starts: Response tokens so far, those that a request forces left out. int64, shape [start].
        answers: The right answers.
        params: How tokens are chosen.
        seed: Seed of all random numbers.
        verifier: Judges the responses.
        style: How a response states its answer.

    Returns:
        The continuations, and which of them are right. One that is cut off is wrong.
    """
    found = policy.engine.generate(requests, policy.stop, params, seed)
    decode = policy.encoder.tokenizer.decode
    texts = [
        decode(np.concatenate([start, one.ids]), skip_special_tokens=True)
        for start, one in zip(starts, found, strict=True)
    ]
    verdicts = verifier.verify(texts, answers, style=style)
    right = [v == Verdict.CORRECT and one.finish_reason == "stop" for v, one in zip(verdicts, found, strict=True)]
    return found, np.array(right, dtype=bool)
