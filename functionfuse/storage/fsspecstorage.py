"""Storage under any URL that fsspec reaches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from catalog.store.open import open_store
from functionfuse.errors import InvalidConfiguration
from functionfuse.storage._options import Compression, checked_options
from functionfuse.storage.base import Storage


class FsspecStorage(Storage):
    """Keeps each result as an object, ``<url>/<workflow>/<task>``.

    Parameters
    ----------
    url : str
        Such as ``gs://bucket/prefix``, ``abfs://container/prefix`` or ``sftp://host/folder``.
    storage_options : mapping, optional
        Keyword arguments of the URL's file system.
    verify : {"always", "never"}
        As of `FileStorage`.
    compression : {"auto", None} or dict
        As of `FileStorage`.

    Raises
    ------
    InvalidConfiguration
        If it is no URL, or an option is not one of those above.

    Examples
    --------
    >>> storage = FsspecStorage("memory://results")
    >>> storage.save("weather", "mean", 12.9)
    >>> storage.read_task("weather", "mean")
    12.9
    """

    def __init__(
        self,
        url: str,
        storage_options: Mapping[str, Any] | None = None,
        verify: Literal["always", "never"] = "always",
        compression: Compression = "auto",
    ) -> None:
        if not isinstance(url, str) or not url.partition("://")[2].strip("/"):
            raise InvalidConfiguration(f"the url of a storage is such as 'gs://bucket/prefix', not {url!r}")
        if storage_options is not None and not isinstance(storage_options, Mapping):
            raise InvalidConfiguration(f"the option 'storage_options' is a dictionary, not {storage_options!r}")
        options = checked_options(mmap=True, verify=verify, compression=compression, fsync=False)
        super().__init__(open_store(url, storage_options), "private", options)
