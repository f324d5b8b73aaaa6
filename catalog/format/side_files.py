"""What a blob declares of its side files: names, sizes and digests, in the footer or, where they are many, beside them.

A digest is text that begins with the name of its algorithm, ``xxh3:`` and the 32 hexadecimal digits of the XXH3-128;
null where nobody knows it. Each side file is one JSON object; these objects, sorted by name and each followed by a line
feed, are the *list*. Up to `MOST_INLINE` of them stand in the footer, ``side_files``; more stand in a file of the side
folder, of which the footer says ``side_list``: a footer of 200,000 Zarr chunks would have 20 MB. In both forms the
footer has the digest of the list, ``side_digest``: who trusts the footer can trust every byte beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import xxhash

from catalog.format.json_text import to_json
from catalog.format.names import to_text
from catalog.format.record import Record, SideFile, SideList, parsed, side_file

#: Side files that a footer lists itself.
MOST_INLINE = 1_000
#: What the file with the list is called, after the blob's id.
LIST_SUFFIX = ".ndjson"

_ALGORITHM = "xxh3:"


class DamagedList(ValueError):
    """The list of side files is not the one that was written."""


@dataclass(frozen=True)
class Declaration:
    """How side files are declared.

    Attributes
    ----------
    files : tuple of SideFile or None
        For the footer, with their names as text; None if the list is a file.
    listed : SideList or None
        The file that the list goes into; None if it stands in the footer.
    digest : str
        Of the list.
    size : int
        Bytes of all side files, with that of the list.
    content : bytes
        The list.
    """

    files: tuple[SideFile, ...] | None
    listed: SideList | None
    digest: str
    size: int
    content: bytes


def digest_of(data: bytes | bytearray | memoryview) -> str:
    """Return the digest of some bytes."""
    return _ALGORITHM + xxhash.xxh3_128_hexdigest(data)


class Digest:
    """The digest of bytes that come one piece after another."""

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_128()
        self.update = self._hash.update

    def text(self) -> str:
        """Return the digest of all that came so far."""
        return _ALGORITHM + self._hash.hexdigest()


def is_known(digest: str | None) -> bool:
    """Tell whether this version can compute such a digest."""
    return digest is not None and digest.startswith(_ALGORITHM)


def declare(files: Sequence[SideFile], blob_id: str) -> Declaration:
    """Return how the side files of a blob are declared.

    Parameters
    ----------
    files : sequence of SideFile
        All of them, sorted by name.
    blob_id : str
        Names the file with the list, so that no serializer's file has its name by chance.

    Returns
    -------
    Declaration
        What to write, and where.
    """
    said = tuple(SideFile(to_text(file.name), file.size, file.digest) for file in files)
    content = b"".join(_line(file) for file in said)
    digest = digest_of(content)
    size = sum(file.size for file in files)
    if len(files) <= MOST_INLINE:
        return Declaration(said, None, digest, size, content)
    about = SideList(blob_id + LIST_SUFFIX, len(content), len(files), size)
    return Declaration(None, about, digest, size + len(content), content)


def _line(file: SideFile) -> bytes:
    return to_json(file) + b"\n"


def declared(record: Record, read: Callable[[str], bytes]) -> list[SideFile]:
    """Return the side files that a record declares, the file with their list among them.

    Parameters
    ----------
    record : Record
        What a blob says of itself.
    read : callable
        Returns the bytes of a side file; called only where the list is in a file.

    Returns
    -------
    list of SideFile
        Sorted by name, but for the list's.

    Raises
    ------
    FileNotFoundError
        If the list is gone; `read` raises it.
    DamagedList
        If the list is damaged.
    """
    about = record.side_list
    if about is None:
        return list(record.side_files or ())
    content = read(about.name)
    if digest_of(content) != record.side_digest:
        raise DamagedList("the list of its side files is damaged: its checksum is wrong")
    try:
        listed = [side_file(parsed(line)) for line in content.splitlines()]
    except ValueError as error:
        raise DamagedList(f"the list of its side files is damaged: {error}") from error
    return [*listed, SideFile(about.name, about.size, record.side_digest)]
