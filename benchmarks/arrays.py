"""Large results: 1 GiB of random numbers in one array, and in a dict of arrays of 256 KiB; and numbers that compress.

The floor writes the same bytes to a temporary and renames it; it knows no checksum, no catalog, and does not read back.
Each step runs in a process of its own, whose peak memory beyond the data is told too. IBM Function Fuse has the same
import name as this package, so both cannot be installed at once: the row "as Function Fuse does" saves and reads its
format as its documentation has it, a pickle and the SHA-1 of it, in memory as a whole.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import pickle
import resource
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import diskcache
import joblib
import numpy as np
from measuring import Times, clear, show

from catalog.store.local_writer import LocalWriter
from functionfuse.storage import storage_factory

MIB = 1 << 20
ELEMENTS = 1 << 27
PARTS = 1_000
LIMIT = 500e6  # bytes a second
FUSE = "as Function Fuse does"

# Data


def one_array() -> Any:
    """Return 1 GiB of noise."""
    return np.random.default_rng(0).random(ELEMENTS)


def a_dict() -> Any:
    """Return noise in a dict of many arrays."""
    whole = np.random.default_rng(0).random((PARTS, 1 << 15))
    return {f"part {number}": part.copy() for number, part in enumerate(whole)}


def small_integers() -> Any:
    """Return 1 GiB of integers below 1,000."""
    return np.random.default_rng(0).integers(0, 1_000, ELEMENTS)


def sorted_times() -> Any:
    """Return 1 GiB of moments, up to a second apart, in milliseconds."""
    steps = np.random.default_rng(0).integers(0, 1_000, ELEMENTS)
    return np.datetime64("2026-01-01", "ms") + np.cumsum(steps, out=steps).astype("m8[ms]")


def arrays_of(obj: Any) -> list[np.ndarray]:
    """Return the arrays of an object."""
    return list(obj.values()) if isinstance(obj, dict) else [obj]


# Those that are compared: each a way to save and a way to read


def save_raw(folder: str, obj: Any) -> None:
    """Write the bytes and rename."""
    with open(f"{folder}/tmp", "wb", buffering=0) as file:
        for array in arrays_of(obj):
            write_all(file, memoryview(array).cast("B"))
        if "fsync" in folder:
            os.fsync(file.fileno())
    os.replace(f"{folder}/tmp", f"{folder}/raw")


def write_all(file: Any, data: memoryview) -> None:
    """Write all of it: one call writes 2 GiB at most."""
    while data:
        data = data[file.write(data) :]


def read_raw(folder: str) -> Any:
    """Read into memory that is there already, as the floor of reading does."""
    with open(f"{folder}/raw", "rb", buffering=0) as file:
        file.readinto(PREALLOCATED)
    return PREALLOCATED


def save_pickle(folder: str, obj: Any) -> None:
    """Stream a pickle of protocol 5."""
    with open(f"{folder}/tmp", "wb") as file:
        pickle.dump(obj, file, protocol=5)
    os.replace(f"{folder}/tmp", f"{folder}/pickle")


def read_pickle(folder: str) -> Any:
    """Read it."""
    with open(f"{folder}/pickle", "rb") as file:
        return pickle.load(file)


def save_as_function_fuse(folder: str, obj: Any) -> None:
    """Pickle, hash the pickle, join both, and write that."""
    data = pickle.dumps(obj)
    joined = data + hashlib.sha1(data).digest()
    with open(f"{folder}/fuse", "wb") as file:
        file.write(joined)


def read_as_function_fuse(folder: str) -> Any:
    """Read all, take it apart, hash the pickle, unpickle."""
    with open(f"{folder}/fuse", "rb") as file:
        joined = file.read()
    data, digest = joined[:-20], joined[-20:]
    if hashlib.sha1(data).digest() != digest:
        raise ValueError("damaged")
    return pickle.loads(data)


def save_npy(folder: str, obj: Any) -> None:
    """Save with NumPy; a dict as one file an array."""
    for number, array in enumerate(arrays_of(obj)):
        np.save(f"{folder}/{number}.npy", array)


def read_npy(folder: str, mode: Any = None) -> Any:
    """Read all files."""
    count = len(os.listdir(folder))
    found = [np.load(f"{folder}/{number}.npy", mmap_mode=mode) for number in range(count)]
    return found[0] if count == 1 else dict(enumerate(found))


def functionfuse(folder: str, **options: Any) -> Any:
    """Return a storage."""
    return storage_factory({"kind": "file", "options": {"path": folder, **options}})


def cache_of(folder: str) -> Any:
    """Return a diskcache."""
    return diskcache.Cache(folder, size_limit=1 << 40)


def read_cache(folder: str) -> Any:
    """Read from a diskcache."""
    return cache_of(folder)["t"]


def stored(**options: Any) -> tuple[Callable[[str, Any], Any], Callable[[str], Any]]:
    """Return how a storage with these options saves and reads."""
    return (
        lambda folder, obj: functionfuse(folder, **options).save("w", "t", obj),
        lambda folder: functionfuse(folder, **options).read_task("w", "t"),
    )


SYSTEMS: dict[str, tuple[Callable[[str, Any], Any], Callable[[str], Any]]] = {
    "raw write": (save_raw, read_raw),
    "functionfuse": stored(),
    "functionfuse, no compression": stored(compression=None),
    "functionfuse, never verified": stored(verify="never"),
    "functionfuse, mmap=False": stored(mmap=False),
    "raw write, fsync": (save_raw, read_raw),
    "functionfuse, fsync": stored(fsync=True),
    "np.save": (save_npy, read_npy),
    "np.save, mapped": (save_npy, lambda folder: read_npy(folder, "c")),
    "pickle 5, streamed": (save_pickle, read_pickle),
    "joblib": (lambda folder, obj: joblib.dump(obj, f"{folder}/j"), lambda folder: joblib.load(f"{folder}/j")),
    "joblib, mapped": (
        lambda folder, obj: joblib.dump(obj, f"{folder}/j"),
        lambda folder: joblib.load(f"{folder}/j", mmap_mode="c"),
    ),
    FUSE: (save_as_function_fuse, read_as_function_fuse),
    "diskcache": (lambda folder, obj: cache_of(folder).set("t", obj), read_cache),
}
DATA = {"array": one_array, "dict": a_dict, "integers": small_integers, "times": sorted_times}

# One step, in a process of its own


def slow_disk() -> None:
    """Let whatever the storage and the floor write take as long as on a disk of 500 MB/s."""
    began, written = time.perf_counter(), 0

    def delay(count: int) -> None:
        nonlocal written
        written += count
        time.sleep(max(0.0, began + written / LIMIT - time.perf_counter()))

    write = LocalWriter.write

    def slowly(self: LocalWriter, pieces: Any) -> None:
        write(self, pieces)
        delay(sum(map(len, pieces)))

    def write_slowly(file: Any, data: memoryview) -> None:
        for begin in range(0, len(data), 4 * MIB):
            delay(file.write(data[begin : begin + 4 * MIB]))

    LocalWriter.write = slowly  # type: ignore[method-assign]
    globals()["write_all"] = write_slowly


def touch(folder: str, obj: Any) -> None:
    """Write as much and delete it: what a virtual machine touches for the first time takes several times as long."""
    save_raw(folder, obj)
    os.unlink(f"{folder}/raw")


def peak() -> int:
    """Return the most memory that this process ever had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def step(system: str, data: str, folder: str, what: str) -> dict[str, float]:
    """Save or read, and return how long it took and what it took beyond the data, in seconds and MiB."""
    save, read = SYSTEMS[system]
    if what == "read":
        before = peak()
        began = time.perf_counter()
        found = read(folder)
        opened = time.perf_counter() - began
        total = sum(
            float(array.view("i8").sum() if array.dtype.kind == "M" else array.sum()) for array in arrays_of(found)
        )
        return {"open": opened, "open and sum": time.perf_counter() - began, "MiB": peak() - before, "sum": total}
    obj = DATA[data]()
    touch(folder, obj)
    before = peak()
    if what == "save slowly":
        slow_disk()
    began = time.perf_counter()
    save(folder, obj)
    return {"save": time.perf_counter() - began, "MiB": peak() - before}


def child(system: str, data: str, folder: Path, what: str) -> dict[str, float]:
    """Run a step in a new process."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, system, data, str(folder), what]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(run.stdout)
    return found


def run(folder: Path, rounds: int) -> None:
    """Measure and print."""
    for data in ("array", "dict"):
        times: dict[str, Times] = {name: defaultdict(list) for name in ("save", "open", "open and sum")}
        memory: Times = defaultdict(list)
        for number in range(rounds):
            for system in rotated(list(SYSTEMS), number):
                place = folder / f"{data}-{number}" / system
                for what in ("save", "read"):
                    if what == "read" and system == "raw write, fsync":
                        continue
                    found = child(system, data, place, what)
                    memory[f"{system}: {what}"].append(found["MiB"])
                    for name in times.keys() & found.keys():
                        times[name][system].append(1000 * found[name])
                clear(place)
        show(f"Saving, {data}", times["save"], "raw write", "ms")
        show(f"Opening, {data}", times["open"], "functionfuse, never verified", "ms")
        show(f"Opening and summing, {data}", times["open and sum"], "raw write", "ms")
        for name, values in times.items():
            ratio = median(slow / ours for slow, ours in zip(values[FUSE], values["functionfuse"], strict=True))
            print(f"  {name}, {data}: functionfuse takes 1/{ratio:.1f} of the time of {FUSE!r} (at least 10 is wanted)")
        for name, values in memory.items():
            print(f"  {name:40} {max(values):6.0f} MiB at most beyond the data")
        print()
    for data in ("array", "integers", "times"):
        compressed(folder, data, rounds)


def rotated(systems: list[str], number: int) -> list[str]:
    """Return the systems with another one first in each round."""
    return systems[number % len(systems) :] + systems[: number % len(systems)]


def compressed(folder: Path, data: str, rounds: int) -> None:
    """Compare compression with none, on this disk and on one of 500 MB/s."""
    for what in ("save", "save slowly"):
        times: Times = defaultdict(list)
        for number in range(rounds):
            for system in rotated(["functionfuse, no compression", "functionfuse"], number):
                place = folder / f"{data}-{number}-{what}" / system
                times[system].append(1000 * child(system, data, place, what)["save"])
                size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
                clear(place)
        print(f"stored: {size / MIB:.0f} MiB")
        show(f"{what}, {data}", times, "functionfuse, no compression", "ms")


if __name__ == "__main__":
    if sys.argv[4] == "read" and sys.argv[1].startswith("raw"):
        PREALLOCATED = np.frombuffer(mmap.mmap(-1, 8 * (ELEMENTS if sys.argv[2] == "array" else PARTS << 15)))
        PREALLOCATED[:] = 1
    print(json.dumps(step(*sys.argv[1:])))
