"""What CI runs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_ci_stops_with_a_sentence_where_the_data_are_missing(tmp_path):
    env = {**os.environ, "PRMBENCH_DATA_DIR": str(tmp_path / "nowhere")}
    done = subprocess.run([ROOT / ".ci" / "run"], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert not done.stdout
    assert done.stderr == (
        f".ci/run: the data folder '{tmp_path / 'nowhere'}' is missing or holds no processbench/; "
        "name the folder in PRMBENCH_DATA_DIR\n"
    )
