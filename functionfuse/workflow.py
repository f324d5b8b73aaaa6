"""The frontend: the decorator, and the nodes that calls of decorated functions and classes make.

Nothing here runs anything or knows a backend. A node knows what to call, with
what, and after which other nodes; a backend runs it and leaves the node a way
to its result.

Notes
-----
Nodes may be made from many threads at once. A graph keeps all of its nodes
alive, since parents and children know each other.
"""

from __future__ import annotations

import functools
import itertools
import operator
import threading
from collections.abc import Callable, Iterable
from types import EllipsisType
from typing import Any, NoReturn, Protocol, overload

from functionfuse._arguments import Reference, nodes_in, references_in, role_of
from functionfuse._task import NOTHING_DECLARED, Declared, Task
from functionfuse.errors import InvalidArgument, InvalidName, NotRun

_sequence = itertools.count()
# Reentrant: the garbage collector may run a finalizer that calls a method on another stand-in.
_method_order = threading.RLock()

_DECORATED = "__functionfuse__"


class Outcome(Protocol):
    """What a backend leaves with the nodes of a run."""

    def result_of(self, node: Node) -> Any:
        """Return the result of `node` in that run."""

    def has_result_of(self, node: Node) -> bool:
        """Tell whether `result_of` would compute nothing."""


class _NotIterable(Reference):
    """A reference that explains why it cannot be iterated over."""

    __slots__ = ()

    def __iter__(self) -> NoReturn:
        # Without it, Python would ask for item after item, and never come to an end.
        raise TypeError(f"{self!r} cannot be unpacked or iterated over: {_NO_RESULT_YET}")

    def __contains__(self, value: object) -> NoReturn:
        raise TypeError(f"'in' cannot look into {self!r}: {_NO_RESULT_YET}")


_NO_RESULT_YET = "it has no result before a run. Index it, as node[0], or do this in a decorated function of its own"


class Node(_NotIterable):
    """One call in a workflow: of a function, of a class, or of a method.

    ``node[key]`` stands for an item of its result.

    Parameters
    ----------
    task : Task
        What is called.
    args, kwargs : tuple, dict
        The arguments, kept as they are.
    after : iterable of Node
        Nodes that must run before this one, though it does not take their results.

    Attributes
    ----------
    args : tuple
        The positional arguments. The first one of a method is its object's constructor node.
    kwargs : dict
        The keyword arguments.
    after : tuple of Node
        Nodes that run before this one though it does not take their results:
        methods that were called, before this node was made, on the objects that it uses.
    children : list of Node
        The nodes that were made with this one among their parents.
    seq : int
        The place in the order in which all nodes were made.
    """

    __slots__ = (
        "__weakref__",
        "_backend_info",
        "_name",
        "_outcome",
        "_parents",
        "_task",
        "after",
        "args",
        "children",
        "kwargs",
        "seq",
    )

    def __init__(self, task: Task, args: tuple[Any, ...], kwargs: dict[str, Any], after: Iterable[Node] = ()) -> None:
        self._task = task
        self._name = f"{task.name}_{next(task.numbers):04d}"
        self._backend_info: dict[Any, Any] | None = None
        self._outcome: Outcome | None = None
        self.args = args
        self.kwargs = kwargs
        self.children: list[Node] = []
        self.seq = next(_sequence)
        self._connect(after)

    def _connect(self, after: Iterable[Node]) -> None:
        parents: list[Node] = []
        earlier = list(after)
        fixed = True
        for value in (*self.args, *self.kwargs.values()) if self.kwargs else self.args:
            kind = type(value)
            if kind is Node:
                parents.append(value)
            elif role := role_of(kind):
                fixed = fixed and role != "container"
                for reference in references_in(value):
                    node, *methods = reference._nodes()
                    parents.append(node)
                    earlier += methods
        self.after = tuple(dict.fromkeys(earlier)) if earlier else ()
        unique = tuple(dict.fromkeys(parents + earlier))
        # A container may be changed after the call, so that only a run knows the parents.
        self._parents = unique if fixed else None
        for parent in unique:
            parent.children.append(self)

    @property
    def func(self) -> Callable[..., Any]:
        """What to call with the arguments: the function, the class, or for a method a caller of it by name."""
        return self._task.func

    @property
    def code(self) -> Any:
        """What the node's code is: the undecorated function, the class, or the method's function."""
        return self._task.code

    @property
    def declared(self) -> Declared:
        """What the decorator was told about the function."""
        return self._task.declared

    @property
    def storable(self) -> bool:
        """Whether the result may be stored: True for functions, False for constructors and methods."""
        return self._task.storable

    @property
    def backend_info(self) -> dict[Any, Any]:
        """A dict for what backends want to remember about the node."""
        if self._backend_info is None:
            self._backend_info = {}
        return self._backend_info

    @property
    def parents(self) -> list[Node]:
        """The nodes that must run before this one: those in its arguments, at any depth, then `after`."""
        if self._parents is not None:
            return list(self._parents)
        arguments = (self.args, self.kwargs) if self.kwargs else self.args
        return list(dict.fromkeys((*nodes_in(arguments), *self.after)))

    @property
    def result(self) -> Any:
        """The result in the last run that reached the node.

        Raises
        ------
        NotRun
            If no run has reached it.
        """
        if self._outcome is None:
            raise NotRun(f"node {self._name!r} has no result yet: run a workflow of which it is a leaf or an ancestor")
        return self._outcome.result_of(self)

    def get_name(self) -> str:
        """Return the node's name, under which its result is stored."""
        return self._name

    def set_name(self, name: str) -> Node:
        """Rename the node.

        Parameters
        ----------
        name : str
            Any string but an empty one; no two nodes of a workflow may have the same.

        Returns
        -------
        Node
            This node.

        Raises
        ------
        InvalidName
            If `name` is empty or not a string.
        """
        self._name = checked_name(name, "node")
        return self

    def __getitem__(self, key: Any) -> Item:
        return Item(self, (key,))

    def __repr__(self) -> str:
        return f"<Node {self._name!r}>"

    def _repr_html_(self) -> str | None:
        from functionfuse._html import node_html  # on use: only notebooks ask

        return node_html(self)

    def _nodes(self) -> tuple[Node, ...]:
        return (self,)

    def _value(self, result_of: Callable[[Node], Any]) -> Any:
        return result_of(self)


class Item(_NotIterable):
    """An item of a node's result; ``item[key]`` is an item of that item.

    Attributes
    ----------
    node : Node
        The node.
    keys : tuple
        What to index its result by, one after the other.

    Raises
    ------
    InvalidArgument
        If a key is a node itself (a `TypeError`).
    """

    __slots__ = ("keys", "node")

    def __init__(self, node: Node, keys: tuple[Any, ...]) -> None:
        if issubclass(type(keys[-1]), Reference):
            raise InvalidArgument(
                f"{keys[-1]!r} cannot be a key of {node!r}: take the item in a decorated function instead"
            )
        self.node = node
        self.keys = keys

    @property
    def result(self) -> Any:
        """The item of the node's result in the last run."""
        return functools.reduce(operator.getitem, self.keys, self.node.result)

    def __getitem__(self, key: Any) -> Item:
        return Item(self.node, (*self.keys, key))

    def __repr__(self) -> str:
        return f"<Item {self.node.get_name()!r}{''.join(f'[{key!r}]' for key in self.keys)}>"

    def _nodes(self) -> tuple[Node, ...]:
        return (self.node,)

    def _value(self, result_of: Callable[[Node], Any]) -> Any:
        return functools.reduce(operator.getitem, self.keys, result_of(self.node))


class StandIn(_NotIterable):
    """What stands for an object that a workflow will make: calling its methods makes nodes.

    The methods called on a stand-in run in the order of the calls, on one
    object. As an argument or a leaf it is that object, after the methods that
    were called until then.

    Parameters
    ----------
    constructor : Node
        The node that makes the object. `get_name`, `backend_info`, `children`, `parents` and
        `result` are the constructor's, and hide methods of these names.
    """

    __slots__ = ("_constructor", "_last")

    def __init__(self, constructor: Node) -> None:
        self._constructor = constructor
        self._last: Node | None = None

    def set_name(self, name: str) -> StandIn:
        """Rename the constructor's node, and return the stand-in."""
        self._constructor.set_name(name)
        return self

    def __getattr__(self, name: str) -> Any:
        # copy and pickle ask for such names before there is a constructor; what notebooks ask for must make no nodes.
        if name.startswith(("__", "_repr_", "_ipython_")):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        # The constructor's attributes are found here and not by properties: an
        # AttributeError inside a property would end up here and lose its message.
        if name in _OF_THE_CONSTRUCTOR:
            return getattr(self._constructor, name)
        return functools.partial(self._call, self._constructor._task.method(name))

    def __repr__(self) -> str:
        return f"<StandIn {self._constructor.get_name()!r}>"

    def _repr_html_(self) -> str | None:
        return self._constructor._repr_html_()

    def _call(self, method: Task, /, *args: Any, **kwargs: Any) -> Node:
        with _method_order:
            earlier = () if self._last is None else (self._last,)
            self._last = Node(method, (self._constructor, *args), kwargs, earlier)
            return self._last

    def _nodes(self) -> tuple[Node, ...]:
        return (self._constructor,) if self._last is None else (self._constructor, self._last)

    def _value(self, result_of: Callable[[Node], Any]) -> Any:
        return result_of(self._constructor)


_OF_THE_CONSTRUCTOR = frozenset({"get_name", "backend_info", "children", "parents", "result"})


@overload
def workflow(func: type) -> Callable[..., StandIn]: ...  # type: ignore[overload-overlap]  # a class is the narrower case


@overload
def workflow(func: Callable[..., Any]) -> Callable[..., Node]: ...


@overload
def workflow(
    *,
    version: str | int | None = None,
    ignore: Iterable[str] = (),
    depends: Iterable[Any] = (),
    own: Iterable[str] = (),
) -> Callable[[Callable[..., Any]], Callable[..., Any]]: ...


def workflow(
    func: Callable[..., Any] | EllipsisType = ...,
    *,
    version: str | int | None = None,
    ignore: Iterable[str] = (),
    depends: Iterable[Any] = (),
    own: Iterable[str] = (),
) -> Callable[..., Any]:
    """Make a function or class a part of workflows: calling it makes a node, and runs nothing.

    Parameters
    ----------
    func : callable or type
        A function, any other callable, or a class. Without it, as in
        ``@workflow(version=2)``, what is returned decorates.
    version : str or int, optional
        Another version makes stored results stale: for what is not seen in the code, such as a program that it calls.
    ignore : iterable of str
        Arguments that make no difference to the result, as ``n_jobs``.
    depends : iterable
        Functions, classes, values and `File` that the function uses besides what its code is seen to reach.
    own : iterable of str
        Modules and packages whose code counts though they are installed.

    Returns
    -------
    callable
        Returns a `Node` for a function and a `StandIn` for a class. Any of its
        arguments may be, or hold at any depth in lists, tuples, sets and dicts,
        nodes, items of nodes, and stand-ins. What was decorated is its
        ``__wrapped__``. Decorating it again changes nothing.

    Raises
    ------
    InvalidArgument
        If `func` cannot be called (a `TypeError`).

    Examples
    --------
    >>> @workflow
    ... def add(a, b):
    ...     return a + b
    >>> add(add(1, 2), 3).parents
    [<Node 'add_0000'>]
    """
    declared = _declared(version, ignore, depends, own)
    if func is ...:  # None is a mistake: a name that was meant to be a function
        return lambda func: _decorated(func, declared)
    return _decorated(func, declared)


def _declared(version: str | int | None, *lists: Iterable[Any]) -> Declared:
    for name, given in zip(("ignore", "depends", "own"), lists, strict=True):
        if isinstance(given, str):
            raise InvalidArgument(f"{name} is a list, as {name}=[{given!r}], not the string {given!r}")
    if version is None and not any(lists):
        return NOTHING_DECLARED
    return Declared(version, *map(tuple, lists))


def _decorated(func: Callable[..., Any], declared: Declared) -> Callable[..., Any]:
    if not callable(func):
        raise InvalidArgument(
            f"only functions and classes can be decorated, not {func!r} of type {type(func).__name__}"
        )
    if undecorated(func) is not func:
        return func
    decorated = _class_decorator(func, declared) if isinstance(func, type) else _function_decorator(func, declared)
    setattr(decorated, _DECORATED, func)
    return decorated


#: Another name of `workflow`.
task = workflow


def _function_decorator(func: Callable[..., Any], declared: Declared) -> Callable[..., Node]:
    task = Task(func, func, _qualname(func), True, declared)

    # A plain function, so that pickle refers to it by name and cloudpickle can take it by value.
    def make_node(*args: Any, **kwargs: Any) -> Node:
        return Node(task, args, kwargs)

    return functools.update_wrapper(make_node, func)


def _class_decorator(cls: type, declared: Declared) -> Callable[..., StandIn]:
    task = Task(cls, cls, cls.__qualname__, False, declared)

    def make_stand_in(*args: Any, **kwargs: Any) -> StandIn:
        return StandIn(Node(task, args, kwargs))

    return functools.update_wrapper(make_stand_in, cls, updated=())


def undecorated(func: Callable[..., Any]) -> Callable[..., Any]:
    """Return what was decorated if `func` came from the decorator, else `func` itself."""
    wrapped: Callable[..., Any] = getattr(func, "__wrapped__", func)
    # functools.wraps copies attributes: a wrapper around what was decorated has the mark, too.
    return wrapped if getattr(func, _DECORATED, None) is wrapped else func


def checked_name(name: object, of: str) -> str:
    """Return `name`, or raise InvalidName if it cannot be the name of a node or workflow.

    Parameters
    ----------
    name : object
        The name.
    of : str
        What is named, for the message.

    Returns
    -------
    str
        The name.

    Raises
    ------
    InvalidName
        If it is empty or not a string.
    """
    if isinstance(name, str) and name:
        return name
    raise InvalidName(f"the name of a {of} must be a string that is not empty, not {name!r}")


def _qualname(func: Callable[..., Any]) -> str:
    name: str = getattr(func, "__qualname__", None) or type(func).__qualname__
    return name
