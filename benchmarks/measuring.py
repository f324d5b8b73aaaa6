"""What the benchmarks share: timing, medians and tables."""

from __future__ import annotations

import gc
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

Times = dict[str, list[float]]


def microseconds(action: Callable[[], Any], count: int) -> float:
    """Return how long `action` takes for each of the `count` things that it does, in µs."""
    gc.collect()  # what one leaves behind is not cleared away at the cost of the next
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) / count * 1e6


def milliseconds(action: Callable[..., Any], *arguments: Any) -> float:
    """Return how long `action` takes, in ms."""
    return microseconds(lambda: action(*arguments), 1000)


def save_bare(folder: str, name: str, obj: Any) -> None:
    """Save as the floor does: pickle, write to a temporary, rename."""
    temporary = f"{folder}/.{name}.tmp"
    data = pickle.dumps(obj)
    with open(temporary, "wb") as file:
        file.write(data)
    os.replace(temporary, f"{folder}/{name}")


def read_bare(folder: str, name: str) -> Any:
    """Read what `save_bare` wrote."""
    with open(f"{folder}/{name}", "rb") as file:
        return pickle.loads(file.read())


def clear(folder: Path) -> None:
    """Give the room of large files back: the next ones are written to memory that was used before."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()


def show(title: str, times: Times, floor: str, unit: str = "µs a node") -> None:
    """Print medians, and the median of the ratios to the floor round by round."""
    width = max(map(len, times))
    print(f"{title} ({unit})")
    for name, values in times.items():
        ratios = [value / bare for value, bare in zip(values, times[floor], strict=True)]
        print(f"  {name:{width}}  {median(values):9.2f}   {median(ratios):6.2f} x   (best {min(values):.2f})")
    print()
