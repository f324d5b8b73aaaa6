"""How workflow and task names become file names, and come back exactly.

Most names are their own file name. What a file system or S3 cannot hold is
percent-encoded (``/``, control characters, ``%``, a leading dot, lone
surrogates), and so are backslashes, which some servers of S3 take for slashes.
What is longer than a file name may be is cut and closed with a hash, and comes
back from the blob's footer. No encoded name has a path separator or begins with
a dot, so nothing leaves the storage's folder.
"""

from __future__ import annotations

import hashlib
import re

#: The folder of side files inside a workflow's folder; no task is stored under this very name.
SIDE_FOLDER = "bigdata"
#: The folder of journal, index and identity inside a storage's folder.
CATALOG_FOLDER = ".catalog"

_LONGEST = 255  # bytes: NAME_MAX of every file system in use, and far below S3's 1,024
_PLAIN = re.compile(r"[^\x00-\x1f\x7f/\\%.\ud800-\udfff][^\x00-\x1f\x7f/\\%\ud800-\udfff]*").fullmatch
_UNSAFE = re.compile(r"^\.|[\x00-\x1f\x7f/\\%\ud800-\udfff]")
_ESCAPE = re.compile(rb"%([0-9A-F]{2})")
_CUT = "%~"  # never part of an encoding: "%" is always followed by two hexadecimal digits
_IS_CUT = re.compile(rf"{_CUT}[0-9a-f]{{32}}\Z").search

#: What begins an escape in names as text, and a pattern of what follows it: lone surrogates, and the mark itself.
MARK = "\U0010f8ff"
MARKED = "00d[89a-f][0-9a-f]{2}|10f8ff"
_UNTEXT = re.compile(f"[\ud800-\udfff{MARK}]")
_TEXT = re.compile(f"{MARK}({MARKED})")


def side_path(folder: str, *parts: str) -> str:
    """Return the path of a side file or folder of a workflow's folder, relative to the storage's."""
    return "/".join((folder, SIDE_FOLDER, *parts))


def encode(name: str) -> str:
    """Return the file name under which `name` is kept.

    Parameters
    ----------
    name : str
        A workflow or task name, any non-empty string.

    Returns
    -------
    str
        At most 255 bytes in UTF-8, without path separators, control characters or a leading dot.
    """
    if _PLAIN(name) and len(name) < 64 and name != SIDE_FOLDER:
        return name
    encoded = "%62igdata" if name == SIDE_FOLDER else _UNSAFE.sub(_percent, name)
    return encoded if len(encoded.encode()) <= _LONGEST else _cut(encoded, name)


def decode(file_name: str) -> str | None:
    """Return the name that is kept under `file_name`.

    Returns
    -------
    str or None
        None where the name was cut, so that only the blob's footer knows it. A
        file name that `encode` never makes (of the older format) is its own name.
    """
    if "%" not in file_name:
        return file_name
    if _CUT in file_name:
        return None
    raw = file_name.encode("utf-8", "surrogateescape")
    try:
        name = _ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), raw).decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return file_name
    return name if encode(name) == file_name else file_name


def candidates(name: str) -> tuple[str, ...]:
    """Return the file names under which `name` may be kept: as encoded, then raw, as the older format kept it."""
    encoded = encode(name)
    return (encoded,) if encoded == name or not _may_be_raw(name) else (encoded, name)


def _may_be_raw(name: str) -> bool:
    """Tell whether the older format may have kept `name` under itself, and `encode` keeps no other name there."""
    try:
        size = len(name.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte
        return False
    impossible = name[0] == "." or "/" in name or "\0" in name or name == SIDE_FOLDER or _IS_CUT(name)
    return size <= _LONGEST and not impossible and decode(name) in (None, name)


def to_text(name: str) -> str:
    """Return `name` as valid Unicode text: lone surrogates are escaped reversibly.

    DuckDB, Arrow and JSON take only valid Unicode; a Python string that came
    from `os.fsdecode` may not be. `from_text` gives the string back.
    """
    if name.isascii() or not _UNTEXT.search(name):
        return name
    return _UNTEXT.sub(lambda match: f"{MARK}{ord(match[0]):06x}", name)


def from_text(text: str) -> str:
    """Return the string that `to_text` was given; what it never makes stands for itself."""
    return _TEXT.sub(lambda match: chr(int(match[1], 16)), text) if MARK in text else text


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass"))


def _cut(encoded: str, name: str) -> str:
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    head = encoded.encode()[: _LONGEST - len(_CUT) - len(digest)].decode(errors="ignore")
    return re.sub(r"%[0-9A-F]?$", "", head) + _CUT + digest
