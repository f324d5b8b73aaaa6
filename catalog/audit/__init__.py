"""Exports to Parquet, and their verification by the files alone.

It imports `query`, `index` and what is below.
"""

from catalog.audit.audit import Audit, verify_exports

__all__ = ["Audit", "verify_exports"]
