"""What a node's function may return: a value, or a coroutine that comes to one, and no part of a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from functionfuse._arguments import references_in, role_of
from functionfuse._task import MethodCall
from functionfuse.backends._awaited import awaited, is_asynchronous
from functionfuse.errors import NestedCall


def checked(value: Any, function: Callable[..., Any]) -> Any:
    """Return what a function returned, awaited if it is a coroutine, if no node stands in it.

    Raises
    ------
    InvalidResult
        If it can neither be awaited nor is a value.
    NestedCall
        If it is a node, an item of one or a stand-in, or a builtin container that holds one at any depth.
    """
    kind: type = type(value)
    if is_asynchronous(kind):
        value = awaited(value, _name(function))
    # The type alone answers for nearly all values: they are no containers.
    if role_of(type(value)) and (found := references_in(value)):
        raise NestedCall(
            f"{_name(function)} returned {found[0]!r}, which nothing will run: inside a decorated function, the call "
            "of another one only makes a node. Call the plain function, as `add.__wrapped__(1, 2)` does for `add`, "
            "or make the node outside and hand it over as an argument"
        )
    return value


def _name(function: Callable[..., Any]) -> str:
    if isinstance(function, MethodCall):
        return f"the method {function.name!r}"
    return f"the function {getattr(function, '__qualname__', type(function).__qualname__)!r}"
