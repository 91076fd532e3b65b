"""No tensor is made on the wrong device: scoring, sampling and training steps on a stand-in for a GPU give what the CPU gives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_scoring_sampling_and_training_steps_on_another_device():
    driver = Path(__file__).parent / "device_driver.py"
    done = subprocess.run([sys.executable, str(driver)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found.pop("missed") == []  # it finds mistakes that are put in
    assert {"scoring", "sampling", "rm ipvrm", "rm q_rm", "prm head", "rl grpo", "rl distrl", "rl spro"} <= found.keys()
    for name, (here, there) in found.items():
        assert not isinstance(there, str), f"{name}: {there}"
        assert there == pytest.approx(here, rel=1e-4, abs=1e-5), name
        assert len(here) > 15, name
