"""Tables of Arrow, pandas and Polars as Parquet files, which SQL reads where they lie.

A table comes back exactly: types, index, metadata. Whether Parquet can hold one
exactly is tried on its first row; what does not come back as it was (mixed
columns, columns of one name, ...) is declined, and pickled.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, cast

from functionfuse.serializers import _parquet
from functionfuse.serializers._needed import TypeOf, needed
from functionfuse.serializers._sides import Sides, damage
from functionfuse.serializers.base import Statistics, generate_name


class _ParquetSerializer:
    """What the serializers of tables share: a subclass writes and reads one type."""

    name: str
    serializer_class: type

    @classmethod
    def pickle(cls, obj: Any, protocols: Mapping[str, Any]) -> tuple[str, Any] | None:
        """Write the table to a Parquet file, or decline."""
        pid = cls.write_as(generate_name() + ".parquet", obj, protocols)
        return None if pid is None else (cls.name, pid)

    @classmethod
    def write_as(cls, name: str, obj: Any, protocols: Mapping[str, Any]) -> dict[str, Any] | None:
        """Write the table to a Parquet file of that name and return the pid; None if it does not fit."""
        if not cls._fits(obj):
            return None
        try:
            with Sides(protocols).written(name) as file:
                about = cls._write(obj, file)
        except (OSError, MemoryError):
            raise
        except Exception:  # a row after the first does not fit
            return None
        return {"file": name, "checksum": file.checksum(), "about": about}

    @classmethod
    def unpickle(cls, pid: Any, protocols: Mapping[str, Any]) -> Any:
        """Read the table; all its bytes are checked first."""
        return cls.read_from(Sides(protocols), pid)

    @classmethod
    def read_from(cls, sides: Sides, pid: Any) -> Any:
        """Read the table from where the side files are."""
        data = sides.checked(pid["file"], pid["checksum"])
        with damage(pid["file"], Exception):
            return cls._read(data, pid["about"])

    @classmethod
    def remove(cls, pid: Any, protocols: Mapping[str, Any]) -> None:
        """Delete the file."""
        Sides(protocols).remove(pid["file"])

    @classmethod
    def statistics(cls, pid: Any, protocols: Mapping[str, Any]) -> Statistics:
        """Return what the file's footer says of the columns."""
        return _parquet.statistics([pid["file"]], protocols)

    @classmethod
    def _fits(cls, obj: Any) -> bool:
        """Tell whether Parquet holds this exactly, as far as the first row shows."""
        try:
            first = cls._first(obj)
            file = io.BytesIO()
            about = cls._write(first, file)
            return cls._is_same(cls._read(memoryview(file.getvalue()), about), first)
        except Exception:  # a library says so in its own way
            return False

    @classmethod
    def _first(cls, obj: Any) -> Any:
        """Return the first row."""
        raise NotImplementedError

    @classmethod
    def _write(cls, obj: Any, file: Any) -> Any:
        """Write Parquet to a file and return what it does not tell."""
        raise NotImplementedError

    @classmethod
    def _read(cls, data: memoryview, about: Any) -> Any:
        """Return what `_write` wrote."""
        raise NotImplementedError

    @classmethod
    def _is_same(cls, found: Any, wanted: Any) -> bool:
        """Tell whether a first row came back as it was."""
        raise NotImplementedError


def _write_arrow(table: Any, file: Any) -> None:
    import pyarrow.parquet as pq

    table.validate(full=True)  # Parquet keeps the days alone of a date64 with a time of day, which is not valid
    pq.write_table(table, file, compression="zstd", write_page_checksum=True)


def _read_arrow(data: memoryview) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pq.read_table(pa.BufferReader(pa.py_buffer(data)))


# Arrow


class ArrowTableSerializer(_ParquetSerializer):
    """Writes a `pyarrow.Table` to a Parquet file."""

    name = "ArrowTableSerializer"
    serializer_class: type = cast(type, TypeOf("pyarrow", "Table", "arrow"))

    @classmethod
    def _first(cls, obj: Any) -> Any:
        return obj.slice(0, 1)

    @classmethod
    def _write(cls, obj: Any, file: Any) -> Any:
        _write_arrow(obj, file)
        return obj.schema.serialize().to_pybytes()

    @classmethod
    def _read(cls, data: memoryview, about: Any) -> Any:
        import pyarrow as pa

        schema = pa.ipc.read_schema(pa.py_buffer(about))
        table = _read_arrow(data)
        return table if table.schema.equals(schema, check_metadata=True) else table.cast(schema)

    @classmethod
    def _is_same(cls, found: Any, wanted: Any) -> bool:
        is_same = found.num_rows == wanted.num_rows and found.schema.equals(wanted.schema, check_metadata=True)
        return bool(wanted.num_columns) and bool(is_same)


class ArrowBatchSerializer(ArrowTableSerializer):
    """Writes a `pyarrow.RecordBatch` to a Parquet file."""

    name = "ArrowBatchSerializer"
    serializer_class: type = cast(type, TypeOf("pyarrow", "RecordBatch", "arrow"))

    @classmethod
    def _write(cls, obj: Any, file: Any) -> Any:
        import pyarrow as pa

        return super()._write(pa.Table.from_batches([obj]), file)

    @classmethod
    def _read(cls, data: memoryview, about: Any) -> Any:
        import pyarrow as pa

        table = super()._read(data, about)
        columns = [pa.concat_arrays(c.chunks) if c.num_chunks else pa.array([], c.type) for c in table.columns]
        return pa.RecordBatch.from_arrays(columns, schema=table.schema)


# pandas

_ARROW_TEXT = "string[pyarrow]"
_INDEX = -1  # its number among the columns


class PandasFrameSerializer(_ParquetSerializer):
    """Writes a `pandas.DataFrame` to a Parquet file, with its index."""

    name = "PandasFrameSerializer"
    serializer_class: type = cast(type, TypeOf("pandas", "DataFrame", "pandas"))

    @classmethod
    def _fits(cls, obj: Any) -> bool:
        return _has_plain_values(obj) and super()._fits(obj)

    @classmethod
    def _first(cls, obj: Any) -> Any:
        return obj.iloc[:1]

    @classmethod
    def _write(cls, obj: Any, file: Any) -> Any:
        import pyarrow as pa

        _write_arrow(pa.Table.from_pandas(obj), file)
        frequency, texts = _frequency(obj.index), _arrow_texts(obj)
        return {"frequency": frequency, "arrow_texts": texts} if texts else frequency

    @classmethod
    def _read(cls, data: memoryview, about: Any) -> Any:
        frame = _read_arrow(data).to_pandas()
        found = about if isinstance(about, dict) else {"frequency": about, "arrow_texts": []}
        for number in found["arrow_texts"]:
            if number == _INDEX:
                frame.index = frame.index.astype(_ARROW_TEXT)
            else:
                frame.isetitem(number, frame.iloc[:, number].astype(_ARROW_TEXT))
        if found["frequency"] is not None:
            frame.index.freq = found["frequency"]
        return frame

    @classmethod
    def _is_same(cls, found: Any, wanted: Any) -> bool:
        return _structure(found) == _structure(wanted)


def _has_plain_values(frame: Any) -> bool:
    """Tell whether Parquet would make no different values of a frame, or names of its index, the same."""
    columns = [frame.iloc[:, number] for number in range(frame.shape[1])]
    levels = [frame.index.get_level_values(number) for number in range(frame.index.nlevels)]
    kept = getattr(frame.index, "levels", levels)  # with a missing value, integers would come out as floats
    is_kept = all(level.dtype == other.dtype for level, other in zip(levels, kept, strict=True))
    is_named = all(name is None or type(name) is str for name in frame.index.names)
    return is_named and is_kept and all(map(_is_plain, (*columns, *levels)))


def _is_plain(column: Any) -> bool:
    pandas = needed("pandas", "pandas")
    if pandas.api.types.is_object_dtype(column.dtype):  # None and NaN, 1 and True would be the same
        return pandas.api.types.infer_dtype(column, skipna=False) in ("string", "empty")
    if isinstance(column.dtype, (pandas.Float32Dtype, pandas.Float64Dtype)):  # NaN would be missing
        values = column.to_numpy(column.dtype.numpy_dtype, na_value=0.0)
        return bool((values == values).all())
    return True


def _arrow_texts(frame: Any) -> list[int]:
    """Return the numbers of the columns of text that Arrow holds: PyArrow notes only that they are text.

    Before pandas 3 they would come back as text that Python holds, and Dask makes all its texts such.
    """
    arrow = needed("pandas", "pandas").StringDtype("pyarrow")
    dtypes = {**dict(enumerate(frame.dtypes)), _INDEX: frame.index.dtype}
    return [number for number, dtype in dtypes.items() if dtype == arrow]


def _frequency(index: Any) -> str | None:
    """Return the name of an index's frequency; an error if the same index would not take it again."""
    frequency = getattr(index, "freq", None)
    if frequency is None or index.dtype.kind == "O":
        return None
    name = str(frequency.freqstr)
    again = index[:]
    again.freq = None
    again.freq = name
    return name


def _structure(frame: Any) -> list[Any]:
    """Return all of a data frame but its values."""
    index, columns = frame.index, frame.columns
    levels = [index.get_level_values(number) for number in range(index.nlevels)]
    return [
        [type(index), index.names, [level.dtype for level in levels], getattr(index, "freq", None)],
        [type(columns), columns.names, columns.dtype, list(columns), [type(name) for name in columns]],
        getattr(columns, "freq", None),
        [list(frame.dtypes), [repr(dtype) for dtype in frame.dtypes]],
        [frame.attrs, frame.flags.allows_duplicate_labels, frame.shape],
    ]


class PandasSeriesSerializer(_ParquetSerializer):
    """Writes a `pandas.Series` to a Parquet file, with its index."""

    name = "PandasSeriesSerializer"
    serializer_class: type = cast(type, TypeOf("pandas", "Series", "pandas"))

    @classmethod
    def _fits(cls, obj: Any) -> bool:
        is_plain = obj.name is None or type(obj.name) in (str, int)
        return is_plain and _has_plain_values(_as_frame(obj)) and super()._fits(obj)

    @classmethod
    def statistics(cls, pid: Any, protocols: Mapping[str, Any]) -> Statistics:
        """Return what the file's footer says of the series, and not of its index."""
        rows, columns = super().statistics(pid, protocols)
        name = _column(pid["about"][0])
        return Statistics(rows, {name: columns[name]} if name in columns else {})

    @classmethod
    def _first(cls, obj: Any) -> Any:
        return obj.iloc[:1]

    @classmethod
    def _write(cls, obj: Any, file: Any) -> Any:
        return [obj.name, PandasFrameSerializer._write(_as_frame(obj), file)]

    @classmethod
    def _read(cls, data: memoryview, about: Any) -> Any:
        series = PandasFrameSerializer._read(data, about[1]).iloc[:, 0]
        return series.rename(about[0])

    @classmethod
    def _is_same(cls, found: Any, wanted: Any) -> bool:
        return not wanted.attrs and _structure(_as_frame(found)) == _structure(_as_frame(wanted))


def _as_frame(series: Any) -> Any:
    return series.to_frame(_column(series.name))


def _column(name: Any) -> str:
    return name if type(name) is str else "values"


# Polars


class PolarsFrameSerializer(_ParquetSerializer):
    """Writes a `polars.DataFrame` to a Parquet file."""

    name = "PolarsFrameSerializer"
    serializer_class: type = cast(type, TypeOf("polars", "DataFrame", "polars"))

    @classmethod
    def _first(cls, obj: Any) -> Any:
        return obj.head(1)

    @classmethod
    def _write(cls, obj: Any, file: Any) -> Any:
        obj.write_parquet(file, compression="zstd", statistics=True)

    @classmethod
    def _read(cls, data: memoryview, about: Any) -> Any:
        return needed("polars", "polars").read_parquet(io.BytesIO(data))

    @classmethod
    def _is_same(cls, found: Any, wanted: Any) -> bool:
        return bool(wanted.width) and bool(found.schema == wanted.schema and found.equals(wanted))


class PolarsSeriesSerializer(PolarsFrameSerializer):
    """Writes a `polars.Series` to a Parquet file of one column."""

    name = "PolarsSeriesSerializer"
    serializer_class: type = cast(type, TypeOf("polars", "Series", "polars"))

    @classmethod
    def _write(cls, obj: Any, file: Any) -> Any:
        super()._write(obj.to_frame(), file)

    @classmethod
    def _read(cls, data: memoryview, about: Any) -> Any:
        return super()._read(data, about).to_series()

    @classmethod
    def _is_same(cls, found: Any, wanted: Any) -> bool:
        return super()._is_same(found.to_frame(), wanted.to_frame())
