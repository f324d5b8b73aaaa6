"""The catalog of a storage: every result, found by SQL, by glob or by date."""

from catalog.catalog import Catalog

__all__ = ["Catalog"]
