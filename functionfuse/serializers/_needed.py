"""Libraries that a serializer needs, imported when it is used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from functionfuse.errors import MissingDependency


def needed(module: str, extra: str) -> Any:
    """Return a module of an optional dependency.

    Raises
    ------
    MissingDependency
        If it is not installed; the message names the extra that brings it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        library = (error.name or module).partition(".")[0]
        message = f"{library} is not installed, which this serializer needs: pip install 'functionfuse[{extra}]'"
        raise MissingDependency(message) from error


class TypeOf:
    """The type that a serializer takes over, as a class attribute that imports its library when it is asked for.

    Parameters
    ----------
    module, name : str
        Where the type is.
    extra : str
        The extra that brings it.
    """

    def __init__(self, module: str, name: str, extra: str) -> None:
        self._module = module
        self._name = name
        self._extra = extra

    def __get__(self, _: object, __: type | None = None) -> type:
        found: type = getattr(needed(self._module, self._extra), self._name)
        return found
