"""The record of one result: the JSON object of a footer, validated and typed.

A seal proves that a footer is what somebody wrote, not that it makes sense: a faulty program can seal anything. So
every record is decoded here, once, and what breaks a rule of `docs/formats.md` is `DamagedFooter`, like a footer whose
bytes were changed. Members that this version does not know are passed over, and kept.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from catalog.errors import DamagedFooter
from catalog.format.ids import is_id
from catalog.format.names import from_text, to_text

_LARGEST = (1 << 63) - 1  # BIGINT
_DEEPEST = 100  # arrays and objects in one another; values that are stored have 32
_ALIGNMENT = 64  # bytes: where buffers begin
_SIZES = {2, 6}  # members of a buffer's place: stored as it is, compressed

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII).fullmatch
_DIGEST = re.compile(r"xxh3:[0-9a-f]{32}|(?!xxh3:)[0-9a-z][0-9a-z-]*:[0-9a-f]+").fullmatch


class SideFile(NamedTuple):
    """A side file as it is declared.

    Attributes
    ----------
    name : str
        Relative to the folder of the blob's side files, never leading out of it.
    size : int
        Bytes.
    digest : str or None
        Of its bytes; None where it was not known when the blob was written, or the blob's format had none.
    """

    name: str
    size: int
    digest: str | None = None


class SideList(NamedTuple):
    """The file with the list of side files, where they are too many for the footer.

    Attributes
    ----------
    name : str
        Relative to the folder of the blob's side files.
    size : int
        Its bytes.
    files : int
        How many it lists.
    bytes : int
        What these have together.
    """

    name: str
    size: int
    files: int
    bytes: int


class BufferPlace(NamedTuple):
    """Where a buffer lies in a blob.

    Attributes
    ----------
    offset, size : int
        Bytes, as it is stored.
    logical_size : int
        Bytes before it was compressed.
    codec : str or None
        How it is compressed; None if it is not.
    frames : tuple of int
        Bytes of each compressed frame.
    width : int
        Bytes of each of the numbers in it.
    """

    offset: int
    size: int
    logical_size: int
    codec: str | None = None
    frames: tuple[int, ...] = ()
    width: int = 1


@dataclass(frozen=True)
class Record(Mapping[str, Any]):
    """What a blob says of itself; as a mapping, the members of the JSON object as they were written.

    Attributes
    ----------
    members : mapping
        The JSON object.
    blob_id : str
        A UUIDv7.
    workflow, task : str
        The names as text (`catalog.format.names.to_text`).
    serializers : tuple of str
        How it was written, at least one.
    checksum : str or None
        Of the body, with the name of the algorithm.
    run_id, code_fingerprint, lineage : str or None
        Where it comes from.
    inputs : mapping of str to (str or None)
        One fingerprint for each argument.
    side_files : tuple of SideFile
        As far as the footer lists them itself.
    side_list : SideList or None
        Where a file lists them.
    side_digest : str or None
        The digest of the list.
    stream : int or None
        Bytes of the pickle stream; None if nothing follows it.
    buffers : tuple of BufferPlace
        They follow the stream without overlap, up to the end of the body.
    """

    members: Mapping[str, Any]
    blob_id: str
    workflow: str
    task: str
    serializers: tuple[str, ...]
    checksum: str | None = None
    run_id: str | None = None
    code_fingerprint: str | None = None
    lineage: str | None = None
    inputs: Mapping[str, str | None] | None = None
    side_files: tuple[SideFile, ...] = ()
    side_list: SideList | None = None
    side_digest: str | None = None
    stream: int | None = None
    buffers: tuple[BufferPlace, ...] = ()

    def __getitem__(self, name: str) -> Any:
        return self.members[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)

    @property
    def side_size(self) -> int:
        """Bytes of all side files that it declares, with that of their list."""
        listed = self.side_list.size + self.side_list.bytes if self.side_list else 0
        return listed + sum(file.size for file in self.side_files)

    @property
    def side_count(self) -> int:
        """How many side files it declares, with the list's."""
        return self.side_list.files + 1 if self.side_list else len(self.side_files)

    @property
    def saved_by_packing(self) -> int:
        """Bytes by which the buffers were greater before they were compressed."""
        return sum(place.logical_size - place.size for place in self.buffers)


class _Invalid(ValueError):
    """What is wrong with a member."""


def decode(text: bytes, body_size: int, plain: bool) -> Record:
    """Return the record in a footer.

    Parameters
    ----------
    text : bytes
        One JSON object in ASCII.
    body_size : int
        Bytes of the body that it describes.
    plain : bool
        Whether the trailer says that the body is one pickle stream and nothing else.

    Returns
    -------
    Record
        Valid: of the right types, sizes and forms, with side files inside of their folder and buffers inside of the
        body.

    Raises
    ------
    DamagedFooter
        If it is not.
    """
    try:
        return _record(parsed(text), body_size, plain)
    except ValueError as error:
        raise DamagedFooter(f"the footer's record is invalid: {error}") from error


def parsed(text: bytes) -> dict[str, Any]:
    """Return a JSON object in ASCII, of bounded depth, with every member once; `ValueError` for anything else."""
    try:
        members = _parse(text.decode("ascii"))
    except RecursionError as error:
        raise _Invalid("it is nested too deep") from error
    if type(members) is not dict:
        raise _Invalid("it is no JSON object")
    if text.count(b"[") + text.count(b"{") > _DEEPEST and _is_deep(members):
        raise _Invalid("it is nested too deep")
    if b"\\ud" in text.lower():  # surrogates: as pairs they are text
        json.dumps(members, ensure_ascii=False).encode()
    return members


def side_file(about: object) -> SideFile:
    """Return a side file as a footer or a list declares it; `ValueError` if it cannot be one."""
    if type(about) is not dict:
        raise _Invalid(f"a side file is an object, not {_shown(about)}")
    digest = about.get("digest")
    if digest is not None and not (type(digest) is str and _DIGEST(digest)):
        raise _Invalid(f"the digest of a side file is {_shown(digest)}")
    return SideFile(_path(about.get("name")), _size(about, "size"), digest)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _Invalid("a member is there twice")
    return members


def _no_number(text: str) -> None:
    raise _Invalid(f"{text} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _Invalid(f"a number is too large: {text[:40]}")
    return number


# Made once: that takes longer than a record does.
_parse = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_number, parse_float=_finite).decode


def _is_deep(members: Mapping[str, Any]) -> bool:
    level: list[Any] = [members]
    for _ in range(_DEEPEST):
        inner: list[Any] = []
        for each in level:
            if type(each) is dict:
                inner += each.values()
            elif type(each) is list:
                inner += each
        level = inner
    return bool(level)


def _record(members: dict[str, Any], body_size: int, plain: bool) -> Record:
    for name, (is_valid, what) in _MEMBERS.items():
        value = members.get(name)
        if value is not None and not is_valid(value):
            raise _Invalid(f"{name} is {_shown(value)}, not {what}")
    for name in _NEEDED:
        if members.get(name) is None:
            raise _Invalid(f"{name} is not there")
    serializers = tuple(members["serializers"])
    stream, buffers = _layout(members, body_size)
    if plain and (buffers or len(serializers) != 1):
        raise _Invalid("it declares more than the one pickle stream that the trailer speaks of")
    side_files, side_list, side_digest = _sides(members)
    record = Record(
        members,
        members["blob_id"],
        members["workflow"],
        members["task"],
        serializers,
        members.get("checksum"),
        members.get("run_id"),
        members.get("code_fingerprint"),
        members.get("lineage"),
        members.get("inputs"),
        side_files,
        side_list,
        side_digest,
        stream,
        buffers,
    )
    if body_size + record.side_size + record.saved_by_packing > _LARGEST:
        raise _Invalid("the sizes that it declares are larger than any storage")
    return record


def _sides(members: Mapping[str, Any]) -> tuple[tuple[SideFile, ...], SideList | None, str | None]:
    digest = members.get("side_digest")
    files = tuple(side_file(each) for each in members.get("side_files") or ())
    if len({file.name for file in files}) != len(files):
        raise _Invalid("a side file is there twice")
    about = members.get("side_list")
    if about is None:
        return files, None, digest
    if files:
        raise _Invalid("its side files are listed in the footer and in a file")
    return (), SideList(_path(about.get("name")), *(_size(about, key) for key in ("size", "files", "bytes"))), digest


def _layout(members: Mapping[str, Any], body_size: int) -> tuple[int | None, tuple[BufferPlace, ...]]:
    stream, places = members.get("stream"), members.get("buffers")
    if stream is None and places is None:
        return None, ()
    if stream is None or not places:
        raise _Invalid("the length of the stream goes with places of buffers")
    buffers = tuple(_place(each) for each in places)
    end = stream
    for place in buffers:
        if place.offset < end or place.offset % _ALIGNMENT:
            raise _Invalid(f"a buffer is at {place.offset}, where {end} bytes come before it")
        end = place.offset + place.size
    if end != body_size:
        raise _Invalid(f"the buffers end at {end} of {body_size} bytes")
    return stream, buffers


def _place(values: object) -> BufferPlace:
    if type(values) is not list or len(values) not in _SIZES or not all(map(_is_size, values[:3])):
        raise _Invalid(f"the place of a buffer is {_shown(values)}")
    offset, size, *packed = values
    if not packed:
        return BufferPlace(offset, size, size)
    logical_size, codec, frames, width = packed
    if not (type(codec) is str and type(frames) is list and all(map(_is_size, frames)) and sum(frames) == size):
        raise _Invalid(f"the frames of a buffer of {size} bytes are {_shown(frames)}, by {_shown(codec)}")
    if not _is_size(width) or width < 1 or logical_size % width:
        raise _Invalid(f"a buffer of {logical_size} bytes has items of {_shown(width)}")
    return BufferPlace(offset, size, logical_size, codec, tuple(frames), width)


def _path(text: object) -> str:
    """Return the name of a side file, which does not lead out of its folder."""
    if not is_name(text) or "\0" in (name := from_text(str(text))) or not {"", ".", ".."}.isdisjoint(name.split("/")):
        raise _Invalid(f"a side file cannot be called {_shown(text)}")
    return name


def _size(about: Mapping[str, Any], key: str) -> int:
    value = about.get(key)
    if not _is_size(value):
        raise _Invalid(f"{key} is {_shown(value)}, not a number of bytes or files")
    return int(value)  # type: ignore[arg-type]  # it is one


def _shown(value: object) -> str:
    text = ascii(value) if type(value) in (str, int, float, bool) else f"a {type(value).__name__}"
    return text if len(text) < 60 else f"{text[:56]}..."


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST


def _is_integer(value: object) -> bool:
    return type(value) is int and -_LARGEST <= value <= _LARGEST


def _is_number(value: object) -> bool:
    return type(value) is float or _is_integer(value)


def _is_text(value: object) -> bool:
    return type(value) is str


def _is_texts(value: object) -> bool:
    return type(value) is list and all(type(each) is str for each in value)


def is_name(value: object) -> bool:
    """Tell whether a value is a name as text: what `to_text` makes of a string that is not empty."""
    return type(value) is str and value != "" and to_text(from_text(value)) == value


def _is_time(value: object) -> bool:
    if type(value) is not str or not _TIME(value):
        return False
    try:
        return 1970 <= datetime.fromisoformat(value[:-1]).year < 9999  # in every zone a date of Python
    except ValueError:
        return False


def _is_fingerprints(value: object) -> bool:
    return type(value) is dict and all(each is None or type(each) is str for each in value.values())


_Rule = tuple[Callable[[object], bool], str]
_TEXT: _Rule = (_is_text, "a text")
_NAME: _Rule = (is_name, "a name")
_ID: _Rule = (is_id, "a UUIDv7 of a year before 9999")

_NEEDED = ("blob_id", "workflow", "task", "saved_at", "serializers")
_MEMBERS: dict[str, _Rule] = {
    "blob_id": _ID,
    "workflow": _NAME,
    "task": _NAME,
    "replaces": _ID,
    "run_id": _ID,
    **dict.fromkeys(("type", "function", "code_fingerprint", "lineage", "scheme", "checksum"), _TEXT),
    **dict.fromkeys(("host", "user", "python", "side_digest"), _TEXT),
    "inputs": (_is_fingerprints, "an object of texts"),
    "parents": (_is_texts, "an array of texts"),
    "serializers": (lambda value: _is_texts(value) and value != [], "an array of texts"),
    "duration": (_is_number, "a number"),
    "saved_at": (_is_time, "a time in UTC of a year from 1970 to 9998"),
    "pid": (_is_integer, "an integer"),
    "side_files": (lambda value: type(value) is list, "an array"),
    "side_list": (lambda value: type(value) is dict, "an object"),
    "stream": (_is_size, "a number of bytes"),
    "buffers": (lambda value: type(value) is list, "an array"),
}
