"""The exceptions of the catalog, and the base that they have in common with those of functionfuse.

CatalogError (FunctionFuseError)
├── NotABlob (ValueError)           bytes that do not end in a footer
├── DamagedFooter (ValueError)      a footer whose bytes are not those that were written
├── LongerFooter                    a footer of which only the end was given
├── NewerFormat (RuntimeError)      written by a newer version
├── InvalidQuestion (ValueError)    a filter, a date or an SQL text that cannot be answered
├── NoSuchTask (FileNotFoundError)  nothing is stored under a name
├── CatalogUnusable (OSError)       no storage there, or its catalog cannot be reached
│   └── Refused (PermissionError)   credentials or permissions do not suffice
└── ExportRefused (OSError)         an export that would go nowhere or over something
"""

from __future__ import annotations


class FunctionFuseError(Exception):
    """Base of every exception that functionfuse and its catalog raise by themselves."""


class CatalogError(FunctionFuseError):
    """Base of every exception that the catalog raises by itself."""


class NotABlob(CatalogError, ValueError):
    """The bytes do not end in a footer."""


class DamagedFooter(CatalogError, ValueError):
    """There is a footer, and it is not what was written."""


class LongerFooter(CatalogError):
    """More of a blob's end is needed to read its footer.

    Parameters
    ----------
    span : int
        How many bytes.
    """

    def __init__(self, span: int) -> None:
        super().__init__(span)
        self.span = span

    def __str__(self) -> str:
        return f"the footer has {self.span} bytes"


class NewerFormat(CatalogError, RuntimeError):
    """A blob, journal or storage was written by a newer version."""


class InvalidQuestion(CatalogError, ValueError):
    """A filter, a date or an SQL text cannot be answered."""


class NoSuchTask(CatalogError, FileNotFoundError):
    """Nothing is stored under these names."""


class ExportRefused(CatalogError, OSError):
    """An export's destination is missing, or there already."""


class CatalogUnusable(CatalogError, OSError):
    """There is no storage at that place, or its catalog cannot be reached.

    Attributes
    ----------
    tries : int
        How often it was tried.
    """

    tries = 1


class Refused(CatalogUnusable, PermissionError):
    """The place is there, and does not let this user do that."""
