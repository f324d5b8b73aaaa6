"""Where a remote storage is, and the way to it that a process has."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from catalog.errors import CatalogUnusable
from catalog.store.bucket import Bucket
from catalog.store.filesystems import shared

_buckets: dict[Location, Bucket] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class Location:
    """A prefix, and how it is reached; can be pickled and sent to another process.

    Attributes
    ----------
    url : str
        Such as ``s3://bucket/prefix`` or ``gs://bucket/prefix``; without a slash at the end.
    options : mapping
        What the fsspec file system is made with: credentials, an endpoint.
    """

    url: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def of(cls, url: str, options: Mapping[str, Any] | None = None) -> Location:
        """Return the location of a URL, as every way of writing it gives it."""
        protocol, _, path = url.partition("://")
        protocol = protocol.lower()
        return cls(f"{'s3' if protocol == 's3a' else protocol}://{path.rstrip('/')}", dict(options or {}))

    def bucket(self) -> Bucket:
        """Return this process's way to it, the same one for every caller."""
        with _lock:
            bucket = _buckets.get(self)
            if bucket is None:
                bucket = _buckets[self] = _opened(self)
            return bucket


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path is a URL."""
    return isinstance(path, str) and "://" in path


def _opened(location: Location) -> Bucket:
    protocol, _, path = location.url.partition("://")
    if protocol == "s3":
        from catalog.store.bucket_s3 import S3Bucket

        return S3Bucket(location.options, path)
    from catalog.store.bucket_fsspec import FsspecBucket

    try:
        import fsspec

        made = {"auto_mkdir": True} if protocol in ("file", "local") else {}
        given = {**made, **location.options, "skip_instance_cache": protocol != "memory"}
        system = shared(protocol, given, lambda: fsspec.filesystem(protocol, **given))
    except (ImportError, ValueError, TypeError) as error:
        options = json.dumps(sorted(location.options))
        raise CatalogUnusable(f"{location.url} cannot be opened with the options {options}: {error}") from error
    return FsspecBucket(system, system._strip_protocol(location.url), location.url)


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    _buckets.clear()  # their connections and the thread that serves them are the parent's


os.register_at_fork(after_in_child=_after_fork)
