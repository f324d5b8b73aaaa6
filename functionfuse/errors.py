"""The exceptions of functionfuse, cut by what a handler would do about them.

FunctionFuseError
├── InvalidArgument (ValueError, TypeError)   what a function or method does not take
├── WorkflowError                      the graph or the run is at fault
│   ├── InvalidName (ValueError)       a name that is empty or no string
│   ├── DuplicateName (ValueError)     two nodes of one graph share a name
│   ├── CyclicGraph (ValueError)       a node needs its own result
│   ├── InvalidLeaf (TypeError)        a leaf that is no node, or no leaf at all
│   ├── InvalidResult (TypeError)      what a function returned is no result, but the promise of one
│   ├── NestedCall (TypeError)         a decorated function returned a node instead of a value
│   ├── NoSuchNode (LookupError)       a pattern that no node's name matches
│   ├── NotRun (RuntimeError)          the result of a node that no run has reached
│   ├── StaleResult (RuntimeError)     a stored result is older than its code or inputs (on_stale="error")
│   ├── InputChanged (RuntimeError)    a file was another one when the node started than when the run was planned
│   └── InfeasibleResources (RuntimeError)  no node of the cluster can ever run it
├── StorageError                       a result could not be kept or given back
│   ├── InvalidConfiguration (ValueError)   unknown kind or option
│   ├── StorageUnusable (OSError)      the place is no folder, not writable, or full
│   ├── TaskNotFound (FileNotFoundError)    a miss: nothing is stored under that name
│   ├── UnpicklableResult (TypeError)  a result that cannot become bytes
│   ├── SerializerNotRegistered (LookupError)   the result needs a serializer that this storage lacks
│   ├── UnsupportedFormat (RuntimeError)    written by a newer functionfuse
│   └── DamagedResult (ValueError)     there is a result, and it is broken
│       ├── InvalidPickle              the blob's bytes are not what was saved
│       ├── UnreadableResult           they are, but no object can be made of them: its class is gone, say
│       └── SideFileMissing            a file that the blob declares is gone
├── MissingDependency (ImportError)    an extra is not installed
└── catalog.errors.CatalogError        a question could not be answered; its tree is in that module

LazyResultWarning (UserWarning)        what was saved is a recipe, which may give something else when it is computed
StaleResultWarning (UserWarning)       the same as StaleResult, where the result is handed back (on_stale="warn")
ChangedResultWarning (UserWarning)     a node changed the result of another one in place

Every class also inherits the builtin that callers already catch. A miss, a
damage and a refusal never share a class: ``except FileNotFoundError`` catches
`TaskNotFound` alone. The catalog is usable alone, and so it has the base.
"""

from __future__ import annotations

from functionfuse._catalog_package import require_installed_catalog

require_installed_catalog()  # whatever is imported of functionfuse, its `__init__` imports this module first

# Only now is it known which module that is.
from catalog.errors import FunctionFuseError as FunctionFuseError  # noqa: E402


class InvalidArgument(FunctionFuseError, ValueError, TypeError):
    """A function or method was called with what it does not take."""


class WorkflowError(FunctionFuseError):
    """The graph or its run is at fault."""


class InvalidName(WorkflowError, ValueError):
    """A workflow, task or node name is empty or not a string."""


class DuplicateName(WorkflowError, ValueError):
    """Two nodes of one graph have the same name."""


class CyclicGraph(WorkflowError, ValueError):
    """A node needs, directly or through others, its own result."""


class InvalidLeaf(WorkflowError, TypeError):
    """A leaf is not a node of a workflow, or there is no leaf."""


class NestedCall(WorkflowError, TypeError):
    """A decorated function called another one, and returned the node instead of a value."""


class NoSuchNode(WorkflowError, LookupError):
    """A pattern is meant to pick nodes, and no node's name matches it."""


class InvalidResult(WorkflowError, TypeError):
    """A function returned what cannot be a result."""


class NotRun(WorkflowError, RuntimeError):
    """A node was asked for its result before any run reached it."""


class StaleResult(WorkflowError, RuntimeError):
    """A stored result was made by other code or from other inputs."""


class InputChanged(WorkflowError, RuntimeError):
    """A file that is an argument of a node changed between the plan of a run and the start of the node."""


class InfeasibleResources(WorkflowError, RuntimeError):
    """No node of the Ray cluster has the resources that are asked for."""


class StorageError(FunctionFuseError):
    """A result could not be kept or given back."""


class InvalidConfiguration(StorageError, ValueError):
    """A storage configuration names an unknown kind or option."""


class StorageUnusable(StorageError, OSError):
    """The storage's place is not a folder, not writable, or full."""

    def __str__(self) -> str:
        """Return what is wrong, with the system's number where it has one."""
        return str(self.strerror) if self.errno is None and self.strerror else super().__str__()


class TaskNotFound(StorageError, FileNotFoundError):
    """Nothing is stored under that workflow and task name."""


class UnpicklableResult(StorageError, TypeError):
    """A result cannot be turned into bytes."""


class SerializerNotRegistered(StorageError, LookupError):
    """A stored result needs a serializer that the storage does not know."""


class UnsupportedFormat(StorageError, RuntimeError):
    """A blob or storage was written by a newer version of functionfuse."""


class DamagedResult(StorageError, ValueError):
    """A result is stored, but it cannot be given back as it was saved."""


class InvalidPickle(DamagedResult):
    """The bytes of a blob are not the bytes that were saved."""


class UnreadableResult(DamagedResult):
    """A blob is what was saved, but it cannot be unpickled: what it refers to is gone or fails."""


class SideFileMissing(DamagedResult):
    """A side file that a blob declares is gone."""


class MissingDependency(FunctionFuseError, ImportError):
    """An optional dependency is not installed."""


class LazyResultWarning(UserWarning):
    """A result that holds something lazy was saved: how to compute it, not what it is."""


class StaleResultWarning(UserWarning):
    """A stored result that was made by other code or from other inputs is handed back."""


class ChangedResultWarning(UserWarning):
    """A result that others use, too, was changed in place by one of its users."""


def add_note(error: BaseException, note: str) -> None:
    """Add a line that tracebacks show below the error's own message (from Python 3.11 on)."""
    error.__notes__ = [*getattr(error, "__notes__", ()), note]  # type: ignore[attr-defined]  # 3.10 has none
