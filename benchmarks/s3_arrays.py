"""An array of 256 MiB in a bucket: functionfuse, boto3's transfers in parallel parts, s3fs's pipe and cat.

Each step runs in a process of its own, whose peak memory beyond the array is told too.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Times, milliseconds, show

from functionfuse.storage import storage_factory

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from s3server import Endpoint

ELEMENTS = 1 << 25  # of 8 bytes
MIB = 1 << 20


class Memory(io.RawIOBase):
    """A file over an array that is not copied."""

    def __init__(self, data: np.ndarray) -> None:
        self._view, self._at = memoryview(data).cast("B"), 0

    def readable(self) -> bool:  # noqa: D102 (these four are as `io` says)
        return True

    def seekable(self) -> bool:  # noqa: D102
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:  # noqa: D102
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: len(self._view)}[whence]
        return self._at

    def readinto(self, target: Any) -> int:  # noqa: D102
        piece = self._view[self._at : self._at + len(target)]
        target[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


class Boto3:
    """boto3: ten threads, parts of 8 MiB."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._client = endpoint.client()

    def save(self, path: str, data: np.ndarray) -> None:
        """Upload parts from the array's memory."""
        bucket, prefix = path[1:].split("/")
        self._client.upload_fileobj(Memory(data), bucket, f"{prefix}/array")

    def read(self, path: str) -> np.ndarray:
        """Download ranges into memory."""
        bucket, prefix = path[1:].split("/")
        target = io.BytesIO()
        self._client.download_fileobj(bucket, f"{prefix}/array", target)
        return np.frombuffer(target.getbuffer())


class S3fs:
    """s3fs: parts of 50 MiB, several at a time."""

    def __init__(self, endpoint: Endpoint) -> None:
        import s3fs

        self._filesystem = s3fs.S3FileSystem(**endpoint.s3fs())

    def save(self, path: str, data: np.ndarray) -> None:
        """Pipe a copy of the bytes."""
        self._filesystem.pipe(f"{path[1:]}/array", data.tobytes())

    def read(self, path: str) -> np.ndarray:
        """Get all bytes."""
        return np.frombuffer(self._filesystem.cat(f"{path[1:]}/array"))


class Functionfuse:
    """functionfuse, with the options that it has by default."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def save(self, path: str, data: np.ndarray) -> None:
        """Save by hand: it is durable at the end."""
        storage_factory(self._endpoint.config(path)).save("w", "array", data)

    def read(self, path: str) -> np.ndarray:
        """Read the result."""
        array: np.ndarray = storage_factory(self._endpoint.config(path)).read_task("w", "array")
        return array


SYSTEMS: dict[str, Any] = {"boto3": Boto3, "s3fs": S3fs, "functionfuse": Functionfuse}


def peak() -> int:
    """Return the most memory that this process ever had, in MiB.

    `getrusage` would count what its parent had before it.
    """
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) // 1024


def step(system: str, what: str, path: str, url: str, key: str, secret: str) -> dict[str, float]:
    """Save or read the array, and return the ms that it took, the MiB beyond the array itself, and the sum."""
    endpoint = Endpoint(url, key, secret)
    opened = SYSTEMS[system](endpoint)
    elsewhere = endpoint.prefix()
    opened.save(elsewhere, np.zeros(100))  # imports, connections
    opened.read(elsewhere)
    if what == "save":
        data = np.random.default_rng(0).random(ELEMENTS)
        before = peak()
        return {"ms": milliseconds(opened.save, path, data), "MiB": peak() - before, "sum": float(data.sum())}
    before = peak() + ELEMENTS * 8 // MIB
    found: list[np.ndarray] = []
    took = milliseconds(lambda: found.append(opened.read(path)))
    return {"ms": took, "MiB": peak() - before, "sum": float(found[0].sum())}


def child(endpoint: Endpoint, system: str, what: str, path: str) -> dict[str, float]:
    """Run a step in a new process."""
    command = [sys.executable, __file__, system, what, path, *map(str, vars(endpoint).values())]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(answer.stdout)
    return found


def run(endpoint: Endpoint, place: str, rounds: int) -> None:
    """Measure and print, here and not in children."""
    times: dict[str, Times] = {"save": defaultdict(list), "read": defaultdict(list)}
    memory: Times = defaultdict(list)
    for _ in range(rounds):
        for system in SYSTEMS:
            path = endpoint.prefix()
            found = {what: child(endpoint, system, what, path) for what in ("save", "read")}
            assert found["save"]["sum"] == found["read"]["sum"], "this is another array"
            for what, figures in found.items():
                times[what][system].append(figures["ms"])
                memory[f"{system}: {what}"].append(figures["MiB"])
    for what, rows in times.items():
        rows["the faster peer"] = [min(pair) for pair in zip(rows["boto3"], rows["s3fs"], strict=True)]
        show(f"An array of {ELEMENTS * 8 // MIB} MiB, {what}, {place}", rows, "the faster peer", "ms")
    for name, values in memory.items():
        print(f"  {name:20} {max(values):6.0f} MiB at most beyond the array")
    print()


if __name__ == "__main__":
    print(json.dumps(step(*sys.argv[1:])))
