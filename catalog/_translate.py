"""Errors at the catalog's edge: what the file system refuses is an error of the catalog."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, TypeVar

from catalog.errors import CatalogUnusable, FunctionFuseError, Refused

_Method = TypeVar("_Method", bound=Callable[..., Any])


def at_the_edge(method: _Method) -> _Method:
    """Let a method of the catalog raise `CatalogUnusable`, or `Refused`, in place of errors of the file system."""

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except FunctionFuseError:
            raise
        except OSError as error:
            where = f" ({os.fsdecode(error.filename)})" if isinstance(error.filename, (str, bytes)) else ""
            number = () if error.errno is None else (error.errno,)
            kind = Refused if isinstance(error, PermissionError) else CatalogUnusable
            said = f"the catalog of {self.path} cannot be used: {error.strerror or error}{where}"
            raise kind(*number, said) from error

    return call  # type: ignore[return-value]  # it takes and returns what the method does
