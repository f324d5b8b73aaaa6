"""The catalog of a storage on another machine of a Ray cluster: asked there, answered with Arrow tables."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from catalog import Catalog
from catalog.errors import CatalogUnusable
from catalog.index.engine import relation
from catalog.index.schema import SCHEMA_VERSION
from functionfuse import _ray
from functionfuse.errors import InfeasibleResources

_Method = TypeVar("_Method", bound=Callable[..., Any])

_NAMESPACE = "functionfuse"
_QUESTIONS = 4  # that are answered at once: a slow one holds nobody up
_RETRIES = 3
#: The options of remote functions that actors know, too.
_FOR_ACTORS = frozenset(
    {"accelerator_type", "label_selector", "memory", "num_cpus", "num_gpus", "resources", "runtime_env"}
    | {"scheduling_strategy"}
)


class Desk:
    """Answers the questions of all drivers to one catalog; an actor on the disk's node.

    Parameters
    ----------
    root : str
        The storage's folder.
    """

    def __init__(self, root: str) -> None:
        self._catalog = Catalog(root, must_exist=False)

    def ask(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the answer of a method of the catalog, to be `received`."""
        return sent(getattr(self._catalog, method)(*args, **kwargs))


def sent(answer: Any) -> Any:
    """Return what an answer is sent as: a relation as an Arrow table, all else as it is."""
    import duckdb

    return answer.to_arrow_table() if isinstance(answer, duckdb.DuckDBPyRelation) else answer


def received(answer: Any) -> Any:
    """Return the answer that was sent."""
    import pyarrow as pa

    return relation(answer) if isinstance(answer, pa.Table) else answer


def _at_the_desk(method: _Method) -> _Method:
    @functools.wraps(method)
    def ask(self: RayCatalog, *args: Any, **kwargs: Any) -> Any:
        return self._ask(method.__name__, args, kwargs)

    return ask  # type: ignore[return-value]  # it takes and returns what the method does


class RayCatalog(Catalog):
    """A catalog whose questions are answered on the node that owns the disk.

    Parameters
    ----------
    root : str
        The storage's folder there.
    options : mapping
        The remote arguments that lead there.
    connect : callable
        Connects this process to Ray, if it is not.
    """

    def __init__(self, root: str, options: Mapping[str, Any], connect: Callable[[], None]) -> None:
        self.path = root
        self._options = options
        self._connect = connect

    exists = _at_the_desk(Catalog.exists)
    refresh = _at_the_desk(Catalog.refresh)
    tasks = _at_the_desk(Catalog.tasks)
    events = _at_the_desk(Catalog.events)
    runs = _at_the_desk(Catalog.runs)
    task = _at_the_desk(Catalog.task)
    names = _at_the_desk(Catalog.names)
    sql = _at_the_desk(Catalog.sql)
    export = _at_the_desk(Catalog.export)
    compact = _at_the_desk(Catalog.compact)
    rebuild = _at_the_desk(Catalog.rebuild)
    expired = _at_the_desk(Catalog.expired)
    verify = _at_the_desk(Catalog.verify)
    _overview = _at_the_desk(Catalog._overview)

    def _ask(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._connect()
        try:
            return received(_ray.fetch(self._desk().ask.remote(method, args, kwargs), self._options))
        except InfeasibleResources as error:
            raise CatalogUnusable(f"the node that owns the disk of {self.path} is not there: {error}") from error

    def _desk(self) -> Any:
        """Return the desk: found by its name, begun by whoever asks first."""
        options = {name: value for name, value in self._options.items() if name in _FOR_ACTORS}
        where = hashlib.sha256(repr((self.path, SCHEMA_VERSION, sorted(options.items()))).encode()).hexdigest()
        return (
            _ray.remote(Desk)
            .options(
                **options,
                name=f"catalog-{where[:16]}",
                namespace=_NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                max_restarts=-1,
                max_task_retries=_RETRIES,
                max_concurrency=_QUESTIONS,
            )
            .remote(self.path)
        )
