"""Tables of Arrow, pandas and Polars as Parquet files, which SQL reads where they lie.

A table comes back exactly: types, index, metadata. Whether Parquet can hold one
exactly is tried on its first row; what does not come back as it was (mixed
columns, columns of one name, ...) is declined, and pickled.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, cast

from functionfuse.serializers import _beside, _parquet
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


class PandasFrameSerializer(_ParquetSerializer):
    """Writes a `pandas.DataFrame` to a Parquet file, with its index."""

    name = "PandasFrameSerializer"
    serializer_class: type = cast(type, TypeOf("pandas", "DataFrame", "pandas"))

    @classmethod
    def _fits(cls, obj: Any) -> bool:
        return bool(obj.shape[1]) and _has_plain_values(obj) and super()._fits(obj)

    @classmethod
    def _first(cls, obj: Any) -> Any:
        return obj.iloc[:1]

    @classmethod
    def _write(cls, obj: Any, file: Any) -> Any:
        import pyarrow as pa

        about = _beside.told(obj)
        _write_arrow(pa.Table.from_pandas(_beside.without(obj, about)), file)
        return about

    @classmethod
    def _read(cls, data: memoryview, about: Any) -> Any:
        frame = _read_arrow(data).to_pandas()
        if isinstance(about, str):  # as the first versions had it
            frame.index.freq = about
            return frame
        return _beside.restored(frame, about or {})

    @classmethod
    def _is_same(cls, found: Any, wanted: Any) -> bool:
        return _beside.structure(found) == _beside.structure(wanted)


def _has_plain_values(frame: Any) -> bool:
    """Tell whether Parquet would make no different values of a frame the same."""
    columns = [frame.iloc[:, number] for number in range(frame.shape[1])]
    levels = [frame.index.get_level_values(number) for number in range(frame.index.nlevels)]
    kept = getattr(frame.index, "levels", levels)  # with a missing value, integers would come out as floats
    is_kept = all(level.dtype == other.dtype for level, other in zip(levels, kept, strict=True))
    return is_kept and all(map(_is_plain, (*columns, *levels)))


def _is_plain(column: Any) -> bool:
    pandas = needed("pandas", "pandas")
    dtype = column.dtype
    if pandas.api.types.is_object_dtype(dtype):  # None and NaN, 1 and True, a text and an enum would be the same
        return set(map(type, column.array)) <= {str}
    if isinstance(dtype, pandas.StringDtype) and dtype.storage == "python":
        return set(map(type, column.array)) <= {str, float, type(pandas.NA)}
    if isinstance(dtype, pandas.CategoricalDtype):
        return _is_plain(dtype.categories)
    if isinstance(dtype, (pandas.Float32Dtype, pandas.Float64Dtype)):  # NaN would be missing
        values = column.to_numpy(dtype.numpy_dtype, na_value=0.0)
        return bool((values == values).all())
    return True


class PandasSeriesSerializer(_ParquetSerializer):
    """Writes a `pandas.Series` to a Parquet file, with its index."""

    name = "PandasSeriesSerializer"
    serializer_class: type = cast(type, TypeOf("pandas", "Series", "pandas"))

    @classmethod
    def _fits(cls, obj: Any) -> bool:
        return _has_plain_values(_as_frame(obj)) and super()._fits(obj)

    @classmethod
    def statistics(cls, pid: Any, protocols: Mapping[str, Any]) -> Statistics:
        """Return what the file's footer says of the series, and not of its index."""
        rows, columns = super().statistics(pid, protocols)
        name = _column(_series_about(pid["about"])[0])
        return Statistics(rows, {name: columns[name]} if name in columns else {})

    @classmethod
    def _first(cls, obj: Any) -> Any:
        return obj.iloc[:1]

    @classmethod
    def _write(cls, obj: Any, file: Any) -> Any:
        if not _beside.is_importable(obj.name):
            raise ValueError("the name is of a class of the script")
        return {"name": obj.name, "frame": PandasFrameSerializer._write(_as_frame(obj), file)}

    @classmethod
    def _read(cls, data: memoryview, about: Any) -> Any:
        name, beside = _series_about(about)
        frame = PandasFrameSerializer._read(data, beside)
        series = frame.iloc[:, 0].rename(name)
        series.attrs = frame.attrs
        series.flags.allows_duplicate_labels = frame.flags.allows_duplicate_labels
        return series

    @classmethod
    def _is_same(cls, found: Any, wanted: Any) -> bool:
        return _beside.structure(_as_frame(found)) == _beside.structure(_as_frame(wanted))


def _series_about(about: Any) -> tuple[Any, Any]:
    """Return the name of a series, and what stands beside its frame."""
    return (about["name"], about["frame"]) if isinstance(about, dict) else tuple(about)  # a list in the first versions


def _as_frame(series: Any) -> Any:
    frame = series.to_frame(_column(series.name))
    frame.attrs = series.attrs
    frame.flags.allows_duplicate_labels = series.flags.allows_duplicate_labels
    return frame


def _column(name: Any) -> str:
    return name if type(name) is str else "values"


# Polars


class PolarsFrameSerializer(_ParquetSerializer):
    """Writes a `polars.DataFrame` to a Parquet file.

    Notes
    -----
    Of integers of 128 bits other readers of Parquet know nothing, and refuse the whole
    file: they are written as decimals of 38 digits, or as text where they have more.
    """

    name = "PolarsFrameSerializer"
    serializer_class: type = cast(type, TypeOf("polars", "DataFrame", "polars"))

    @classmethod
    def statistics(cls, pid: Any, protocols: Mapping[str, Any]) -> Statistics:
        """Return what the file's footer says of the columns; numbers that are text have no order there."""
        rows, columns = super().statistics(pid, protocols)
        texts = (pid["about"] or {}).get("texts", ())
        return Statistics(rows, {name: found for name, found in columns.items() if name not in texts})

    @classmethod
    def _first(cls, obj: Any) -> Any:
        return obj.head(1)

    @classmethod
    def _write(cls, obj: Any, file: Any) -> Any:
        wide = {name: dtype for name, dtype in obj.schema.items() if _narrowed(dtype) != dtype}
        texts = []
        for name in wide:
            column, is_text = _narrow(obj.get_column(name))
            obj = obj.with_columns(column)
            texts += [name] if is_text else []
        obj.write_parquet(file, compression="zstd", statistics=True)
        return {"dtypes": wide, "texts": texts} if wide else None

    @classmethod
    def _read(cls, data: memoryview, about: Any) -> Any:
        frame = needed("polars", "polars").read_parquet(io.BytesIO(data))
        return frame.cast(about["dtypes"]) if about else frame

    @classmethod
    def _is_same(cls, found: Any, wanted: Any) -> bool:
        return bool(wanted.width) and bool(found.schema == wanted.schema and found.equals(wanted))


class PolarsSeriesSerializer(PolarsFrameSerializer):
    """Writes a `polars.Series` to a Parquet file of one column."""

    name = "PolarsSeriesSerializer"
    serializer_class: type = cast(type, TypeOf("polars", "Series", "polars"))

    @classmethod
    def _write(cls, obj: Any, file: Any) -> Any:
        return super()._write(obj.to_frame(), file)

    @classmethod
    def _read(cls, data: memoryview, about: Any) -> Any:
        return super()._read(data, about).to_series()

    @classmethod
    def _is_same(cls, found: Any, wanted: Any) -> bool:
        return super()._is_same(found.to_frame(), wanted.to_frame())


def _narrow(column: Any) -> tuple[Any, bool]:
    """Return a column without integers of 128 bits, and whether they are text now."""
    polars = needed("polars", "polars")
    try:
        return column.cast(_narrowed(column.dtype)), False
    except polars.exceptions.InvalidOperationError:  # one has 39 digits
        return column.cast(_narrowed(column.dtype, is_text=True)), True


def _narrowed(dtype: Any, *, is_text: bool = False) -> Any:
    """Return a type with decimals, or texts, in place of integers of 128 bits, at any depth."""
    polars = needed("polars", "polars")
    if str(dtype) in ("Int128", "UInt128"):  # which not every version has
        return polars.String() if is_text else polars.Decimal(38, 0)
    if isinstance(dtype, polars.List):
        return polars.List(_narrowed(dtype.inner, is_text=is_text))
    if isinstance(dtype, polars.Array):
        return polars.Array(_narrowed(dtype.inner, is_text=is_text), dtype.size)
    if isinstance(dtype, polars.Struct):
        return polars.Struct({field.name: _narrowed(field.dtype, is_text=is_text) for field in dtype.fields})
    return dtype
