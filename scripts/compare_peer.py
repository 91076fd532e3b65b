"""Compare our prefix sums of an implicit model with those of a public script, on the same model, reference and traces.

    python scripts/compare_peer.py --rm CKPT --reference SFT [--peer process_eval.py] [--subset gsm8k] [--limit 40]

Ours is run on the texts that public scripts make, with `Step i: ` before each step. Printed are

- the script's step sums against our sums to the very same token, which must agree to 1e-3;
- the step ends: where both end a step at the same token, the step scores agree; where they do not, the cause is named, with what it
  does to the score.

Without `--peer`, the usual way in our own words (`peer_tools.py`) stands in for the script.

Public scripts mask attention wherever a token is the padding token, so that a checkpoint that pads with its end of turn has the
ends of its turns masked. By default they are given a padding token that no trace holds; `--pad as-is` leaves the tokenizer's.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from peer_tools import score_usual, score_with_peer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from prmbench.data.tokens import EncodedTrace

TOLERANCE = 1e-3


def unused_token(tokenizer: PreTrainedTokenizerBase, encoded: Sequence[EncodedTrace]) -> str:
    """Return a special token that none of these traces holds."""
    present = set(np.concatenate([one.ids for one in encoded]).tolist())
    return next(
        token for i, token in enumerate(tokenizer.all_special_tokens) if tokenizer.all_special_ids[i] not in present
    )


def cause(theirs: int, own: int, last: bool) -> str:
    """Say why the script's step ends where it does. `theirs` and `own` are positions of the step's last token."""
    if theirs == own:
        return "same end"
    if last:
        return "last step: the end of turn is counted" if theirs == own + 1 else "last step: ends elsewhere"
    beyond = theirs - own
    if beyond > 0:
        return f"the end runs {beyond} token{'s' if beyond > 1 else ''} into the next step"
    return "the end of turn and separator, tokenized as a prefix, merge otherwise than in the whole"


def report(rm: Path, reference: Path, peer: Path | None, subset: str, limit: int, *, own_pad: bool) -> str:
    """Compare, and say what was found."""
    from prmbench.data.traces import load_traces
    from prmbench.reward_models.implicit import ImplicitRewardModel
    from prmbench.reward_models.loading import load_reward_model
    from prmbench.studies.measure_reward_models import token_values

    model = load_reward_model(rm, reference=reference, reference_cache=False, tokens={"step_prefix": "Step {i}: "})
    if not isinstance(model, ImplicitRewardModel):
        raise SystemExit(f"{rm}: holds a reward model of kind {model.card.kind}; expected an implicit one")
    traces = load_traces(None, [subset], limit)
    encoded = [model.encode(trace.problem, trace.steps) for trace in traces]
    values = token_values(model, encoded, 2_048)
    engines: list[Any] = [model.model, model.reference.engine()]
    whole = [one.model for one in engines]
    tokenizer = model.encoder.tokenizer
    if own_pad:
        tokenizer.pad_token = unused_token(tokenizer, encoded)
    if peer is None:
        found = score_usual(tokenizer, whole, traces)
    else:
        with tempfile.TemporaryDirectory() as work:
            found = score_with_peer(peer, (rm, reference), tokenizer, whole, traces, Path(work))

    # Compare step by step.
    title = f"{len(traces)} traces of {subset}, {sum(len(t.steps) for t in traces)} steps; {peer.name if peer else 'the usual way'}"
    lines = [f"{title}, padding token {'that no trace holds' if own_pad else 'as it is'}"]
    causes: Counter[str] = Counter()
    to_token: list[float] = []
    to_step: dict[str, list[float]] = defaultdict(list)
    other_ids = 0
    for i, (one, theirs) in enumerate(zip(encoded, found, strict=True)):
        own = one.ids.tolist()
        shared = min(len(own), len(theirs.ids))
        if own[:shared] != theirs.ids[:shared]:  # a token across a boundary, other special tokens: nothing to compare
            other_ids += 1
            continue
        running = np.concatenate([[0.0], values[i].cumsum()])
        for step, (end, total) in enumerate(zip(theirs.ends, theirs.sums, strict=True)):
            end = min(end, len(theirs.ids) - 1)
            at = one.n_prompt + int(np.flatnonzero(one.step_of == step)[-1])
            why = cause(end, at, step == len(theirs.ends) - 1)
            causes[why] += 1
            if end < len(own):
                to_token.append(abs(running[end - one.n_prompt + 1] - total))
            to_step[why].append(abs(running[at - one.n_prompt + 1] - total))
    # Say what was found.
    lines.append(f"traces whose token ids differ: {other_ids}" + (" (left out below)" if other_ids else ""))
    lines.append(
        f"sum to the very token where the script ends a step: {sum(d < TOLERANCE for d in to_token)} of {len(to_token)} "
        f"agree to {TOLERANCE:g}; largest difference {max(to_token):.1e}"
    )
    for why, n in causes.most_common():
        off = to_step[why]
        agree = sum(d < TOLERANCE for d in off)
        lines.append(
            f"  {n:4} steps: {why}; step sums agree to {TOLERANCE:g} on {agree}, median |difference| "
            f"{np.median(off):.2g}, largest {max(off):.2g}"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rm", type=Path, required=True, help="an implicit reward model's folder")
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--peer", type=Path, help="a public script (see peer_tools.py)")
    parser.add_argument("--subset", default="gsm8k")
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument(
        "--pad", choices=("own", "as-is"), default="own", help="padding token of the script's tokenizer"
    )
    options = parser.parse_args()
    print(
        report(options.rm, options.reference, options.peer, options.subset, options.limit, own_pad=options.pad == "own")
    )


if __name__ == "__main__":
    main()
