"""The catalog of a storage: every result, found by SQL, by glob or by date."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from catalog.catalog import Catalog

__all__ = ["Catalog"]


def __getattr__(name: str) -> Any:
    """Load the class when it is asked for: whoever needs the errors alone loads nothing else."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from catalog.catalog import Catalog

    return Catalog
