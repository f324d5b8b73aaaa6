"""Storage in a folder on a local or shared disk."""

from __future__ import annotations

import os
from typing import Literal

from catalog.store.open import open_store
from functionfuse.errors import InvalidConfiguration, StorageUnusable
from functionfuse.storage._options import Compression, checked_options
from functionfuse.storage.base import Storage


class FileStorage(Storage):
    """Keeps each result as a file, ``<path>/<workflow>/<task>``.

    Parameters
    ----------
    path : str or path-like
        The folder; made when the first result is saved. ``~`` is the user's home.
    index : {"storage", "private"}
        Where the catalog's index lies: beside the results, for all to share, or in the user's cache directory, for a
        file system whose locks cannot be trusted.
    mmap : bool
        Whether large results lie over the mapped file, where they are copied page by page as they are written to. If
        not, they are read into memory.
    verify : {"always", "never"}
        Whether all of a result is held against its checksum when it is read. With ``"never"``, damage comes back
        as data.
    compression : {"auto", None} or dict
        ``"auto"`` compresses the arrays that shrink by a fifth or more, ``{"codec": "zstd", "level": n}`` those that
        shrink at all; what is compressed is not mapped but unpacked into memory.
    fsync : bool
        Whether a save returns only when the result is on the medium, and so survives a power cut.

    Raises
    ------
    InvalidConfiguration
        If the path is empty or no path, or an option is not one of those above.
    StorageUnusable
        If the path is a file.

    Examples
    --------
    >>> storage = FileStorage("results")
    >>> storage.save("weather", "mean", 12.9)
    >>> storage.read_task("weather", "mean")
    12.9
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        index: Literal["storage", "private"] = "storage",
        mmap: bool = True,
        verify: Literal["always", "never"] = "always",
        compression: Compression = "auto",
        fsync: bool = False,
    ) -> None:
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
            raise InvalidConfiguration(f"the path of a file storage has to be the name of a folder, not {path!r}")
        root = os.path.abspath(os.path.expanduser(os.fspath(path)))
        if os.path.exists(root) and not os.path.isdir(root):
            raise StorageUnusable(f"{root} is a file: a storage needs a folder, choose another path")
        if index not in ("storage", "private"):
            raise InvalidConfiguration(f"the index of a file storage is 'storage' or 'private', not {index!r}")
        options = checked_options(mmap=mmap, verify=verify, compression=compression, fsync=fsync)
        super().__init__(open_store(root), index, options)
