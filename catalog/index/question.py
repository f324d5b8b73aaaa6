"""A question of our own, as it is put to the index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Question:
    """SQL over the tables of an index.

    Attributes
    ----------
    sql : str
        One statement.
    parameters : list
        For its ``?``.
    """

    sql: str
    parameters: list[Any]
