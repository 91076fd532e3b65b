"""Train the miniature's default policy and put it into the package: prmbench/miniature/policy.

    python scripts/ship_policy.py

Run it after a change of the world, of its recipe or of the tokenizer; tests/miniature/test_targets.py measures what ships.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict

from prmbench.miniature.build import SHIPPED, Build, train_policy
from prmbench.quiet import quiet_libraries
from prmbench.results.provenance import versions

LEFT = ("sft.json", "trainer")
"""What a training leaves in its folder and nobody needs: paths of this machine, and states."""

if __name__ == "__main__":
    quiet_libraries()
    trained = train_policy(Build(from_scratch=True), print)
    shutil.rmtree(SHIPPED, ignore_errors=True)
    shutil.copytree(trained, SHIPPED, ignore=shutil.ignore_patterns(*LEFT, "*.lock", ".*"))
    origin = {"build": asdict(Build()), "versions": versions()}
    (SHIPPED / "origin.json").write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")
    print(SHIPPED)
