"""What digests of side files cost: a large one that is read again, many small ones; and SQL that checks its files."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from measuring import Times, milliseconds, show

from catalog.format.record import SideFile
from catalog.store import verified as intact
from functionfuse.storage import _side_files
from functionfuse.storage.filestorage import FileStorage

SIZE = 128 << 20  # bytes
MANY = 2_000
QUESTION = "SELECT sum(a) FROM result('w', 'table')"


class Bytes:
    """What a serializer of others takes over."""

    def __init__(self, pieces: int) -> None:
        self.pieces = pieces


class BytesSerializer:
    """Writes its object by the file protocol: a storage has to read it again to know its digest."""

    name = "bytes"
    serializer_class = Bytes
    data = os.urandom(SIZE)

    @classmethod
    def pickle(cls, obj: Bytes, protocols: Mapping[str, Any]) -> tuple[str, int]:
        """Write files of one size each."""
        size = SIZE // obj.pieces if obj.pieces == 1 else 1_000
        for number in range(obj.pieces):
            with protocols["file_protocol"].open(f"{number}", "wb") as file:
                file.write(memoryview(cls.data)[:size])
        return cls.name, obj.pieces

    @classmethod
    def unpickle(cls, pid: int, protocols: Mapping[str, Any]) -> Bytes:
        """Return the object."""
        return Bytes(pid)

    @classmethod
    def remove(cls, pid: int, protocols: Mapping[str, Any]) -> None:
        """Leave that to the storage."""


def without(folder: str, files: list[tuple[str, int]], digests: object) -> list[SideFile]:
    """Declare side files as formats 1 and 2 did."""
    return [SideFile(name, size) for name, size in files]


def run(folder: Path, rounds: int) -> None:
    """Print what saves take with digests and without, and what a question takes."""
    saves: dict[str, Times] = {"one file of 128 MiB": defaultdict(list), "2,000 files of 1 kB": defaultdict(list)}
    asked: Times = defaultdict(list)
    storage = FileStorage(folder / "storage")
    storage.register_persistent_serializers(BytesSerializer)
    storage.register_default_serializers()
    storage.save("w", "table", pd.DataFrame({"a": np.random.default_rng(0).random(SIZE // 8)}))
    unchecked = FileStorage(folder / "storage", verify="never")
    remembering = intact.SETTLED
    hashed: Callable[..., list[SideFile]] = _side_files.hashed
    for _ in range(rounds):
        for title, obj in zip(saves, (Bytes(1), Bytes(MANY)), strict=True):
            for name, function in (("sizes alone", without), ("sizes and digests", hashed)):
                _side_files.hashed = function
                saves[title][name].append(milliseconds(storage.save, "w", f"t {title}", obj))
        intact.SETTLED = 1 << 62
        asked["checked for the first time"].append(milliseconds(lambda: storage.catalog.sql(QUESTION).fetchall()))
        intact.SETTLED = -(1 << 62)
        storage.catalog.sql(QUESTION)
        asked["remembered"].append(milliseconds(lambda: storage.catalog.sql(QUESTION).fetchall()))
        asked['verify="never"'].append(milliseconds(lambda: unchecked.catalog.sql(QUESTION).fetchall()))
        intact._memory = intact.Memory()
        os.unlink(intact._path())
    intact.SETTLED = remembering
    for title, times in saves.items():
        show(f"A save with {title} of another's serializer", times, "sizes alone", "ms")
    show("SQL over a table of 128 MiB", asked, 'verify="never"', "ms")
