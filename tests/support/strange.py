"""What may stand in a storage and is neither a file nor a folder of its own: links, pipes, sockets, others' folders."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

Kind = Callable[[Path, Path], None]


def _socket(path: Path, _: Path) -> None:
    here = os.open(".", os.O_RDONLY)
    os.chdir(path.parent)  # a socket's path has to be short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    except OSError:  # its name is too long still
        os.mkfifo(path)
    finally:
        os.fchdir(here)
        os.close(here)


def _folder(path: Path, _: Path) -> None:
    path.mkdir()
    (path / "of somebody").write_text("theirs")


#: By name: puts a thing at a path; the other path is a folder of somebody else.
KINDS: dict[str, Kind] = {
    "a link to a folder": lambda path, theirs: path.symlink_to(theirs),
    "a link to a file": lambda path, theirs: path.symlink_to(theirs / "thesis.tex"),
    "a link to a folder's pipe": lambda path, theirs: path.symlink_to(theirs / "pipe"),
    "a link to itself": lambda path, _: path.symlink_to(path.name),
    "a link to nothing": lambda path, theirs: path.symlink_to(theirs / "nothing"),
    "a link to a device": lambda path, _: path.symlink_to("/dev/zero"),
    "a pipe": lambda path, _: os.mkfifo(path),
    "a socket": _socket,
    "a folder": _folder,
    "a file": lambda path, _: path.write_bytes(b"\x89PNG somebody's"),
}


def their_folder(path: Path) -> Path:
    """Make a folder of somebody else's, whose files are old enough to be taken for litter."""
    for name in ("thesis.tex", "data/table.csv", "00000000-0000-7000-8000-000000000000.ndjson", "w/a"):
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("precious")
        os.utime(file, (1e9, 1e9))
    os.mkfifo(path / "pipe")
    return path


def content(folder: Path) -> dict[str, object]:
    """Return what is in a folder: names, kinds, times of writing, and what files hold."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        text = path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_mtime_ns, text)
    return found
