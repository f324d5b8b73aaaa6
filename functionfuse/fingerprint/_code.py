"""The fingerprint of what a callable runs."""

from __future__ import annotations

import logging
from typing import Any

from functionfuse.fingerprint._closure import Closure, Code
from functionfuse.fingerprint._parts import root_of

_log = logging.getLogger("functionfuse.fingerprint")


def of_function(func: Any) -> str | None:
    """Return the fingerprint of the code that a callable runs.

    Parameters
    ----------
    func : callable
        A function, a class, a `functools.partial`, a bound method, an object
        with ``__call__``, or a wrapper with ``__wrapped__``.

    Returns
    -------
    str or None
        ``py3.11:<32 hex digits>``; bytecode is another one in every minor
        version of Python. None if there is no Python code, as in builtin
        functions, or if some part cannot be fingerprinted.

    Notes
    -----
    What counts is all that it reaches of the user's own code, in whatever
    module, and the values that this code holds:

    - functions, methods, classes with their bases and metaclasses, descriptors,
      decorators and what they wrap, partials, `functools.singledispatch` with all
      that is registered, functions in containers, objects with their class;
    - defaults, captured variables, globals, class attributes, by value. One that
      has no fingerprint, is larger than 64 MiB, or that the code itself assigns
      to, makes the whole unknown;
    - attributes of own modules, as in ``helpers.rmse(x)``. A module that a
      function imports when it is called counts by its file, with those that it
      imports in turn;
    - what dataclasses, attrs and pydantic read from annotations.

    Own code is what is neither in the standard library nor in an installed
    distribution; one that was installed from a folder is own. Other code counts
    by its name.

    What does not count: names and places of functions, names of local variables,
    comments, docstrings, annotations that nobody reads, line breaks, `pass`.

    What cannot be seen: names that are made up when the code runs, as in
    ``getattr(module, name)`` of a name that is computed, and `eval`.
    """
    code = code_of(func, Closure())
    return None if code is None else code.fingerprint


def code_of(func: Any, closure: Closure) -> Code | None:
    """Return what is known of the code that a callable runs.

    Parameters
    ----------
    func : callable
        As of `of_function`.
    closure : Closure
        What was reached before.

    Returns
    -------
    Code or None
        None if there is no Python code, or if nothing can be said of it.
    """
    try:
        return closure.code(root_of(closure, func))
    except Exception as error:  # whatever an object's own methods raise: no run fails for want of a fingerprint
        _log.debug("no fingerprint for a callable of type %s: %s", type(func), repr(error))
        return None
