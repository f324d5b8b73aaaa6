"""What a verification found: the report and its findings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    Attributes
    ----------
    workflow : str
        Name of the workflow.
    task : str or None
        Name of the task; None for what belongs to none.
    path : str
        Where it is, or should be, relative to the storage's folder.
    reason : str
        What is wrong.
    perhaps_in_use : bool
        Whether it may belong to a save that is running: side files that changed within the last hour.
    done : str
        What the repair did about it; empty if nothing.
    """

    workflow: str
    task: str | None
    path: str
    reason: str
    perhaps_in_use: bool = False
    done: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" + (f" ({self.done})" if self.done else "")


@dataclass(frozen=True)
class Verification:
    """What was found when blobs, side files and catalog were held against one another.

    Attributes
    ----------
    workflows, results, side_files : int
        How many were looked at.
    size : int
        Bytes that were read and checked, of blobs and side files.
    unhashed : int
        Side files that have no digest, of which only the size was checked: of blobs of formats 1 and 2, and what a
        serializer wrote to a bucket past this package.
    torn : int
        Lines of the journal that are no events: torn by a crash, or damaged. They are left out, and no fault of the
        results.
    missing : tuple of Finding
        Results that were saved and never removed, and whose file is gone.
    unlisted : tuple of Finding
        Results that the catalog does not list, or not with the blob that is there.
    damaged : tuple of Finding
        Files whose bytes are not those that were saved, side files too: then the result is damaged.
    lost : tuple of Finding
        Side files that a result declares and that are gone, or have another size.
    orphans : tuple of Finding
        Side files that no result declares.
    unchecked : tuple of Finding
        Results that a newer version wrote, or that may not be read.
    strangers : tuple of Finding
        Files that are no results. They are no fault.
    repaired : bool
        Whether a repair was asked for.
    """

    workflows: int
    results: int
    side_files: int
    size: int
    unhashed: int = 0
    torn: int = 0
    missing: tuple[Finding, ...] = ()
    unlisted: tuple[Finding, ...] = ()
    damaged: tuple[Finding, ...] = ()
    lost: tuple[Finding, ...] = ()
    orphans: tuple[Finding, ...] = ()
    unchecked: tuple[Finding, ...] = ()
    strangers: tuple[Finding, ...] = ()
    repaired: bool = False

    @property
    def ok(self) -> bool:
        """Whether everything was as it should be; neither strangers nor what may be in use count against it."""
        faults = (*self.missing, *self.unlisted, *self.damaged, *self.lost, *self.orphans, *self.unchecked)
        return all(fault.perhaps_in_use for fault in faults)

    def __str__(self) -> str:
        counted = f"{_counted(self.results, 'result')} in {_counted(self.workflows, 'workflow')}, "
        counted += _counted(self.side_files, "side file")
        counted += f" ({self.unhashed} without a digest)" if self.unhashed else ""
        lines = [f"{'ok' if self.ok else 'faults found'}: {counted}, {_counted(self.size, 'byte')} read"]
        lines += [f"lines of the journal that are no events: {self.torn}"] if self.torn else []
        for kind in KINDS:
            findings: tuple[Finding, ...] = getattr(self, kind)
            lines += [f"{kind}: {len(findings)}"] if findings else []
            lines += [f"  {finding}" for finding in findings]
        return "\n".join(lines)


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


#: The kinds of findings, in the order in which they are told.
KINDS = tuple(field.name for field in fields(Verification) if "Finding" in str(field.type))


def report(counts: dict[str, int], findings: Iterable[tuple[str, Finding]], repaired: bool) -> Verification:
    """Return the report of findings, each with its kind; within a kind they are sorted by their place."""
    by_place = sorted(findings, key=lambda found: (found[1].path, found[1].reason))
    content: dict[str, Any] = {kind: tuple(each for its, each in by_place if its == kind) for kind in KINDS}
    return Verification(**(content | counts), repaired=repaired)


class Row(NamedTuple):
    """What the catalog says of a result."""

    blob_id: str | None
    size: int | None
    checksum: str | None


@dataclass(frozen=True)
class Suspicion:
    """A finding, until it is confirmed.

    Attributes
    ----------
    kind : str
        One of `catalog.verify.report.KINDS`, or "differing": damaged, unless it is the index that is wrong.
    finding : Finding
        What would be reported.
    at : str
        Where one has to look again.
    row : Row or None
        What the catalog says.
    tag : str or None
        The file that was looked at.
    """

    kind: str
    finding: Finding
    at: str
    row: Row | None = None
    tag: str | None = None
