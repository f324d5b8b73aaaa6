"""The serializers that `register_default_serializers` registers, by name: to list them imports nothing."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from functionfuse.serializers.base import Serializer


@dataclass(frozen=True)
class Default:
    """A serializer of this package that is not imported yet.

    Attributes
    ----------
    name : str
        As it is recorded with the data.
    module, attribute : str
        Where the class is.
    library : str
        The module without which there are no objects of its type.
    needs : tuple of str
        The packages that have to be installed.
    """

    name: str
    module: str
    attribute: str
    library: str
    needs: tuple[str, ...]

    def load(self) -> type[Serializer]:
        """Return the class."""
        serializer: type[Serializer] = getattr(import_module(f"functionfuse.serializers.{self.module}"), self.attribute)
        return serializer


_DEFAULTS = (
    Default("HDFSerializer", "daskarray", "DaskArraySerializer", "dask.array.core", ("dask", "h5py")),
    Default("ZarrSerializer", "daskarray", "DaskZarrSerializer", "dask.array.core", ("dask", "zarr")),
    Default(
        *("DaskDataFrameSerializer", "daskdataframe", "DaskDataFrameSerializer", "dask.dataframe"),
        needs=("dask", "pandas"),
    ),
    Default("ArrowTableSerializer", "tables", "ArrowTableSerializer", "pyarrow", ("pyarrow",)),
    Default("ArrowBatchSerializer", "tables", "ArrowBatchSerializer", "pyarrow", ("pyarrow",)),
    Default("PandasFrameSerializer", "tables", "PandasFrameSerializer", "pandas", ("pandas",)),
    Default("PandasSeriesSerializer", "tables", "PandasSeriesSerializer", "pandas", ("pandas",)),
    Default("PolarsFrameSerializer", "tables", "PolarsFrameSerializer", "polars", ("polars",)),
    Default("PolarsSeriesSerializer", "tables", "PolarsSeriesSerializer", "polars", ("polars",)),
    Default("XarrayDatasetSerializer", "xarraydata", "XarrayDatasetSerializer", "xarray", ("xarray", "zarr")),
    Default("XarrayArraySerializer", "xarraydata", "XarrayArraySerializer", "xarray", ("xarray", "zarr")),
    Default("TorchSerializer", "torchtensor", "TorchSerializer", "torch", ("torch", "safetensors")),
    Default("TorchStateSerializer", "torchtensor", "TorchStateSerializer", "torch", ("torch", "safetensors")),
)


def installed_defaults() -> list[Default]:
    """Return those whose libraries are installed; of two for one type, the first is the one that writes."""
    return [default for default in _DEFAULTS if all(map(find_spec, default.needs))]
