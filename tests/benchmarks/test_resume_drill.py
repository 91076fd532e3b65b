"""The resume drill: real processes, killed at random moments, refused, starved of disk; the end is always the same."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import support

KILLS = 20
DRIVER = Path(__file__).resolve().parent.parent / "resume_driver.py"


class Drill:
    """Runs one command in output folders of its own, through the driver."""

    def __init__(self, root: Path, arguments: list[str]) -> None:
        self.root, self.arguments = root, arguments
        self.log = root / "log"
        env = {**os.environ, "XDG_CACHE_HOME": str(root / "cache"), "PRMBENCH_CACHE_GIB": "1"}
        self.driver = subprocess.Popen(
            [sys.executable, DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )

    def run(self, name: str, *more: str, **order: object) -> dict[str, object]:
        output = self.root / name
        arguments = [*self.arguments, "--output", str(output), *more]
        self.driver.stdin.write(
            json.dumps({"arguments": arguments, "log": str(self.log), "items": str(output / "items.jsonl"), **order})
        )
        self.driver.stdin.write("\n")
        self.driver.stdin.flush()
        return json.loads(self.driver.stdout.readline())

    def whole(self, name: str) -> dict[str, object]:
        """Run to the end."""
        done = self.run(name)
        assert done["code"] == 0, self.log.read_text()
        return done

    def entry(self, name: str) -> dict[str, object]:
        """The entry without how it came about."""
        entry = json.loads((self.root / name / "entry.json").read_text())
        entry["provenance"].pop("run")
        return entry

    def items(self, name: str) -> bytes:
        path = self.root / name / "items.jsonl"
        return path.read_bytes() if path.exists() else b""


def keys(content: bytes) -> list[str]:
    """Ids of the items on whole lines, each of which is sound."""
    return [json.loads(line)["id"] for line in content.split(b"\n")[:-1]]


@pytest.fixture(scope="module")
def drill(tiny, tiny_tuned, tmp_path_factory):
    """The drill, with an uninterrupted run in ``whole``."""
    root = tmp_path_factory.mktemp("drill")
    data = support.write_traces(root / "made.jsonl", 300)
    command = ["eval", "--rm", str(tiny_tuned), "--reference", str(tiny), "--data", str(data)]
    made = Drill(root, [*command, "--batch-tokens", "150", "--resamples", "20"])
    assert made.run("whole", "--no-reference-cache", learn=True)["code"] == 0, made.log.read_text()
    yield made
    made.driver.stdin.close()
    made.driver.wait(timeout=30)


@pytest.mark.slow
def test_killed_twenty_times(drill):
    rng = random.Random(0)
    whole, entry = drill.items("whole"), drill.entry("whole")
    assert len(keys(whole)) == 300
    drill.whole("timed-0")  # fills the cache
    length = drill.whole("timed-1")["seconds"]
    counts: Counter[str] = Counter()
    cuts = finished = 0
    name = "killed-0"
    while counts.total() < KILLS:
        before = drill.items(name)
        # Such runs add up to several whole ones: kills come at the start, in the middle and at the end.
        done = drill.run(name, kill_after=rng.uniform(0, 0.6 * length))
        content = drill.items(name)
        found = keys(content)
        assert len(found) == len(set(found))
        assert set(found) >= set(keys(before))  # nothing written is lost
        if done["code"] == 0:
            assert (drill.items(name), drill.entry(name)) == (whole, entry)
            finished += 1
            name = f"killed-{finished}"
            continue
        assert done["code"] == -signal.SIGKILL
        where = "no item" if not found else "some items" if len(found) < 300 else "all items"
        counts[where] += 1
        if (drill.root / name / "entry.json").exists():
            assert drill.entry(name) == entry
        if found and rng.random() < 0.3:  # and the last line is cut, as a power cut may leave it
            cuts += 1
            last = len(content.rstrip(b"\n").split(b"\n")[-1])
            (drill.root / name / "items.jsonl").write_bytes(content.rstrip(b"\n")[: -rng.randint(1, last - 1)])
    drill.whole(name)
    assert (drill.items(name), drill.entry(name)) == (whole, entry)
    assert counts["some items"] > 0
    print(
        f"\n{KILLS} kills: {', '.join(f'{n} with {where} on disk' for where, n in sorted(counts.items()))}; {cuts} last lines cut; "
        f"{finished + 1} runs brought to their end, entries and items all equal"
    )


@pytest.mark.slow
def test_a_second_run_is_refused_and_a_dead_one_does_not_block(drill):
    first = drill.run("held", stop_at=50)
    try:
        second = drill.run("held")
        assert second["code"] == 2
        said = drill.log.read_text()
        assert f"process {first['pid']} on {socket.gethostname()} is writing here" in said
        assert len(said.strip().split("\n")) == 1
    finally:
        os.kill(first["pid"], signal.SIGKILL)
    assert 50 <= len(keys(drill.items("held"))) < 300
    drill.whole("held")  # the dead one's lock and holder are still there
    assert (drill.items("held"), drill.entry("held")) == (drill.items("whole"), drill.entry("whole"))


@pytest.mark.slow
def test_a_full_disk_loses_nothing(drill):
    """Writes fail for real, at the first batch, in the middle and at the last."""
    whole = drill.items("whole")
    before: list[str] = []
    for room in (2_000, 20_000, len(whole) // 2, len(whole) - 10):
        done = drill.run("full", "--no-reference-cache", largest_file=room)
        assert done["code"] == 2
        said = drill.log.read_text().strip().split("\n")[-1]
        assert "cannot be written (File too large); what was scored before is kept: make room" in said
        found = keys(drill.items("full"))
        assert len(found) == len(set(found))
        assert set(found) >= set(before)
        assert len(drill.items("full")) == room  # it did run into the wall
        before = found
    drill.whole("full")
    assert (drill.items("full"), drill.entry("full")) == (whole, drill.entry("whole"))


@pytest.mark.slow
def test_a_full_disk_under_the_cache_alone_stops_nothing(drill):
    """The items fit, the cache does not."""
    room = len(drill.items("whole")) + 60_000
    done = drill.run("starved", largest_file=room, env={"XDG_CACHE_HOME": str(drill.root / "other-cache")})
    said = drill.log.read_text()
    assert done["code"] == 0, said
    assert said.count("warning: the reference cache") == 1
    assert (drill.items("starved"), drill.entry("starved")) == (drill.items("whole"), drill.entry("whole"))
