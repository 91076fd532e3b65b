from __future__ import annotations

import re

import pytest

from prmbench import progress as module
from prmbench.progress import progress


def test_the_first_batch_is_said_and_the_last(capsys, monkeypatch):
    """Not the ones between, within ten seconds; after that one more."""
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    with progress("scoring", 50, "tokens") as advance:
        for seconds in (1, 1, 9, 1, 1):
            clock[0] += seconds
            advance(10)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" of ")[0] for line in lines] == ["scoring: 10", "scoring: 30", "scoring: 50"]
    assert lines[0] == "scoring: 10 of 50 tokens (20%), 10 tokens/s, 0:04 left"


def test_figures_stand_behind_the_time_left(capsys):
    """Until newer ones come; on a line, and below a bar."""
    with progress("training", 2, "steps") as advance:
        advance(1, "loss 0.5 [a]")
        advance(1)
    first, last = capsys.readouterr().err.splitlines()
    assert first.endswith(" left; loss 0.5 [a]")
    assert last.endswith(" left; loss 0.5 [a]")
    with module._bar("training", 2, "steps", 0) as advance:
        advance(1, "loss 0.5 [a]")
    assert "loss 0.5 [a]" in capsys.readouterr().err


def test_many_figures_leave_room_for_the_time_left(capsys, monkeypatch):
    """A terminal of 80 columns shows the bar, the rate and the time left whole, whatever stands below them."""
    for name, value in {"TERM": "xterm", "COLUMNS": "80", "FORCE_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    with module._bar("training", 4, "steps", 0) as advance:
        for _ in range(4):
            advance(1, "accuracy 57.8%, reward model 75.0%, gradient 0.301, " * 3)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)
    assert re.search(r"training .*100% .* steps/s \d+:\d\d:\d\d", shown)
    assert shown.rstrip().endswith("gradient 0.301,")


@pytest.mark.parametrize("rank", ["0", "1"])
def test_one_process_says_what_is_loaded(rank, capsys, monkeypatch, tmp_path):
    monkeypatch.delitem(module.sys.modules, "torch", raising=False)
    monkeypatch.setenv("RANK", rank)
    module.announce_loading(tmp_path, None, "owner/name")
    said = capsys.readouterr().err.splitlines()
    assert said == ([f"loading {tmp_path} ...", "loading owner/name ..."] if rank == "0" else [])
    module.announce_loading(tmp_path / "nowhere")  # its mistake is named next
    assert capsys.readouterr().err == ""
