"""What the suites save, and under which names."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from functionfuse.serializers import FILE_PROTOCOL, S3_PROTOCOL, generate_name

if TYPE_CHECKING:
    import pytest


#: Names that a file system or S3 cannot hold as they are, or that would lead out of a folder.
ODD_NAMES = (
    "a/b",
    "a\\b",
    "/etc/passwd",
    "..",
    ".",
    "../../up",
    "a\0b",
    "line\nbreak\x7f",
    "x" * 300,
    "é" * 200,
    "\U0001f9ea experiment",
    "bigdata",
    ".catalog",
    ".hidden",
    "%41",
    "%2541",
    "100%",
    "A",
    "a",
    "caf\udce9",
    "\ud800",
    " ",
    "*",
    "[x]",
)


class Buffer:
    """Holds bytes that pickle hands on out of band, as arrays do.

    Parameters
    ----------
    data : bytes-like
        What it holds.
    """

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return Buffer, (pickle.PickleBuffer(self.data),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Buffer) and bytes(self.data) == bytes(other.data)

    __hash__ = None  # type: ignore[assignment]  # it may change

    def __repr__(self) -> str:
        return f"Buffer({bytes(self.data[:8])!r}..., {len(self.data)} bytes)"


@dataclass
class Note:
    """A text that `NoteSerializer` takes over."""

    text: str


class NoteSerializer:
    """A serializer as third parties write them: one side file a note, over either protocol."""

    name = "NoteSerializer"
    serializer_class: type = Note

    @classmethod
    def pickle(cls, obj: Note, protocols: Mapping[str, Any]) -> tuple[str, str]:
        """Write the note to a side file and return name and file name."""
        pid = generate_name()
        with _open_note(protocols, pid, "wb") as file:
            file.write(obj.text.encode())
        return cls.name, pid

    @classmethod
    def unpickle(cls, pid: str, protocols: Mapping[str, Any]) -> Note:
        """Read a note."""
        with _open_note(protocols, pid, "rb") as file:
            return Note(file.read().decode())

    @classmethod
    def remove(cls, pid: str, protocols: Mapping[str, Any]) -> None:
        """Delete a note's side file."""
        if FILE_PROTOCOL in protocols:
            protocols[FILE_PROTOCOL].remove(pid)
        else:
            remote = protocols[S3_PROTOCOL]
            remote["client"].rm(f"{remote['folder']}/{pid}")


def _open_note(protocols: Mapping[str, Any], pid: str, mode: str) -> Any:
    if FILE_PROTOCOL in protocols:
        return protocols[FILE_PROTOCOL].open(pid, mode)
    remote = protocols[S3_PROTOCOL]
    return remote["client"].open(f"{remote['folder']}/{pid}", mode)


def samples() -> list[Any]:
    """Return objects of every kind."""
    return [
        None,
        0,
        2**80,
        float("inf"),
        True,
        "",
        "text \ud800",
        b"bytes",
        (),
        [1, [2, {"three": 4}]],
        {"a": {1, 2}, 3: (None,)},
        datetime(2024, 2, 29, tzinfo=timezone.utc),
        {"x": "y" * 100_000},
        Buffer(bytearray(b"small")),
        Buffer(bytearray(range(256)) * 4_000),
        [Buffer(bytearray(70_000)), Buffer(b"\1" * 70_001)],
    ]


def generator() -> Iterator[int]:
    """Yield what cannot be pickled: the generator itself."""
    yield 0


def raises(error: type[BaseException], match: str | None = None) -> pytest.RaisesExc[BaseException]:
    """Expect an error whose message matches."""
    import pytest

    return pytest.raises(error, match=match)
