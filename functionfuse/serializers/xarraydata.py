"""Xarray's datasets and arrays as Zarr groups, with coordinates and attributes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from functionfuse.serializers import _groups
from functionfuse.serializers._beside import is_importable, is_json
from functionfuse.serializers._computing import threads
from functionfuse.serializers._needed import TypeOf, needed
from functionfuse.serializers._sides import Sides, damage
from functionfuse.serializers.base import generate_name

_ONLY = "values"  # the variable of an array that has no name
_LONGEST = 255  # bytes of a file's name
# Of these attributes Xarray takes the values for coded, or writes them itself.
_CODED = {"_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned", "dtype", "coordinates", "calendar"}


class XarrayDatasetSerializer:
    """Writes an `xarray.Dataset` to a Zarr group.

    Notes
    -----
    What lay in Dask arrays is lazy when it is read, in the same chunks; what lay in
    memory is read at once. Every chunk has a CRC-32C. What Zarr does not give back
    as it was (objects, names that are no names of files) is pickled. Attributes and
    encodings come back as they were: Zarr has them as JSON, the pid as they are.
    """

    name = "XarrayDatasetSerializer"
    serializer_class: type = cast(type, TypeOf("xarray", "Dataset", "xarray"))

    @classmethod
    def pickle(cls, obj: Any, protocols: Mapping[str, Any]) -> tuple[str, Any] | None:
        """Write the dataset; decline what does not come back as it was."""
        pid = _write(obj, Sides(protocols))
        return None if pid is None else (cls.name, pid)

    @classmethod
    def unpickle(cls, pid: Any, protocols: Mapping[str, Any]) -> Any:
        """Return the dataset."""
        return _read(pid, Sides(protocols))

    @classmethod
    def remove(cls, pid: Any, protocols: Mapping[str, Any]) -> None:
        """Delete the group."""
        Sides(protocols).remove(pid["group"])


class XarrayArraySerializer(XarrayDatasetSerializer):
    """Writes an `xarray.DataArray` to a Zarr group; otherwise as `XarrayDatasetSerializer`."""

    name = "XarrayArraySerializer"
    serializer_class: type = cast(type, TypeOf("xarray", "DataArray", "xarray"))

    @classmethod
    def pickle(cls, obj: Any, protocols: Mapping[str, Any]) -> tuple[str, Any] | None:
        """Write the array; decline what does not come back as it was."""
        if obj.name is not None and type(obj.name) is not str:
            return None
        variable = obj.name or _ONLY
        if variable in obj.coords or variable in obj.dims:
            return None
        pid = _write(obj.to_dataset(name=variable), Sides(protocols))
        return None if pid is None else (cls.name, {**pid, "variable": variable, "name": obj.name})

    @classmethod
    def unpickle(cls, pid: Any, protocols: Mapping[str, Any]) -> Any:
        """Return the array."""
        return _read(pid, Sides(protocols))[pid["variable"]].rename(pid["name"])


def _write(dataset: Any, sides: Sides) -> dict[str, Any] | None:
    needed("zarr", "xarray")
    if not all(_has_dtype(variable.dtype) for variable in dataset.variables.values()):
        return None
    if not _are_files(dataset.variables) or any(type(name) is not str for name in dataset.sizes):
        return None
    beside = {
        "attrs": {name: dict(each.attrs) for name, each in _all(dataset) if each.attrs},
        "encoding": {name: dict(each.encoding) for name, each in _all(dataset) if each.encoding},
        "coords": list(dataset.coords),
    }
    if not is_importable(beside):
        return None
    chunks = {name: variable.chunks for name, variable in dataset.variables.items() if variable.chunks}
    group = generate_name() + ".zarr"
    dtypes = {name: str(each.dtype) for name, each in dataset.variables.items() if each.dtype.kind in "mMU"}
    pid: dict[str, Any] = {
        "group": group,
        "arrays": list(map(str, dataset.variables)),
        "chunks": chunks,
        "dtypes": dtypes,
        **beside,
    }
    try:
        plain = _with_shown_attrs(_with_strings(dataset).drop_encoding())
        with _groups.written(sides, group, "xarray") as store:
            _fill(store, plain, bool(chunks))
            pid["digest"] = _groups.digest(sides, group, pid["arrays"])
            if _structure(_read(pid, sides)) != _structure(dataset):
                raise ValueError("it does not come back as it was")
    except (TypeError, ValueError, NotImplementedError):  # of what Zarr cannot hold
        return None
    return pid


def _fill(store: Any, dataset: Any, is_lazy: bool) -> None:
    how = {"mode": "w", "consolidated": False, "zarr_format": 3, "write_empty_chunks": True}
    later = dataset.to_zarr(store, encoding=_encoding(dataset), compute=not is_lazy, **how)
    if not is_lazy:
        return
    dask = needed("dask", "xarray")
    if dask.base.get_scheduler() not in (None, dask.threaded.get):  # a cluster, or what else the user has chosen
        later.compute()
        return
    with threads() as options:
        later.compute(**options)


def _all(dataset: Any) -> Iterator[tuple[str | None, Any]]:
    """Yield all that has attributes, with its name: the dataset has none."""
    yield None, dataset
    yield from dataset.variables.items()


def _are_files(names: Iterable[Any]) -> bool:
    """Tell whether names can be those of folders in a group, on every file system."""
    found = [name.casefold() for name in names if type(name) is str and _is_file(name)]
    return len(set(found)) == len(list(names))


def _is_file(name: str) -> bool:
    is_plain = name.isprintable() and not set(name) & set("/\\") and not name.startswith((".", "__"))
    return is_plain and name != "zarr.json" and 0 < len(name.encode("utf-8", "surrogatepass")) <= _LONGEST


def _has_dtype(dtype: Any) -> bool:
    """Tell whether Zarr has a dtype: not those of pandas' extensions, of objects, bytes, records and longer steps."""
    import numpy as np

    if not isinstance(dtype, np.dtype) or dtype.hasobject or dtype.kind in "SV" or dtype.metadata:
        return False
    return dtype.kind not in "mM" or np.datetime_data(dtype)[1] == 1


def _with_strings(dataset: Any) -> Any:
    """Return a dataset whose texts have no fixed length: for that, Zarr has no specification."""
    texts = {name: each.astype(object) for name, each in dataset.variables.items() if each.dtype.kind == "U"}
    return dataset.assign({k: v for k, v in texts.items() if k not in dataset.coords}).assign_coords(
        {k: v for k, v in texts.items() if k in dataset.coords}
    )


def _with_shown_attrs(dataset: Any) -> Any:
    """Return a dataset with the attributes that JSON has and that change no values when they are read."""
    dataset = dataset.copy(deep=False)
    for _, each in _all(dataset):
        each.attrs = {key: shown for key, value in each.attrs.items() if (shown := _shown(key, value)) is not None}
    return dataset


def _shown(key: Any, value: Any) -> Any:
    plain = value.tolist() if type(value).__module__ == "numpy" else value
    return plain if type(key) is str and key not in _CODED and is_json(plain) else None


def _encoding(dataset: Any) -> dict[str, Any]:
    zarr = needed("zarr", "xarray")
    codecs = [zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()]
    return {name: _encoded(variable, codecs) for name, variable in dataset.variables.items()}


def _encoded(variable: Any, codecs: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"compressors": codecs}
    if variable.chunks:
        found["chunks"] = tuple(max(axis) for axis in variable.chunks)
    if variable.dtype.kind == "f":
        found["_FillValue"] = None  # NaN is a value
    return found


def _read(pid: Mapping[str, Any], sides: Sides) -> Any:
    xarray = needed("xarray", "xarray")
    _groups.check(sides, pid["group"], pid)
    with damage(pid["group"], Exception):
        store = _groups.store(sides, pid["group"], "xarray")
        _groups.check_all(needed("zarr", "xarray").open_group(store, mode="r"), pid["group"])
        found = xarray.open_zarr(store, consolidated=False, chunks=None)
        # By the names in the pid, not those that it found: of a folder that is being deleted, some.
        variables = {name: _restored(found[name].variable, name, pid) for name in pid["arrays"]}
        dataset = xarray.Dataset(variables, attrs=found.attrs).set_coords(pid.get("coords", list(found.coords)))
    if "attrs" not in pid:  # as the first versions had it
        return dataset.drop_encoding()
    for name, each in _all(dataset):
        each.attrs = dict(pid["attrs"].get(name, {}))
        each.encoding = dict(pid["encoding"].get(name, {}))
    return dataset


def _restored(variable: Any, name: str, pid: Mapping[str, Any]) -> Any:
    if name in pid["chunks"]:
        variable = variable.chunk(dict(zip(variable.dims, pid["chunks"][name], strict=True)))
    else:
        variable = variable.load()
    if name in pid["dtypes"]:  # times that were read are of nanoseconds, texts of any length
        variable = variable.astype(pid["dtypes"][name])
    return variable


def _structure(dataset: Any) -> list[Any]:
    """Return all of a dataset but its values, in its order, and without what the pid holds as it was."""
    variables = [(name, each.dims, each.shape, each.dtype, each.chunks) for name, each in dataset.variables.items()]
    return [variables, list(dataset.coords), list(dataset.sizes.items()), sorted(dataset.xindexes)]
