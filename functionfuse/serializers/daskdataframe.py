"""Dask data frames: a Parquet file for each partition, lazy when they are read.

A partition that Parquet cannot hold exactly is a file with a pickle.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, cast

from functionfuse._progress import Counter
from functionfuse.errors import SideFileMissing, UnpicklableResult
from functionfuse.serializers import _parquet
from functionfuse.serializers._computing import threads
from functionfuse.serializers._held import GONE, HeldSides
from functionfuse.serializers._needed import TypeOf, needed
from functionfuse.serializers._sides import Sides
from functionfuse.serializers.base import Statistics, generate_name
from functionfuse.serializers.tables import PandasFrameSerializer


class DaskDataFrameSerializer:
    """Writes the partitions of a Dask data frame to Parquet files, or all that Parquet cannot hold to pickles.

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
            If a partition can neither be Parquet nor pickled.
        """
        dask = needed("dask", "dataframe")
        with ExitStack() as undo:
            writer = _Writer(generate_name(), protocols)
            undo.callback(writer.remove)
            empty = writer.write(obj._meta, 0)
            with Counter(obj.npartitions, "Dask data frame") as counter, threads() as how:
                write = dask.delayed(writer.write, pure=False)
                steps = [write(part, number, counter) for number, part in enumerate(obj.to_delayed(), 1)]
                parts = dask.compute(*steps, **how)
            undo.pop_all()
        return cls.name, {"empty": empty, "parts": list(parts), "divisions": obj.divisions}

    @classmethod
    def unpickle(cls, pid: Any, protocols: Mapping[str, Any]) -> Any:
        """Return a lazy data frame over the files."""
        frame = needed("dask.dataframe", "dataframe")
        empty = _read(Sides(protocols), pid["empty"])
        sides = HeldSides(protocols, [part["file"] for part in pid["parts"]])
        with needed("dask", "dataframe").config.set({"dataframe.convert-string": False}):  # as saved
            return frame.from_map(_Reader(protocols, sides), pid["parts"], meta=empty, divisions=pid["divisions"])

    @classmethod
    def remove(cls, pid: Any, protocols: Mapping[str, Any]) -> None:
        """Delete the files."""
        for part in (pid["empty"], *pid["parts"]):
            PandasFrameSerializer.remove(part, protocols)

    @classmethod
    def statistics(cls, pid: Any, protocols: Mapping[str, Any]) -> Statistics | None:
        """Return what the footers of the files say of the columns; None if some are no Parquet."""
        if any("pickle" in part for part in pid["parts"]):
            return None
        return _parquet.statistics([part["file"] for part in pid["parts"]], protocols)


class _Writer:
    """Writes partitions, from several threads."""

    def __init__(self, name: str, protocols: Mapping[str, Any]) -> None:
        self._name = name
        self._protocols = protocols
        self._written: list[Any] = []
        self._fits = True

    def write(self, part: Any, number: int, counter: Counter | None = None) -> Any:
        name = f"{self._name}.{number:06}"
        pid = PandasFrameSerializer.write_as(f"{name}.parquet", part, self._protocols) if self._fits else None
        if pid is None:
            self._fits = False  # nor will those that follow, and SQL could not read them without this one
            pid = self._pickled(f"{name}.pickle", part)
        self._written.append(pid)
        if counter is not None:
            counter.step()
        return pid

    def _pickled(self, name: str, part: Any) -> dict[str, Any]:
        with Sides(self._protocols).written(name) as file:
            try:
                file.write(_stream(part))
            except (pickle.PicklingError, TypeError, AttributeError, ValueError) as error:
                what = f"a partition of the Dask data frame ({dict(part.dtypes)})"
                raise UnpicklableResult(f"{what} can neither be Parquet nor pickled: {error}") from error
        return {"file": name, "checksum": file.checksum(), "pickle": True}

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
            return _read(self._sides, part)
        except SideFileMissing as error:
            raise SideFileMissing(f"{error}: {GONE}") from error

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self._protocols,)


def _stream(part: Any) -> bytes:
    """Return a frame as a pickle; what is of the script itself, which another process has not, by value."""
    stream = pickle.dumps(part, 5)
    if b"__main__" not in stream and b"__mp_main__" not in stream:
        return stream
    import cloudpickle

    return cast(bytes, cloudpickle.dumps(part, 5))


def _read(sides: Sides, part: Any) -> Any:
    if "pickle" not in part:
        return PandasFrameSerializer.read_from(sides, part)
    return pickle.loads(sides.checked(part["file"], part["checksum"]))


def _again(protocols: Mapping[str, Any]) -> _Reader:
    return _Reader(protocols, Sides(protocols))
