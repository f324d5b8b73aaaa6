"""Warnings that are said each time: what is true of every run must not be silent from the second one on."""

from __future__ import annotations

import sys
import warnings

_PACKAGE = __name__.partition(".")[0]


def warn(message: str, category: type[Warning]) -> None:
    """Warn the caller of this package, even if the same was said before.

    `warnings.warn` leaves out what was said from the same line before: in a
    notebook or a loop, each run after the first one would go on silently.
    Filters count as ever: who ignores the warning, makes it
    an error, or wants it once, gets that.
    """
    frame = sys._getframe(1)
    while _is_ours(frame.f_globals.get("__name__")) and frame.f_back is not None:
        frame = frame.f_back
    module = frame.f_globals.get("__name__") or "<unknown>"
    warnings.warn_explicit(message, category, frame.f_code.co_filename, frame.f_lineno, module)


def _is_ours(module: object) -> bool:
    return isinstance(module, str) and module.partition(".")[0] == _PACKAGE
