"""The side files of one save as the serializers of this package use them, over either protocol."""

from __future__ import annotations

import io
import mmap
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import has_magic
from typing import IO, Any

import xxhash

from functionfuse.errors import DamagedResult, InvalidPickle, SideFileMissing
from functionfuse.serializers.base import DIGESTS, EXPECTED, FILE_PROTOCOL, S3_PROTOCOL, VERIFIES

_SMALL = 1 << 16  # bytes that are sooner read than mapped


class Sides:
    """Opens, removes and locates side files.

    Parameters
    ----------
    protocols : mapping
        As a serializer is given them.

    Attributes
    ----------
    is_local : bool
        Whether the files are on a file system, with paths.
    verifies : bool
        Whether what is read is to be held against checksums.
    expected : object or None
        Has a method `digest(name)`, of the side files that the storage has digests of.
    """

    def __init__(self, protocols: Mapping[str, Any]) -> None:
        self._files = protocols.get(FILE_PROTOCOL)
        self._remote: Any = None if self._files is not None else protocols[S3_PROTOCOL]
        self.is_local = self._files is not None
        self.verifies: bool = self._said(VERIFIES, True)
        self.expected: Any = self._said(EXPECTED, None)

    def _said(self, what: str, usual: Any) -> Any:
        """Return what a storage of this package says beyond the protocol; others have no more than they promise."""
        return self._remote.get(what, usual) if self._files is None else getattr(self._files, what, usual)

    def note_digest(self, name: str, size: int, digest: str) -> None:
        """Tell the storage the digest of a side file that was hashed as it was written, where it wants to know."""
        if self._files is None:
            self._remote.get(DIGESTS, {})[name] = (size, digest)
        elif (note := getattr(self._files, "note_digest", None)) is not None:
            note(name, size, digest)

    def open(self, name: str, mode: str) -> IO[Any]:
        """Open a side file; `FileNotFoundError` or `SideFileMissing` where it is not there."""
        if self._files is not None:  # unchecked: this package's serializers check what they read, in parts if need be
            file: IO[Any] = getattr(self._files, "open_unchecked", self._files.open)(name, mode)
            return file
        remote: IO[Any] = self._remote["client"].open(self.url(name), mode)
        return remote

    def remove(self, name: str) -> None:
        """Delete a side file or folder; what is gone already is no error."""
        with suppress(FileNotFoundError):
            if self._files is not None:
                self._files.remove(name)
            else:
                self._remove_remote(self.url(name))

    def _remove_remote(self, url: str) -> None:
        client = self._remote["client"]
        if not has_magic(url):
            client.rm(url, recursive=True)
            return
        for path in client.find(url):  # `rm` would take the brackets of a workflow's name for a pattern
            client.rm_file(path)

    @contextmanager
    def written(self, name: str) -> Iterator[Hashed]:
        """Open a new side file that is hashed as it is written, and deleted if that fails."""
        try:
            with self.open(name, "wb") as file:
                hashed = Hashed(file)
                yield hashed
            self.note_digest(name, hashed.tell(), f"xxh3:{hashed.checksum().hex()}")
        except BaseException:
            self.remove(name)
            raise

    def checked(self, name: str, checksum: bytes) -> Any:
        """Return all bytes of a side file as writable memory, mapped where that is possible.

        Raises
        ------
        SideFileMissing, InvalidPickle
            If it is gone, or not what was written.
        """
        with damage(name), self.open(name, "rb") as file:
            data: Any
            if self.is_local and os.fstat(file.fileno()).st_size > _SMALL:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            else:
                data = bytearray(file.read())
        if self.verifies and xxhash.xxh3_128_digest(data) != checksum:
            raise InvalidPickle(f"the side file {name} is damaged: its checksum is wrong")
        return memoryview(data)

    def url(self, name: str) -> str:
        """Return where a remote side file is."""
        return f"{self._remote['folder'].rstrip('/')}/{name}"

    @property
    def client(self) -> Any:
        """The file system of fsspec in which remote side files are."""
        return self._remote["client"]

    def mapper(self, name: str) -> Any:
        """Return fsspec's mapping over a remote side folder."""
        return self._remote["client"].get_mapper(self.url(name))

    def path(self, name: str, mode: str = "rb") -> str:
        """Return the path of a local side file, which is made by the mode ``"wb"`` and has to be there by ``"rb"``.

        The file protocol has no more than `open` and `remove`: the open file tells where it is.
        """
        with self.open(name, mode) as file:
            return os.path.abspath(file.name)


class Hashed(io.RawIOBase):
    """A file that knows the checksum of what was written to it.

    Parameters
    ----------
    file : file object
        Where it goes.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = xxhash.xxh3_128()
        self._size = 0

    def write(self, data: Any) -> int:
        """Append `data`."""
        view = memoryview(data).cast("B") if memoryview(data).nbytes else memoryview(b"")
        self._hash.update(view)
        self._file.write(view)
        self._size += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        """Return how much was written, in bytes."""
        return self._size

    def writable(self) -> bool:
        """Tell that it is written to."""
        return True

    def checksum(self) -> bytes:
        """Return the XXH3-128 of all that was written."""
        return bytes(self._hash.digest())


@contextmanager
def damage(name: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn what a library says of a side file's bytes into `InvalidPickle`, which names the file."""
    try:
        yield
    except DamagedResult:
        raise
    except FileNotFoundError as error:
        raise SideFileMissing(f"the side file {name} is gone: {error}") from error
    except errors as error:
        raise InvalidPickle(f"the side file {name} is damaged: {error}") from error
