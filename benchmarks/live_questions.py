"""Questions about 1,000,000 results while four processes save into the same storage as fast as they can."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from statistics import median

import million
from measuring import milliseconds

from catalog import Catalog
from functionfuse.storage import storage_factory

PROCESSES = 4
WINDOW = 10.0  # seconds with questions, then as long without
EVERY = 0.5  # seconds between questions
_ROUNDS = 3  # windows of each kind: in each of them tens of thousands of files are made

_CATCHING_UP = 3  # questions that find what was saved in silence, and then what was saved during the one before


def run(folder: Path, rounds: int) -> None:
    """Measure and print."""
    root = folder / "storage"
    million.write_journal(root)
    million.write_files(root)
    million.age(root, -86_400.0)  # segments of tomorrow: no question compacts them meanwhile
    Catalog.open(root).refresh()
    latencies: list[float] = []
    shares: list[float] = []
    with _Writers(str(root)) as writers:
        catalog = Catalog.open(root)
        for _ in range(min(rounds, _ROUNDS)):
            silent = writers.rate(lambda: time.sleep(WINDOW))
            for _ in range(_CATCHING_UP):
                catalog.refresh()
            asked = writers.rate(lambda: _ask(catalog, latencies))
            shares.append(asked / silent)
            print(f"  {silent:,.0f} results a second, {asked:,.0f} while questions are asked", flush=True)
    print(f"Two questions a second while {PROCESSES} processes save")
    print(f"  {median(latencies):.1f} ms a question (median of {len(latencies)}, longest {max(latencies):.1f})")
    print(f"  saving at {median(shares):.2f} of its rate without questions\n")


def _ask(catalog: Catalog, latencies: list[float]) -> None:
    end = time.monotonic() + WINDOW
    while (began := time.monotonic()) < end:
        latencies.append(milliseconds(lambda: catalog.names("workflow_3", "task_00*")))
        time.sleep(max(0.0, EVERY - (time.monotonic() - began)))


class _Writers:
    """Processes that save small results until the block ends, each into a workflow of its own."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._memory = mmap.mmap(-1, PROCESSES * 8)
        self._saved = (ctypes.c_uint64 * PROCESSES).from_buffer(self._memory)  # shared with the children
        self._children: list[int] = []

    def __enter__(self) -> _Writers:
        for writer in range(PROCESSES):
            child = os.fork()
            if not child:
                self._save(writer)
            self._children.append(child)
        while not all(self._saved):
            time.sleep(0.01)
        return self

    def __exit__(self, *error: object) -> None:
        for child in self._children:
            os.kill(child, signal.SIGKILL)
        ends = [os.waitpid(child, 0)[1] for child in self._children]
        assert ends == [signal.SIGKILL] * PROCESSES, "a writer failed"

    def _save(self, writer: int) -> None:
        try:
            storage = storage_factory({"kind": "file", "options": {"path": self._root}})
            for index in count():
                storage.save(f"live_{writer}", f"task_{index:06d}", index)
                self._saved[writer] = index + 1
        finally:  # what the parent has on its stack is not the child's to end
            os._exit(1)

    def rate(self, action: Callable[[], None]) -> float:
        """Return how many results a second all of them save during `action`."""
        before = sum(self._saved)
        began = time.perf_counter()
        action()
        return (sum(self._saved) - before) / (time.perf_counter() - began)
