"""What is said of stale results: one text of bounded length, however many there are."""

from __future__ import annotations

_CAUSES = 5  # that are named, those of most results first
_NAMES = 5  # that are named of each cause
_LONGEST = 300  # characters of a cause or a name


def stale_message(workflow_name: str, stale: dict[str, str]) -> str:
    """Return what is said of stale results, however many there are.

    Parameters
    ----------
    workflow_name : str
        Their workflow.
    stale : dict
        Why each is stale, by its name.
    """
    by_cause: dict[str, list[str]] = {}
    for name, cause in stale.items():
        by_cause.setdefault(cause, []).append(name)
    causes = sorted(by_cause.items(), key=lambda item: -len(item[1]))  # stable: in the order of the graph where alike
    listed = "; ".join(f"{_names(names)}: {_shortened(cause)}" for cause, names in causes[:_CAUSES])
    others = sum(len(names) for _, names in causes[_CAUSES:])
    more = f"; {others:,} more, for other reasons" if others else ""
    return (
        f"stored results of workflow {_shortened(workflow_name)!r} are not what their nodes would give now: "
        f"{listed}{more}. "
        "Compute them anew by on_stale='recompute' or run(recompute=...), or accept them by on_stale='ignore'"
    )


def _names(names: list[str]) -> str:
    shown = ", ".join(repr(_shortened(name)) for name in names[:_NAMES])
    return f"{shown} and {len(names) - _NAMES:,} more" if len(names) > _NAMES else shown


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
