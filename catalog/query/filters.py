"""The filters of questions: what each is called, takes and means, written once for all methods that have it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ForwardRef, TypedDict, TypeVar

from catalog.errors import InvalidQuestion
from catalog.format.names import to_text
from catalog.query.conditions import Conditions
from catalog.query.times import Moment, to_utc

_Method = TypeVar("_Method", bound=Callable[..., Any])


class Span(TypedDict, total=False):
    """When it happened: results were saved then, runs started.

    Attributes
    ----------
    since, until : datetime, date, str or numpy.datetime64, optional
        At or after `since` and before `until`. Strings are ISO 8601; times without a zone are local, those of pandas
        and NumPy too.
    """

    since: Moment | None
    until: Moment | None


class OfResults(Span, total=False):
    """What was saved or removed.

    Attributes
    ----------
    serializer : str, optional
        The name of a serializer that took part.
    type : str, optional
        A glob on the type of the result, such as ``"numpy.*"``.
    min_size, max_size : int, optional
        Bytes, both included.
    """

    serializer: str | None
    type: str | None
    min_size: int | None
    max_size: int | None


class Rows(TypedDict, total=False):
    """Which rows, in which order.

    Attributes
    ----------
    order_by : str, optional
        Columns separated by commas, with ``DESC`` where wanted; by default workflow and task of results, the order in
        which events happened, and when runs started.
    limit : int, optional
        The most rows.
    """

    order_by: str | None
    limit: int | None


class TaskFilters(OfResults, Rows, total=False):
    """The filters of `Catalog.tasks`, those of `OfResults` and `Rows` among them.

    Attributes
    ----------
    as_of : datetime, date, str or numpy.datetime64, optional
        The moment whose results are wanted, as far as journal and blobs tell: what was deleted or copied in by hand
        left no time but that of its save.
    """

    as_of: Moment | None


class EventFilters(OfResults, Rows, total=False):
    """The filters of `Catalog.events`, those of `OfResults` and `Rows` among them.

    Attributes
    ----------
    event : str
        A glob on the kind of event, such as ``"save"`` or ``"run-*"``.
    """

    event: str


class OfRuns(Span, total=False):
    """How it ran.

    Attributes
    ----------
    status, backend : str, optional
        Globs: ``"finished"``, ``"failed"``, ``"interrupted"``, ``"running"``; ``"local"``.
    """

    status: str | None
    backend: str | None


class RunFilters(OfRuns, Rows, total=False):
    """The filters of `Catalog.runs`: those of `OfRuns` and `Rows`."""


class ExportFilters(OfResults, OfRuns, total=False):
    """The filters of `Catalog.export`: those of the table's own question, but for the order and number of rows.

    Attributes
    ----------
    workflow, task, event : str
        Globs as in `fnmatch`, case-sensitive.
    """

    workflow: str
    task: str
    event: str


#: The column that `since` and `until` are about.
TIMES = {"tasks": "saved_at", "events": "time", "runs": "started"}
_ALWAYS = ("workflow", "task", "event")  # to leave none of them out is "*", not None
_GLOBS = (*_ALWAYS, "type", "status", "backend")
_RESULTS = ("workflow", "task", *OfResults.__annotations__)
_FILTERS = {"tasks": _RESULTS, "events": (*_RESULTS, "event"), "runs": ("workflow", *OfRuns.__annotations__)}


def takes(filters: type) -> Callable[[_Method], _Method]:
    """Let the signature of a method show the filters that it takes as keyword arguments.

    Parameters
    ----------
    filters : type
        One of the typed dictionaries above.

    Returns
    -------
    callable
        The decorator. What it returns raises `TypeError` for other keyword arguments.
    """

    def decorate(method: _Method) -> _Method:
        signature = _signature(method, filters)

        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            unknown = kwargs.keys() - signature.parameters.keys()
            if unknown:
                known = ", ".join(list(signature.parameters)[1:])
                raise TypeError(f"{method.__name__} takes no argument {min(unknown)!r}; it takes {known}")
            return method(*args, **kwargs)

        # What `inspect`, `help` and `typing.get_type_hints` look for.
        call.__signature__ = signature  # type: ignore[attr-defined]
        hints = {each.name: each.annotation for each in signature.parameters.values() if each.name != "self"}
        call.__annotations__ = {**hints, "return": signature.return_annotation}
        return call  # type: ignore[return-value]  # it takes and returns what the method does

    return decorate


def _signature(method: Callable[..., Any], filters: type) -> inspect.Signature:
    signature = inspect.signature(method)
    own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
    return signature.replace(parameters=[*own, *(_parameter(*each) for each in filters.__annotations__.items())])


def _parameter(name: str, annotation: ForwardRef | str) -> inspect.Parameter:
    text = annotation.__forward_arg__ if isinstance(annotation, ForwardRef) else annotation
    default = "*" if name in _ALWAYS else None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=text)


def given(table: str, filters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the filters that leave something out, each in its one form.

    Parameters
    ----------
    table : str
        ``tasks``, ``events`` or ``runs``.
    filters : dict
        By name; those that are None leave nothing out, nor do patterns that are ``"*"``.

    Returns
    -------
    dict
        JSON values: names as text, times as ISO 8601 in UTC.

    Raises
    ------
    InvalidQuestion
        If the table takes no such filter, or a time cannot be read.
    """
    found = {}
    for name, value in filters.items():
        if value is None or (name in _GLOBS and value == "*"):
            continue
        if name not in _FILTERS[table]:
            raise InvalidQuestion(f"{name}={value!r}: {table} takes no such filter; it takes {_listed(table)}")
        if name in ("since", "until"):
            value = to_utc(value, name).isoformat(timespec="microseconds").replace("+00:00", "Z")
        found[name] = to_text(value) if isinstance(value, str) else value
    return found


def conditions(table: str, filters: Mapping[str, Any]) -> Conditions:
    """Return filters as SQL conditions.

    Parameters
    ----------
    table : str
        ``tasks``, ``events`` or ``runs``.
    filters : mapping
        As the table's question takes them.

    Returns
    -------
    Conditions
        All of them.

    Raises
    ------
    InvalidQuestion
        If one cannot be understood.
    """
    wanted = Conditions()
    for name in _GLOBS:
        pattern = filters.get(name, "*")
        if pattern is not None or name in _ALWAYS:
            wanted.glob(name, pattern)
    wanted.between(TIMES[table], filters.get("since"), filters.get("until"))
    if (serializer := filters.get("serializer")) is not None:
        wanted.contains("serializers", serializer)
    wanted.within("size", filters.get("min_size"), filters.get("max_size"))
    return wanted


def _listed(table: str) -> str:
    return ", ".join(_FILTERS[table])
