"""Errors at the storage's edge: what went wrong, for which task, and the remedy."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable
from typing import Any, TypeVar

from catalog.errors import CatalogUnusable, NewerFormat
from functionfuse.errors import (
    FunctionFuseError,
    InvalidPickle,
    SideFileMissing,
    StorageError,
    StorageUnusable,
    UnpicklableResult,
    UnreadableResult,
    UnsupportedFormat,
)

_Method = TypeVar("_Method", bound=Callable[..., Any])

#: What may go wrong below the edge.
EDGE = (StorageError, OSError, NewerFormat)

_REMEDIES: dict[type[StorageError], str] = {
    InvalidPickle: "; remove the task, and the next run computes it again",
    SideFileMissing: "; remove the task, and the next run computes it again",
    UnreadableResult: (
        "; make what it refers to importable as it was when it was saved, or remove the task: "
        "the next run computes it again, as does one with on_stale='recompute'"
    ),
    UnpicklableResult: "; return something else or register a serializer for it; what was stored before is intact",
}
_REMEDIES_BY_NUMBER = {
    errno.ENOSPC: "; nothing was published, what was stored before is intact: free some space and save again",
    errno.EDQUOT: "; nothing was published, what was stored before is intact: free some space and save again",
    errno.EACCES: "; check who owns the storage's folder",
    errno.EROFS: "; the storage's folder is read-only here",
    errno.ENOTDIR: "; a file lies where a folder is needed: move it away, or choose another path",
    errno.EISDIR: "; a folder lies where the result's file belongs: move it away",
    errno.EMFILE: "; the process holds too many open files: raise its limit (ulimit -n)",
}


def named(error: StorageError | OSError | NewerFormat, workflow_name: str, task_name: str) -> StorageError:
    """Return an error that names workflow and task; those of the file system are translated here."""
    place = f"task {task_name!r} of workflow {workflow_name!r}"
    if isinstance(error, NewerFormat):
        return UnsupportedFormat(f"{place}: {error}")
    if isinstance(error, (StorageUnusable, CatalogUnusable)):
        return StorageUnusable(error.errno, f"{place}: {error.strerror or error}")
    if isinstance(error, StorageError):
        return type(error)(f"{place}: {error}{_REMEDIES.get(type(error), '')}")
    return StorageUnusable(error.errno, f"{place}: {_described(error)}")


def at_the_edge(method: _Method) -> _Method:
    """Let a method of a storage raise the storage's errors in place of those of the catalog and the file system."""

    @functools.wraps(method)
    def call(self: object, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except NewerFormat as error:
            raise UnsupportedFormat(str(error)) from error
        except CatalogUnusable as error:
            raise StorageUnusable(error.errno, f"{self!r}: {error.strerror or error}") from error
        except FunctionFuseError:
            raise
        except OSError as error:
            raise StorageUnusable(error.errno, f"{self!r}: {_described(error)}") from error

    return call  # type: ignore[return-value]  # it takes and returns what the method does


def _described(error: OSError) -> str:
    where = f" ({os.fsdecode(error.filename)})" if isinstance(error.filename, (str, bytes)) else ""
    return f"{error.strerror or error}{where}{_REMEDIES_BY_NUMBER.get(error.errno or 0, '')}"
