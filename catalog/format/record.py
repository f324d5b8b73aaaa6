"""The record of one result: the JSON object of a footer, typed; and its one decoder, which validates.

A seal proves that a footer is what somebody wrote, not that it makes sense: a faulty program can seal anything. So
every record is decoded here, once, and what breaks a rule of `docs/formats.md` is `DamagedFooter`, like a footer whose
bytes were changed. Members that this version does not know are passed over here, and kept in the journal.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from msgspec import Meta, Struct, convert
from msgspec.structs import replace

from catalog.errors import DamagedFooter
from catalog.format.buffers import LARGEST, BufferPlace, Size, check_places, place_of
from catalog.format.ids import is_id
from catalog.format.names import from_text, to_text

_DEEPEST = 100  # arrays and objects in one another; values that are stored have 32

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII).fullmatch
_DIGEST = r"\A(xxh3:[0-9a-f]{32}|(?!xxh3:)[0-9a-z][0-9a-z-]*:[0-9a-f]+)\Z"

_Integer = Annotated[int, Meta(ge=-LARGEST, le=LARGEST)]


class SideFile(Struct, frozen=True):
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
    size: Size
    digest: Annotated[str, Meta(pattern=_DIGEST)] | None = None


class SideList(Struct, frozen=True):
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
    size: Size
    files: Size
    bytes: Size


class CodeParts(Struct, frozen=True, omit_defaults=True, gc=False):
    """What is known of the code besides its fingerprint; nothing of it is a column of the catalog.

    Attributes
    ----------
    known : str or None
        One fingerprint over all that the result comes from and that has one, where `lineage` is null.
    unknown : sequence of str
        Arguments, globals and other values that have none, by their names as text.
    parts : mapping of str to str
        A short digest, or the value, of each function and value that the code uses, by its name as text.
    packages : mapping of str to str
        The version of each installed package that the code uses.
    """

    known: str | None = None
    unknown: tuple[str, ...] | None = None
    parts: dict[str, str] | None = None
    packages: dict[str, str] | None = None


class Origin(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Where a result comes from, as the run that computed it knows.

    Attributes
    ----------
    run_id : str or None
        A UUIDv7.
    function, code_fingerprint, lineage, scheme : str or None
        The function by its full name, the fingerprints of its code and of all that the result comes from, and how
        these were made.
    inputs : mapping of str to (str or None)
        One fingerprint for each argument.
    parents : sequence of str
        The nodes whose results it was computed from.
    duration : float or None
        Seconds.
    details : mapping
        Where it was computed, on Ray.
    code : CodeParts or None
        What else is known of the code.
    """

    run_id: str | None = None
    function: str | None = None
    code_fingerprint: str | None = None
    lineage: str | None = None
    inputs: dict[str, str | None] | None = None
    parents: tuple[str, ...] | None = None
    scheme: str | None = None
    duration: _Integer | float | None = None
    details: Any = None
    code: CodeParts | None = None

    def is_of_same_call(self, other: Origin) -> bool:
        """Tell whether a result comes from the same call in the same run, however long it took and where."""
        return replace(self, duration=other.duration, details=other.details) == other


class Record(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a blob says of itself; its members are in the order of the footer, those that are None are not written.

    Attributes
    ----------
    blob_id : str
        A UUIDv7.
    workflow, task : str
        The names as text (`catalog.format.names.to_text`).
    replaces : str or None
        The blob that it was saved over.
    run_id, function, code_fingerprint, lineage, inputs, parents, scheme, duration, details, code
        As of `Origin`.
    type : str or None
        Of the result, by its full name.
    summary, value, packages : JSON
        As the catalog's columns.
    saved_at : str
        When, as `utc_text` says it.
    checksum : str or None
        Of the body, with the name of the algorithm.
    serializers : tuple of str
        How it was written, at least one.
    side_files : tuple of SideFile
        As far as the footer lists them itself.
    side_list : SideList or None
        Where a file lists them.
    side_digest : str or None
        The digest of the list.
    host, user, pid, python
        Who wrote it.
    stream : int or None
        Bytes of the pickle stream; None if nothing follows it.
    buffers : tuple
        Their `places`, as they are written.
    """

    blob_id: str
    workflow: str
    task: str
    replaces: str | None = None
    run_id: str | None = None
    function: str | None = None
    code_fingerprint: str | None = None
    lineage: str | None = None
    inputs: dict[str, str | None] | None = None
    parents: tuple[str, ...] | None = None
    scheme: str | None = None
    duration: _Integer | float | None = None
    details: Any = None
    code: CodeParts | None = None
    type: str | None = None
    summary: Any = None
    value: Any = None
    packages: Any = None
    saved_at: str
    checksum: str | None = None
    serializers: Annotated[tuple[str, ...], Meta(min_length=1)]
    side_files: tuple[SideFile, ...] | None = None
    side_list: SideList | None = None
    side_digest: str | None = None
    host: str | None = None
    user: str | None = None
    pid: _Integer | None = None
    python: str | None = None
    stream: Size | None = None
    buffers: tuple[tuple[Any, ...], ...] = ()

    @property
    def side_size(self) -> int:
        """Bytes of all side files that it declares, with that of their list."""
        listed = self.side_list.size + self.side_list.bytes if self.side_list else 0
        return listed + sum(file.size for file in self.side_files or ())

    @property
    def side_count(self) -> int:
        """How many side files it declares, with the list's."""
        return self.side_list.files + 1 if self.side_list else len(self.side_files or ())

    @property
    def places(self) -> tuple[BufferPlace, ...]:
        """Where the buffers are; they follow the stream without overlap, up to the end of the body."""
        return tuple(map(place_of, self.buffers))

    @property
    def saved_by_packing(self) -> int:
        """Bytes by which the buffers were greater before they were compressed."""
        return sum(place.logical_size - place.size for place in self.places)


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
        given = {name: value for name, value in parsed(text).items() if value is not None}
        record = convert(given, Record)
        _check_ids_names_and_time(record)
        _check_layout(record, body_size, plain)
        record = _with_names_of_side_files(record)
        if body_size + record.side_size + record.saved_by_packing > LARGEST:
            raise ValueError("the sizes that it declares are larger than any storage")
    except ValueError as error:
        raise DamagedFooter(f"the footer's record is invalid: {error}") from error
    return record


def parsed(text: bytes) -> dict[str, Any]:
    """Return a JSON object in ASCII, of bounded depth, with every member once; `ValueError` for anything else."""
    try:
        members = _parse(text.decode("ascii"))
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if type(members) is not dict:
        raise ValueError("it is no JSON object")
    if text.count(b"[") + text.count(b"{") > _DEEPEST and _is_deep(members):
        raise ValueError("it is nested too deep")
    if b"\\ud" in text.lower():  # surrogates: as pairs they are text
        json.dumps(members, ensure_ascii=False).encode()
    return members


def side_file(about: dict[str, Any]) -> SideFile:
    """Return a side file as a list declares it; `ValueError` if it cannot be one."""
    file = convert(about, SideFile)
    return SideFile(_path(file.name), file.size, file.digest)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is there twice")
    return members


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"a number is too large: {text[:40]}")
    return number


# The standard library's, since msgspec passes over a member that is there twice. Made once: that takes longer than a
# record does.
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


def _check_ids_names_and_time(record: Record) -> None:
    for name in ("blob_id", "replaces", "run_id"):
        value = getattr(record, name)
        if value is not None and not is_id(value):
            raise ValueError(f"{name} is {_shown(value)}, not a UUIDv7 of a year before 9999")
    for name in ("workflow", "task"):
        if not is_name(value := getattr(record, name)):
            raise ValueError(f"{name} is {_shown(value)}, not a name")
    if not _is_time(record.saved_at):
        raise ValueError(f"saved_at is {_shown(record.saved_at)}, not a time in UTC of a year from 1970 to 9998")


def _with_names_of_side_files(record: Record) -> Record:
    about = record.side_list
    if about is not None:
        if record.side_files:
            raise ValueError("its side files are listed in the footer and in a file")
        return replace(record, side_list=replace(about, name=_path(about.name)))
    if not record.side_files:
        return record
    files = tuple(SideFile(_path(file.name), file.size, file.digest) for file in record.side_files)
    if len({file.name for file in files}) != len(files):
        raise ValueError("a side file is there twice")
    return replace(record, side_files=files)


def _check_layout(record: Record, body_size: int, plain: bool) -> None:
    if (record.stream is None) != (not record.buffers):
        raise ValueError("the length of the stream goes with places of buffers")
    if record.stream is None:
        if plain and len(record.serializers) != 1:
            raise ValueError("it declares more than the one pickle stream that the trailer speaks of")
        return
    if plain:
        raise ValueError("it declares more than the one pickle stream that the trailer speaks of")
    check_places(record.places, record.stream, body_size)


def _path(text: str) -> str:
    """Return the name of a side file, which does not lead out of its folder."""
    if not is_name(text) or "\0" in (name := from_text(text)) or not {"", ".", ".."}.isdisjoint(name.split("/")):
        raise ValueError(f"a side file cannot be called {_shown(text)}")
    return name


def _shown(text: str) -> str:
    shown = ascii(text)
    return shown if len(shown) < 60 else f"{shown[:56]}..."


def is_name(value: str) -> bool:
    """Tell whether a text is a name: what `to_text` makes of a string that is not empty."""
    return value != "" and to_text(from_text(value)) == value


def _is_time(value: str) -> bool:
    if not _TIME(value):
        return False
    try:
        return 1970 <= datetime.fromisoformat(value[:-1]).year < 9999  # in every zone a date of Python
    except ValueError:
        return False
