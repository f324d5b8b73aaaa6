"""Storage in a bucket of S3, or of any service that speaks its protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from catalog.store.open import open_store
from functionfuse.errors import InvalidConfiguration
from functionfuse.storage._options import Compression, checked_options
from functionfuse.storage.base import Storage


class S3FileStorage(Storage):
    """Keeps each result as an object, ``<bucket>/<prefix>/<workflow>/<task>``.

    Parameters
    ----------
    path : str
        Bucket and prefix: ``/bucket/prefix``, ``bucket/prefix`` or ``s3://bucket/prefix``. The bucket has to be there.
    s3fs : mapping, optional
        Keyword arguments of `s3fs.S3FileSystem`: ``endpoint_url``, ``key``, ``secret``, ``anon``, ``profile``, ...
        Without them the environment and the profiles of AWS are asked.
    verify : {"always", "never"}
        As of `FileStorage`.
    compression : {"auto", None} or dict
        As of `FileStorage`.

    Raises
    ------
    InvalidConfiguration
        If the path names no bucket, or an option is not one of those above.

    Examples
    --------
    >>> storage = S3FileStorage("/results/spring", {"endpoint_url": "http://127.0.0.1:8333"})
    >>> storage
    S3FileStorage('s3://results/spring')
    """

    def __init__(
        self,
        path: str,
        s3fs: Mapping[str, Any] | None = None,
        verify: Literal["always", "never"] = "always",
        compression: Compression = "auto",
    ) -> None:
        if not isinstance(path, str) or not (place := path.partition("://")[2] if "://" in path else path).strip("/"):
            raise InvalidConfiguration(f"the path of a storage in S3 is '/bucket/prefix', not {path!r}")
        if s3fs is not None and not isinstance(s3fs, Mapping):
            raise InvalidConfiguration(f"the option 's3fs' is a dictionary of arguments of S3FileSystem, not {s3fs!r}")
        options = checked_options(mmap=True, verify=verify, compression=compression, fsync=False)
        super().__init__(open_store(f"s3://{place.strip('/')}", s3fs), "private", options)
