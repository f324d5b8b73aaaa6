"""What the tests on Ray share: one Ray for a file, nodes that leave traces, and Ray's own noise kept out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ray = pytest.importorskip("ray")

ROOT = Path(__file__).resolve().parents[2]

#: The first: a cluster of several nodes on one machine hangs without it. The last: a busy machine takes its time.
SETTINGS = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "120",
}

MARKS = [pytest.mark.slow]


@contextmanager
def one_node(**options: Any) -> Iterator[dict[str, Any]]:
    """Run Ray with one node of two cores and a disk, and end it."""
    with settings():
        given = {"num_cpus": 2, "resources": {"_disk": 1}, "include_dashboard": False, "object_store_memory": 300 << 20}
        context = ray.init(**{**given, **options})
        try:
            yield context.address_info
        finally:
            ray.shutdown()


@contextmanager
def settings() -> Iterator[None]:
    """Set Ray's variables, for this process and its children."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        found = (ROOT / "tests" / "support", ROOT / "tests" / "backends", ROOT, ROOT / "examples")  # by the workers
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, found)))
        yield


def trace(folder: Path, label: str) -> None:
    """Leave a trace of a call, from whatever process."""
    with open(folder / "calls", "a", encoding="utf-8") as file:
        file.write(f"{label} {os.getpid()}\n")


def traces(folder: Path) -> list[str]:
    """Return what was called since this was last asked, in order."""
    path = folder / "calls"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return [line.rpartition(" ")[0] for line in lines]
