"""What an exported file says of itself, in the Parquet metadata under the key ``functionfuse``.

One JSON object; `docs/audit.md` describes its members. An export is one file,
or, in parts, several: they tell the same, but for their rows and their part.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from catalog.audit.digest import canonical, digest

FORMAT = 2  # 1 had times without a zone, in UTC
KEY = "functionfuse"

# What differs between two exports of the same content: the digest leaves it out.
_PASSING = ("digest", "exported_at", "library", "path")


class NoManifest(Exception):
    """The metadata hold no manifest, or one that this version cannot read."""


@dataclass(frozen=True)
class Part:
    """Which part of an export a file is.

    Attributes
    ----------
    by : str
        ``workflow`` or ``day``.
    value : str or None
        The workflow, or the day in ISO 8601; None where the rows have none.
    files : int
        How many files the export has.
    """

    by: str
    value: str | None
    files: int


@dataclass(frozen=True)
class Lines:
    """The lines of one journal segment that an export of events is about, all its parts together.

    Attributes
    ----------
    begin, end : int
        Numbers of the lines, from 1: those behind `begin`, up to and including `end`.
    rows : int
        How many of them are in the export.
    hash_before, hash_after : str
        The segment's chain before and after these rows, 64 hexadecimal digits each.
    missing : list of list of int
        First and last numbers of lines that have no event: torn ones, and repetitions of events told elsewhere.
    """

    begin: int
    end: int
    rows: int
    hash_before: str
    hash_after: str
    missing: list[list[int]]


@dataclass(frozen=True)
class Manifest:
    """What an exported file says of itself.

    Attributes
    ----------
    format : int
        Version of this description and of the digests.
    schema_version : int
        Version of the tables' columns.
    library : str
        Name and version of what exported it.
    exported_at : str
        When, ISO 8601, UTC.
    table : str
        ``tasks``, ``events`` or ``runs``.
    rows : int
        How many rows the file has.
    columns : list of list of str
        Name and Arrow type of each column.
    storage : str
        The UUID of the storage.
    path : str
        Where the storage was.
    filter : dict
        The filters by name; empty if all rows were asked for.
    part : Part or None
        Which part it is of an export in several files.
    previous : str or None
        The digest of the export that this one continues.
    segments : dict of str to Lines
        Of events: each journal segment by its name.
    digest : str
        Over the rows and all of the above but `library`, `exported_at` and `path`.
    """

    format: int
    schema_version: int
    library: str
    exported_at: str
    table: str
    rows: int
    columns: list[list[str]]
    storage: str
    path: str
    filter: dict[str, Any]
    part: Part | None
    previous: str | None
    segments: dict[str, Lines]
    digest: str = ""

    def sealed(self, hashes: Iterable[bytes]) -> Manifest:
        """Return it with the digest over the rows whose hashes are given."""
        return replace(self, digest=self.digest_over(hashes))

    def digest_over(self, hashes: Iterable[bytes]) -> str:
        """Return the digest that it should have, with rows of these hashes."""
        return digest(hashes, {name: value for name, value in asdict(self).items() if name not in _PASSING})

    def to_json(self) -> str:
        """Return it as `read` takes it."""
        return json.dumps(asdict(self))

    def of_the_export(self) -> bytes:
        """Return what all files of the export have in common, to tell which belong together."""
        own = {"rows", "digest", "part"}
        shared = {name: value for name, value in asdict(self).items() if name not in own}
        return canonical([shared, None if self.part is None else [self.part.by, self.part.files], *self._alone()])

    def _alone(self) -> list[str]:
        return [self.digest] if self.part is None else []


def read(metadata: dict[bytes, bytes] | None) -> Manifest:
    """Return the manifest in a Parquet file's metadata.

    Parameters
    ----------
    metadata : dict of bytes to bytes, or None
        Key and value.

    Returns
    -------
    Manifest
        As it was written; nothing is verified.

    Raises
    ------
    NoManifest
        If there is none, or one that this version cannot read.
    """
    text = (metadata or {}).get(KEY.encode())
    if text is None:
        raise NoManifest("it is no export of a catalog")
    try:
        content = json.loads(text)
        if content["format"] > FORMAT:
            raise NoManifest(f"it has export format {content['format']}, this version knows up to {FORMAT}")
        return _from(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NoManifest(f"its description is damaged ({error!r})") from error


_TEXTS = ("library", "exported_at", "table", "storage", "path", "digest")


def _from(content: dict[str, Any]) -> Manifest:
    if unknown := content.keys() - {field.name for field in fields(Manifest)}:
        raise ValueError(f"unknown members {sorted(unknown)}")
    texts = [name for name in _TEXTS if not isinstance(content[name], str)]
    if texts or not isinstance(content["filter"], dict) or not isinstance(content["previous"], (str, type(None))):
        raise ValueError(f"no texts: {texts}, or filter={content['filter']!r}, previous={content['previous']!r}")
    part = Part(**content["part"]) if content["part"] is not None else None
    segments = {name: _lines(lines) for name, lines in content["segments"].items()}
    return Manifest(**{**content, "part": part, "segments": segments})


def _lines(content: dict[str, Any]) -> Lines:
    lines = Lines(**content)
    numbers = [
        lines.begin,
        lines.end,
        lines.rows,
        *(number for first, last in lines.missing for number in (first, last)),
    ]
    if not all(isinstance(number, int) for number in numbers):
        raise ValueError(f"numbers of lines are integers, not {numbers}")
    for text in (lines.hash_before, lines.hash_after):
        bytes.fromhex(text)
    return lines


def digest_of_export(manifests: Iterable[Manifest]) -> str:
    """Return the digest of a whole export.

    Parameters
    ----------
    manifests : iterable of Manifest
        Those of its files.

    Returns
    -------
    str
        That of its file; in parts, the SHA-256 of the parts' sorted digests one behind another, in ASCII.
    """
    known = sorted(manifests, key=lambda manifest: manifest.digest)
    if len(known) == 1 and known[0].part is None:
        return known[0].digest
    return hashlib.sha256("".join(manifest.digest for manifest in known).encode("ascii")).hexdigest()
