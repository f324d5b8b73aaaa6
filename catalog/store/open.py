"""From a path or URL to the store there."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from catalog.errors import CatalogUnusable
from catalog.store.base import Store
from catalog.store.local import LocalStore

_lock = threading.Lock()


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

    Raises
    ------
    CatalogUnusable
        If there is no such file system, or it does not take the options.
    """
    if not is_url(path):
        return LocalStore(os.path.abspath(os.path.expanduser(os.fspath(path))))
    protocol, _, rest = str(path).partition("://")
    protocol = protocol.lower()
    url = f"{'s3' if protocol == 's3a' else protocol}://{rest.rstrip('/')}"
    key = _Key(url, dict(options or {}))
    with _lock:
        store = _stores.get(key)
        if store is None:
            store = _stores[key] = _opened(url, key.options)
        return store


def is_url(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path is a URL."""
    return isinstance(path, str) and "://" in path


@dataclass(frozen=True)
class _Key:
    url: str
    options: Mapping[str, Any] = field(hash=False)


_stores: dict[_Key, Store] = {}


def _opened(url: str, options: Mapping[str, Any]) -> Store:
    protocol, _, path = url.partition("://")
    if protocol == "s3":
        from catalog.store.s3 import S3Store

        return S3Store(path, options)
    from catalog.store.fsspec import FsspecStore

    try:
        return FsspecStore(url, options)
    except (ImportError, ValueError, TypeError) as error:
        given = json.dumps(sorted(options))
        raise CatalogUnusable(f"{url} cannot be opened with the options {given}: {error}") from error


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
