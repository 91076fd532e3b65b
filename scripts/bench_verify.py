"""How fast answers are verified, and what hostile ones cost.

    python scripts/bench_verify.py [--workers 2] [--timeout 2.0]

Prints, in this order:

- verdicts a second on 10,000 easy answers (numbers, fractions, words in boxed completions; no worker starts);
- the peer ratio: 500 easy pairs by the rules against plain math-verify in this process, as its README calls it, with how
  often the two agree;
- verdicts a second on 200 answers that need math-verify, in warm workers;
- the time for 100 distinct hostile answers (towers of powers, factorials, deep nesting, garbage), with their verdicts. The
  worst case is 100 time limits divided by the number of workers.
"""

from __future__ import annotations

import argparse
import logging
import random
import time
from collections import Counter

from prmbench.verify import Verifier, verify
from prmbench.verify.decide import decide


def easy_pairs(n: int) -> list[tuple[str, str]]:
    """(gold, answer), two thirds of them equal in another spelling, all different."""
    draw = random.Random(0)
    pairs = []
    for i in range(n):
        a, b = draw.randint(2, 99_999), draw.randint(2, 99)
        spelling = [
            (f"{a}", f"{a:,}"),
            (rf"\frac{{{a}}}{{{b}}}", f"{a}/{b}"),
            (f"{a}.0", f"{a}"),
            (rf"\${a}", f"{a + 1}"),
            (f"{a}^\\circ", f"{a + i + 1}"),
            (f"{a / 8}", rf"\frac{{{a}}}{{8}}"),
        ]
        pairs.append(spelling[i % len(spelling)])
    return pairs


def hard_pairs(n: int) -> list[tuple[str, str]]:
    draw = random.Random(1)
    numbers = [(draw.randint(2, 99), draw.randint(2, 99)) for _ in range(n)]
    spelling = [
        ("{a}x+{b}", "{b}+{a}x"),
        ("({a},{b}]", "({a},{b})"),
        ("{a}-{b}i", "-{b}i+{a}"),
        (r"{a}\sqrt{{{b}}}", r"\sqrt{{{b}}}\cdot {a}"),
    ]
    return [
        tuple(s.format(a=a, b=b) for s in spelling[i % len(spelling)])  # type: ignore[misc]
        for i, (a, b) in enumerate(numbers)
    ]


def hostile(n: int) -> list[str]:
    kinds = [
        "{k}^{{9^{{9^{{9^9}}}}}}",
        "((((({k}!)!)!)!)!)",
        "{k}00000000!",
        r"\binom{{10^{{9}}}}{{{k}00000000}}",
        r"\sum_{{n=1}}^{{10^{{9}}}} \frac{{{k}}}{{n}}",
        "(x+y+z+w+{k})^{{200}}",
        "10^{{-10^{{1{k}}}}}",
        "(" * 900 + "{k}" + ")" * 900,
        r"\frac{{1}}{{" * 150 + "{k}" + "}}" * 150,
        "@#%^&*|~{k}" * 150,
    ]
    return [kinds[i % len(kinds)].format(k=i + 2) for i in range(n)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=2.0)
    options = parser.parse_args()

    pairs = easy_pairs(10_000)
    completions = [f"We find that $x$ is $\\boxed{{{answer}}}$." for _, answer in pairs]
    start = time.perf_counter()
    verdicts = verify(completions, [gold for gold, _ in pairs])
    took = time.perf_counter() - start
    print(f"10,000 easy answers: {took:.2f} s, {10_000 / took:,.0f} verdicts/s, {dict(Counter(map(str, verdicts)))}")

    from math_verify import parse
    from math_verify import verify as plain_verify

    logging.disable(logging.CRITICAL)
    few = pairs[:500]
    plain_verify(parse(r"\boxed{x+1}"), parse(r"\boxed{1+x}"))  # warm
    start = time.perf_counter()
    ours = [decide(gold, answer) for gold, answer in few]
    ours_took = time.perf_counter() - start
    start = time.perf_counter()
    theirs = [plain_verify(parse(rf"\boxed{{{g}}}"), parse(rf"\boxed{{{a}}}")) for g, a in few]
    theirs_took = time.perf_counter() - start
    same = sum(a is b for a, b in zip(ours, theirs, strict=True))
    print(f"500 easy pairs: rules {ours_took * 1e3:.1f} ms, plain math-verify {theirs_took * 1e3:.0f} ms, ", end="")
    print(f"ratio {theirs_took / ours_took:.0f}, same verdict on {same}")

    with Verifier(timeout=options.timeout, workers=options.workers) as verifier:
        start = time.perf_counter()
        verifier.verify([r"\boxed{x+y}"] * options.workers, [f"{i + 2}x+y" for i in range(options.workers)])
        print(f"start-up of {options.workers} workers: {time.perf_counter() - start:.2f} s")

        harder = hard_pairs(200)
        start = time.perf_counter()
        verdicts = verifier.verify([rf"\boxed{{{answer}}}" for _, answer in harder], [gold for gold, _ in harder])
        took = time.perf_counter() - start
        print(f"200 for math-verify: {took:.2f} s, {200 / took:.0f} verdicts/s, {dict(Counter(map(str, verdicts)))}")

        bad = hostile(100)
        start = time.perf_counter()
        verdicts = verifier.verify([rf"\boxed{{{answer}}}" for answer in bad], ["x^2+1"] * len(bad))
        took = time.perf_counter() - start
        bound = len(bad) * options.timeout / options.workers
        print(f"100 hostile: {took:.1f} s (limits alone allow {bound:.0f} s), {dict(Counter(map(str, verdicts)))}")


if __name__ == "__main__":
    main()
