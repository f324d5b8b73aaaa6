"""What a driver shows and survives: the bar and what workers print, and a worker killed for want of memory.

Each driver is a process of its own, with a Ray of its own.
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from raying import MARKS, settings

pytestmark = MARKS

SHOWN = """
import sys, time
import ray
from functionfuse import workflow
from functionfuse.backends.builtin.rayback import RayWorkflow
from functionfuse.storage.filestorage import FileStorage

@workflow
def nap(number):
    print(f"printed by {number}")
    time.sleep(0.6)
    return number

ray.init(num_cpus=1, include_dashboard=False, object_store_memory=100 << 20)
naps = [nap(number).set_name(f"n{number}") for number in range(5)]
graph = RayWorkflow(*naps, workflow_name="flow")
graph.set_storage(FileStorage(sys.argv[1]))
print(graph.run(return_results=True))
"""


def test_a_terminal_shows_progress_and_what_workers_print(tmp_path: Path) -> None:
    """A long run has its bar, to the end, and what nodes print on workers is seen at the driver."""
    ours, theirs = pty.openpty()
    with settings():
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
        process = subprocess.Popen(
            [sys.executable, "-c", SHOWN, str(tmp_path / "store")], env=environment, stdout=theirs, stderr=theirs
        )
    os.close(theirs)
    pieces = []
    with contextlib.suppress(OSError):  # a terminal whose last writer is gone is an error, not an end
        while piece := os.read(ours, 65536):
            pieces.append(piece)
    os.close(ours)
    assert process.wait(timeout=240) == 0
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(pieces).decode())
    assert "[0, 1, 2, 3, 4]" in shown
    assert re.search(r"flow .*\b5/5\b", shown)
    for number in range(5):
        assert f"printed by {number}" in shown


GREEDY = """
import mmap, os, sys, time
from pathlib import Path
import ray
from functionfuse import workflow
from functionfuse.backends.builtin.rayback import RayWorkflow
from functionfuse.storage.filestorage import FileStorage

GIB = 1 << 30

def meminfo():
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return {name.rstrip(":"): int(value) << 10 for name, value, *_ in lines}

@workflow
def take(attempts):
    with open(attempts, "a") as file:
        file.write("attempt ")
    if len(Path(attempts).read_text().split()) == 1:
        memory = mmap.mmap(-1, 4 * GIB)
        for begin in range(0, len(memory), mmap.PAGESIZE):
            memory[begin] = 1
        time.sleep(60)
    return "modest"

known = meminfo()
threshold = (known["MemTotal"] - known["MemAvailable"] + 2 * GIB) / known["MemTotal"]
system = {"memory_usage_threshold": threshold, "memory_monitor_refresh_ms": 100}
ray.init(num_cpus=1, include_dashboard=False, object_store_memory=100 << 20, _system_config=system)
attempts = os.path.join(sys.argv[1], "attempts")
graph = RayWorkflow(take(attempts).set_name("greedy"), workflow_name="flow")
storage = FileStorage(os.path.join(sys.argv[1], "store"))
graph.set_storage(storage)
print(graph.run(return_results=True), Path(attempts).read_text().split())
print(storage.catalog.sql("SELECT count(*) FROM events WHERE event = 'save'").fetchall())
"""


def available() -> int:
    """Return how much memory is free, in bytes."""
    found = re.search(r"MemAvailable:\s*(\d+)", Path("/proc/meminfo").read_text())
    return int(found[1]) << 10 if found else 0


@pytest.mark.skipif(available() < 8 << 30, reason="wants 8 GiB of free memory")
def test_a_worker_killed_for_want_of_memory_is_begun_again(tmp_path: Path) -> None:
    """Ray ends the worker that takes too much and begins its node anew; the result is saved once."""
    with settings():
        command = [sys.executable, "-c", GREEDY, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["modest ['attempt', 'attempt']", "[(1,)]"]
