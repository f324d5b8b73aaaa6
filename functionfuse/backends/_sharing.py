"""Who gets what of a result, so that nobody sees what another one has changed in it.

A result with one user is handed on as it is. Where there are more (nodes,
leaves, `node.result`), a result is

- shared, if it cannot be changed;
- copied for each, if its pickle is small;
- read again for each, if it is stored in a file on this machine and consists of
  large arrays: they lie over the file, and are copied where they are written to;
- shared and watched otherwise: its digest tells whether it was changed.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from functionfuse._arguments import nodes_in
from functionfuse._task import MethodCall
from functionfuse.backends._copying import Pickled, is_fixed, is_iterator_type
from functionfuse.backends._node_code import parameters
from functionfuse.backends._run import is_method_of
from functionfuse.fingerprint import of_value
from functionfuse.workflow import Node

_MOST = 5  # changes that a warning lists
_LONGEST = 100  # characters of a name in it

# Those that were called with an iterator, of which nothing is left for another call.
_WITHOUT_ITERATORS: weakref.WeakSet[Node] = weakref.WeakSet()


class Shared:
    """A result that several users get.

    Parameters
    ----------
    node : Node
        Whose result it is.
    value : object
        The result, which nobody has had yet.
    has_one_user : bool
        Whether the first one gets the result itself, since others come after the run only.
    again : callable, optional
        Reads the stored result once more at little cost; returns None if another one is stored now.

    Attributes
    ----------
    node : Node
        Whose result it is.
    value : object
        The result at hand.
    users : list of Node or None
        Who had it since it was looked at last, if it is watched; None stands for who asked for `node.result`.
    is_used_up : bool
        Whether it is an iterator of which there is no copy, so that only the first user finds something in it.
    """

    __slots__ = ("_again", "_digest", "_has_one_user", "_is_out", "_small", "is_used_up", "node", "users", "value")

    def __init__(
        self, node: Node, value: Any, has_one_user: bool = False, again: Callable[[], Any] | None = None
    ) -> None:
        self.node = node
        self.users: list[Node | None] = []
        self._is_out = False
        self.value = value
        self._has_one_user = has_one_user
        pickled = Pickled(value)
        self.is_used_up = pickled.is_opaque and not has_one_user and is_iterator_type(type(value))
        self._small = pickled if pickled.is_small else None
        self._again = again if pickled.is_buffers else None
        self._digest = "" if pickled.is_small or self._again else pickled.digest()

    def take(self, user: Node | None) -> Any:
        """Return the result for a user."""
        if self._small is not None:
            return self._copy(self._small)
        if self._again is not None:
            value = self._again()
            if value is not None:
                return value
            self._again = None  # nobody has had the one at hand
            self._digest = Pickled(self.value).digest()
        self._is_out = True
        self.users.append(user)
        return self.value

    def _copy(self, small: Pickled) -> Any:
        if self._has_one_user:
            self._has_one_user = False
            return self.value
        try:
            return small.copy()
        except Exception:  # whatever a class raises that can be pickled but not unpickled
            return self.value

    def is_changed(self) -> bool:
        """Tell whether a watched result was changed since it was looked at last."""
        if not self._is_out:
            return False
        before, self._digest = self._digest, Pickled(self.value).digest()
        return before != self._digest

    def replace(self, value: Any) -> None:
        """Let a result that was changed be what is stored."""
        self.value = value
        self._digest = Pickled(value).digest()


class Stateful:
    """The object of a class's node, which its methods change.

    Parameters
    ----------
    node : Node
        The constructor.
    value : object
        The object.
    """

    __slots__ = ("node", "value")

    def __init__(self, node: Node, value: Any) -> None:
        self.node = node
        self.value = value

    def take(self, user: Node | None) -> Any:
        """Return the object for its methods; for others what hands it out as it is now."""
        is_own = user is not None and is_method_of(user, self.node)
        return self.value if is_own else Shared(self.node, self.value)


#: What a result is in a run that is not handed on as it is.
HANDED_OUT = frozenset({Shared, Stateful})


class Stored(Protocol):
    """Where results that were changed are read again."""

    def is_kept(self, node: Node) -> bool:
        """Tell whether the result of a node is stored."""

    def read(self, node: Node) -> Any:
        """Return the stored result of a node."""

    def read_mapped(self, node: Node) -> Any:
        """Return the stored result of a node if it lies over its file, and is still the one of this run; or None."""


class Sharing:
    """Hands out the results of one run.

    Parameters
    ----------
    stored : Stored
        Where results can be read again.
    uses : Counter
        How many nodes and leaves need each result.
    leaves : Counter
        How often each node is a leaf.

    Attributes
    ----------
    given : dict
        What was taken for the node that is called now, by the nodes that it comes from.
    """

    def __init__(self, stored: Stored, uses: Counter[Node], leaves: Counter[Node]) -> None:
        self.given: dict[Node, Any] = {}
        self._stored = stored
        self._uses = uses
        self._leaves = leaves
        self._lent: list[Shared] = []  # objects with a state that this node has
        self._iterators: list[Node] = []
        self._found: list[str] = []

    def look_at_arguments(self, nodes: list[Node]) -> None:
        """Take note of iterators among the arguments of what is computed that an earlier call has gone through."""
        seen: dict[int, Node] = {}
        for node in nodes:
            for value in (*node.args, *node.kwargs.values()) if node.kwargs else node.args:
                if is_iterator_type(type(value)):
                    first = seen.setdefault(id(value), node)
                    self._iterators.append(node)
                    if first is not node or node in _WITHOUT_ITERATORS:
                        name = type(value).__name__
                        self._found.append(f"the {name} that {_named(node)} has as an argument was gone through before")

    def finish(self, computed: list[Node]) -> None:
        """Take note of the end of a run, in which these nodes were called."""
        self.called()
        if self._iterators:
            _WITHOUT_ITERATORS.update(set(self._iterators).intersection(computed))
            self._iterators = []

    def made(self, node: Node, value: Any) -> Any:
        """Return a result that was computed or read, or what hands it out."""
        if is_fixed(value):
            return value
        if not node.storable and not isinstance(node.func, MethodCall):
            return Stateful(node, value)
        uses, leaves = self._uses[node], self._leaves[node]
        is_kept = self._stored.is_kept(node)
        # What comes from the object of a class may be a part of it, which its methods change.
        is_free = node.storable and all(parent.storable for parent in node.parents)
        if is_free and (uses == leaves or (is_kept and uses == 1)):
            return value
        again = partial(self._stored.read_mapped, node) if is_kept else None
        shared = Shared(node, value, is_free and uses == 1, again)
        if shared.is_used_up:
            self._found.append(f"the {type(value).__name__} that {_named(node)} returned has several users")
        return shared

    def take(self, handed: Shared | Stateful, user: Node | None) -> Any:
        """Return a result for a user; the same one to a node that has it twice among its arguments."""
        if handed.node not in self.given:
            self.given[handed.node] = self.take_alone(handed, user)
        return self.given[handed.node]

    def take_alone(self, handed: Shared | Stateful, user: Node | None) -> Any:
        """Return a result for a user who has not got it."""
        if isinstance(handed, Stateful):
            value = handed.take(user)
            if not isinstance(value, Shared):
                return value
            handed = value
            if user is not None:
                self._lent.append(handed)
        self.look(handed)
        return handed.take(user)

    def called(self) -> None:
        """Look at the objects with a state that the node got that was called; what it was given is no longer held."""
        self.given = {}
        lent, self._lent = self._lent, []
        for shared in lent:
            self.look(shared)

    def look(self, shared: Shared) -> None:
        """Take note of a watched result if it was changed; who gets it next gets what is stored, where it is."""
        if shared.is_changed():
            self._note(shared)
        shared.users.clear()

    def _note(self, shared: Shared) -> None:
        outcome = "as others see it"
        if self._stored.is_kept(shared.node):
            with suppress(Exception):  # it was removed meanwhile, or whatever a serializer says
                stored = self._stored.read(shared.node)
                fingerprint = of_value(stored)
                is_same = fingerprint is not None and fingerprint == of_value(shared.value)
                shared.replace(stored)
                if is_same:  # it only looks different, such as an object that remembers what was asked
                    return
                outcome = "which was read again for others"
        users = " or ".join(_described(user, shared.node) for user in shared.users or [None])
        self._found.append(f"{users} changed the result of {_named(shared.node)}, {outcome}")

    def message(self, workflow_name: str) -> str | None:
        """Return what there is to warn of; None if nothing was changed."""
        found, self._found = self._found, []
        if not found:
            return None
        more = f"; and {len(found) - _MOST:,} more" if len(found) > _MOST else ""
        return (
            f"results of workflow {_short(workflow_name)} were changed in place: {'; '.join(found[:_MOST])}{more}. "
            "Change a copy of an argument instead, and return lists instead of iterators"
        )


def _described(user: Node | None, result: Node) -> str:
    if user is None:
        return "who had it before"
    return f"{_named(user)} (argument {_short(_argument(user, result))})"


def _argument(user: Node, result: Node) -> str:
    """Return the name of the first argument of a node in which there is a result."""
    names = parameters(user.code)[0]
    for position, value in enumerate(user.args):
        if result in nodes_in(value):
            return names[position] if position < len(names) else f"*{position}"
    return next((name for name, value in user.kwargs.items() if result in nodes_in(value)), "")


def _named(node: Node) -> str:
    return f"node {_short(node.get_name())}"


def _short(name: str) -> str:
    return repr(name if len(name) <= _LONGEST else f"{name[:_LONGEST]}...")
