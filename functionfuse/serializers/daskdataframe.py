"""Dask data frames: a Parquet file for each partition, lazy when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, cast

from functionfuse._progress import Counter
from functionfuse.errors import SideFileMissing, UnpicklableResult
from functionfuse.serializers import _parquet
from functionfuse.serializers._held import GONE, HeldSides
from functionfuse.serializers._needed import TypeOf, needed
from functionfuse.serializers._sides import Sides
from functionfuse.serializers.base import Statistics, generate_name
from functionfuse.serializers.tables import PandasFrameSerializer


class DaskDataFrameSerializer:
    """Writes the partitions of a Dask data frame to Parquet files.

    Notes
    -----
    Partitions are computed by the threads of this process, no more at once than
    there are threads. Those that come back are those that were saved, with their
    divisions. A partition is checked when it is read. Their files are kept open, so
    that the data frame outlives its result; other processes open them by path.
    """

    name = "DaskDataFrameSerializer"
    serializer_class: type = cast(type, TypeOf("dask.dataframe", "DataFrame", "dataframe"))

    @classmethod
    def pickle(cls, obj: Any, protocols: Mapping[str, Any]) -> tuple[str, Any]:
        """Compute partition by partition and write them.

        Returns
        -------
        tuple of (str, dict)
            This class's name, and where what was written is.

        Raises
        ------
        UnpicklableResult
            If a partition has what Parquet cannot hold exactly.
        """
        dask = needed("dask", "dataframe")
        with ExitStack() as undo:
            writer = _Writer(f"{generate_name()}.%06d.parquet", protocols)
            undo.callback(writer.remove)
            empty = writer.write(obj._meta, 0)
            with Counter(obj.npartitions, "Dask data frame") as counter:
                write = dask.delayed(writer.write, pure=False)
                steps = [write(part, number, counter) for number, part in enumerate(obj.to_delayed(), 1)]
                parts = dask.compute(*steps, scheduler="threads")
            undo.pop_all()
        return cls.name, {"empty": empty, "parts": list(parts), "divisions": obj.divisions}

    @classmethod
    def unpickle(cls, pid: Any, protocols: Mapping[str, Any]) -> Any:
        """Return a lazy data frame over the files."""
        frame = needed("dask.dataframe", "dataframe")
        empty = PandasFrameSerializer.unpickle(pid["empty"], protocols)
        sides = HeldSides(protocols, [part["file"] for part in pid["parts"]])
        with needed("dask", "dataframe").config.set({"dataframe.convert-string": False}):  # as saved
            return frame.from_map(_Reader(protocols, sides), pid["parts"], meta=empty, divisions=pid["divisions"])

    @classmethod
    def remove(cls, pid: Any, protocols: Mapping[str, Any]) -> None:
        """Delete the files."""
        for part in (pid["empty"], *pid["parts"]):
            PandasFrameSerializer.remove(part, protocols)

    @classmethod
    def statistics(cls, pid: Any, protocols: Mapping[str, Any]) -> Statistics:
        """Return what the footers of the files say of the columns."""
        return _parquet.statistics([part["file"] for part in pid["parts"]], protocols)


class _Writer:
    """Writes partitions, from several threads."""

    def __init__(self, pattern: str, protocols: Mapping[str, Any]) -> None:
        self._pattern = pattern
        self._protocols = protocols
        self._written: list[Any] = []

    def write(self, part: Any, number: int, counter: Counter | None = None) -> Any:
        pid = PandasFrameSerializer.write_as(self._pattern % number, part, self._protocols)
        if pid is None:
            raise UnpicklableResult(
                f"partition {number} of the Dask data frame has columns that Parquet cannot hold exactly "
                f"({dict(part.dtypes)}): give them other types, or names, or compute it"
            )
        self._written.append(pid)
        if counter is not None:
            counter.step()
        return pid

    def remove(self) -> None:
        for pid in self._written:
            PandasFrameSerializer.remove(pid, self._protocols)


class _Reader:
    """Reads one partition: from files that are kept open, in another process by their paths."""

    def __init__(self, protocols: Mapping[str, Any], sides: Sides) -> None:
        self._protocols = protocols
        self._sides = sides

    def __call__(self, part: Any) -> Any:
        try:
            return PandasFrameSerializer.read_from(self._sides, part)
        except SideFileMissing as error:
            raise SideFileMissing(f"{error}: {GONE}") from error

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self._protocols,)


def _again(protocols: Mapping[str, Any]) -> _Reader:
    return _Reader(protocols, Sides(protocols))
