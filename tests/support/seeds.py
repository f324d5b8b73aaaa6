"""Seeds of tests that do something at random for long."""

from __future__ import annotations

from collections.abc import Iterable

import pytest


def seeds(first: object, *others: object) -> Iterable[object]:
    """Return the seed, or the case, that `make test` runs, and those that `make soak` adds."""
    return [first, *(pytest.param(other, marks=pytest.mark.soak) for other in others)]
