"""Count the code, and what a save, a read and a question pass through: ``python benchmarks/counts.py [checkout]``.

Of a call it counts the functions of `functionfuse` and `catalog` that run in this process once all is loaded: how deep
they are nested, how many modules they are in, how many calls there are.
"""

from __future__ import annotations

import ast
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

PACKAGES = ("functionfuse", "catalog")


class Passed(NamedTuple):
    """What a call passed through.

    Attributes
    ----------
    depth : int
        The most functions that were within each other.
    modules : int
        Modules whose functions ran.
    calls : int
        Calls of functions.
    """

    depth: int
    modules: int
    calls: int


def passed(call: Callable[[], object], checkout: Path) -> Passed:
    """Return what a call passes through, of the packages in `checkout`."""
    ours = tuple(f"{checkout / package}/" for package in PACKAGES)
    modules: set[str] = set()
    depth = deepest = calls = 0

    def watch(frame: FrameType, event: str, _: Any) -> None:
        nonlocal depth, deepest, calls
        if event not in ("call", "return") or not frame.f_code.co_filename.startswith(ours):
            return
        if event == "return":
            depth -= 1
            return
        depth += 1
        calls += 1
        deepest = max(deepest, depth)
        modules.add(frame.f_code.co_filename)

    sys.setprofile(watch)
    try:
        call()
    finally:
        sys.setprofile(None)
    return Passed(deepest, len(modules), calls)


def roads(checkout: Path) -> dict[str, Passed]:
    """Return what a save, a read and a question pass through."""
    sys.path.insert(0, str(checkout))
    from functionfuse.storage.filestorage import FileStorage

    with tempfile.TemporaryDirectory() as folder:
        storage = FileStorage(folder)
        calls: dict[str, Callable[[], object]] = {
            "a save": lambda: storage.save("w", "t", 1.5),
            "a read": lambda: storage.read_task("w", "t"),
            "a question": lambda: storage.list_tasks("w"),
        }
        for _ in range(3):
            for call in calls.values():
                call()
        return {name: passed(call, checkout) for name, call in calls.items()}


def main() -> None:
    """Print the counts of a checkout, this one by default."""
    checkout = Path(sys.argv[1] if len(sys.argv) > 1 else __file__.rpartition("benchmarks")[0]).resolve()
    print(f"{'':14}{'modules':>8}{'median':>8}{'largest':>8}{'lines':>8}{'classes':>8}")
    for package in PACKAGES:
        sources = [path.read_text(encoding="utf-8") for path in (checkout / package).rglob("*.py")]
        lines = [source.count("\n") for source in sources]
        classes = sum(isinstance(node, ast.ClassDef) for source in sources for node in ast.walk(ast.parse(source)))
        median = round(statistics.median(lines))
        print(f"{package:14}{len(lines):8}{median:8}{max(lines):8}{sum(lines):8}{classes:8}")
    print(f"\n{'':14}{'depth':>8}{'modules':>8}{'calls':>8}")
    for name, counted in roads(checkout).items():
        print(f"{name:14}{counted.depth:8}{counted.modules:8}{counted.calls:8}")


if __name__ == "__main__":
    main()
