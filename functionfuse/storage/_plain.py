"""Small results as what JSON can hold."""

from __future__ import annotations

import json
import math
from typing import Any

from catalog.names import to_text

#: Neither summary nor value is longer than this, in characters of JSON.
LONGEST = 4096
_MOST_ITEMS = 500

#: Writes it as it is kept.
to_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode


def not_finite(number: float) -> str:
    """Return what stands for a number that is none, or has no end."""
    # JSON has no such numbers; DuckDB casts these strings back to DOUBLE.
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


class NotPlain(Exception):
    """The object is not JSON-like, or too large."""


class Plain:
    """Turns a small nest of scalars, lists, tuples and dicts into what JSON can hold."""

    def __init__(self) -> None:
        self._left = _MOST_ITEMS

    def of(self, obj: Any) -> Any:
        """Return an object as JSON has it, or raise `NotPlain`."""
        self._left -= 1
        cls = type(obj)
        if self._left < 0:
            raise NotPlain
        if cls is dict:
            return {self._key(key): self.of(item) for key, item in obj.items()}
        if cls in (list, tuple):
            return [self.of(item) for item in obj]
        return self._scalar(obj, cls)

    def _key(self, key: Any) -> str:
        if type(key) is not str:
            raise NotPlain
        return to_text(key)

    def _scalar(self, obj: Any, cls: type) -> Any:
        if hasattr(cls, "item") and cls.__module__ == "numpy" and getattr(obj, "shape", None) == ():
            obj = obj.item()
            cls = type(obj)
        if cls is float:
            return obj if math.isfinite(obj) else not_finite(obj)
        if cls is str and len(obj) <= LONGEST:
            return to_text(obj)
        if cls is bool or obj is None or (cls is int and -(2**63) <= obj < 2**64):
            return obj
        raise NotPlain
