"""From a path or URL to the store there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from catalog.store.base import Store
from catalog.store.local import LocalStore


def open_store(path: str | os.PathLike[str], options: Mapping[str, Any] | None = None) -> Store:
    """Return the store in a folder, or under a URL.

    Parameters
    ----------
    path : str or path-like
        A folder, or a URL such as ``s3://bucket/prefix`` or ``gs://bucket/prefix``.
    options : mapping, optional
        Keyword arguments of the URL's file system: credentials, an endpoint.

    Returns
    -------
    Store
        Nothing is asked of it yet. Of a URL, this process has one for the same options.
    """
    if not is_url(path):
        return LocalStore(os.path.abspath(os.path.expanduser(os.fspath(path))))
    protocol, _, rest = str(path).partition("://")
    protocol = protocol.lower()
    url = f"{'s3' if protocol == 's3a' else protocol}://{rest.rstrip('/')}"
    return _opened(url, dict(options or {}))


def is_url(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path is a URL."""
    return isinstance(path, str) and "://" in path


def _opened(url: str, options: Mapping[str, Any]) -> Store:
    from catalog.store.objects import shared_store

    if url.startswith("s3://"):
        from catalog.store.s3 import S3Store

        return shared_store(S3Store, url, options)
    from catalog.store.fsspec import FsspecStore

    return shared_store(FsspecStore, url, options)
