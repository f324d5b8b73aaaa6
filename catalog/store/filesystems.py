"""The file systems of fsspec that a process has: one for all storages that are reached alike."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

_made: list[tuple[Any, Any]] = []
_lock = threading.Lock()


def shared(protocol: str, options: Mapping[str, Any], make: Callable[[], Any]) -> Any:
    """Return the file system that was made for such options, in such an environment; else what `make` makes.

    A client of S3 takes tens of megabytes and a tenth of a second, so storages with other prefixes use the same one.
    fsspec's own cache has one for each thread.
    """
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    wanted = (protocol, dict(options), environment)
    with _lock:
        for known, system in _made:
            if known == wanted:
                return system
        system = make()
        _made.append((wanted, system))
        return system


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    _made.clear()  # their connections and the thread that serves them are the parent's


os.register_at_fork(after_in_child=_after_fork)
