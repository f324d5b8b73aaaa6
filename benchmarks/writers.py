"""Four processes that save small results into one storage, against four that write bare files into one folder."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from measuring import Times, save_bare, show

from functionfuse.storage import storage_factory

PROCESSES = 4
EACH = 2_000


def bare(folder: str, writer: int) -> None:
    """Save as the floor does."""
    for index in range(EACH):
        save_bare(folder, f"task_{writer}_{index}", index)


def stored(folder: str, writer: int) -> None:
    """Save into a storage."""
    storage = storage_factory({"kind": "file", "options": {"path": folder}})
    for index in range(EACH):
        storage.save("numbers", f"task_{writer}_{index}", index)


def at_once(save: Callable[[str, int], None], folder: str) -> float:
    """Let the processes save, and return the µs a result that all of them together take."""
    children = []
    ready, go = os.pipe()
    for writer in range(PROCESSES):
        child = os.fork()
        if not child:
            os.close(go)
            os.read(ready, 1)  # the end of the pipe is the start
            save(folder, writer)
            os._exit(0)
        children.append(child)
    os.close(ready)
    began = time.perf_counter()
    os.close(go)
    codes = [os.waitpid(child, 0)[1] for child in children]
    assert codes == [0] * PROCESSES, "a writer failed"
    return (time.perf_counter() - began) / (PROCESSES * EACH) * 1e6


def run(folder: Path, rounds: int) -> None:
    """Measure, check that every result is there, and print."""
    times: Times = defaultdict(list)
    for number in range(rounds):
        bare_folder = folder / f"bare-{number}"
        bare_folder.mkdir(parents=True)
        times["floor"].append(at_once(bare, str(bare_folder)))
        storage_folder = str(folder / f"storage-{number}")
        times["functionfuse"].append(at_once(stored, storage_folder))
        check(storage_folder)
    show(f"{PROCESSES} processes, {EACH:,} small results each", times, "floor", "µs a result, all together")


def check(folder: str) -> None:
    """Read every result and list it."""
    storage = storage_factory({"kind": "file", "options": {"path": folder}})
    names = {f"task_{writer}_{index}": index for writer in range(PROCESSES) for index in range(EACH)}
    assert storage.list_tasks("numbers") == sorted(names)
    assert all(storage.read_task("numbers", name) == value for name, value in names.items())
