"""What is called: a decorated function or class, or a method of a class."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple


class Declared(NamedTuple):
    """What its author says about a function that no analysis can know.

    Attributes
    ----------
    version : str or int, optional
        Another version is other code.
    ignore : tuple of str
        Arguments that make no difference to the result.
    depends : tuple
        Functions, classes, values and files that it uses besides what it is seen to reach.
    own : tuple of str
        Modules and packages that are the user's own code though they are installed.
    """

    version: str | int | None = None
    ignore: tuple[str, ...] = ()
    depends: tuple[Any, ...] = ()
    own: tuple[str, ...] = ()


NOTHING_DECLARED = Declared()


class Task:
    """What all nodes of one decorated function, class or method have in common.

    Parameters
    ----------
    func : callable
        What to call.
    code : object
        What the code is.
    name : str
        What the names of the nodes begin with.
    storable : bool
        Whether results may be stored.
    declared : Declared
        What the decorator was told.
    """

    __slots__ = ("code", "declared", "func", "methods", "name", "numbers", "storable")

    def __init__(
        self, func: Callable[..., Any], code: Any, name: str, storable: bool, declared: Declared = NOTHING_DECLARED
    ) -> None:
        self.func = func
        self.code = code
        self.name = name
        self.storable = storable
        self.declared = declared
        self.numbers = itertools.count()
        self.methods: dict[str, Task] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        # Decorated functions of __main__ are pickled by value, and counters are not picklable.
        return Task, (self.func, self.code, self.name, self.storable, self.declared)

    def method(self, name: str) -> Task:
        """Return what the nodes of one method of this class have in common.

        Raises
        ------
        AttributeError
            If the class has no such method.
        """
        # setdefault, lest two threads count the calls of one method apart.
        return self.methods.get(name) or self.methods.setdefault(name, self._make_method(name))

    def _make_method(self, name: str) -> Task:
        found = next((vars(base)[name] for base in self.code.__mro__ if name in vars(base)), None)
        if found is None or not callable(getattr(self.code, name)):
            raise AttributeError(
                f"class {self.name} has no method {name!r}: a stand-in has only the methods of its class, "
                "no properties, special methods or attributes of the object. Read those in a decorated function"
            )
        code = getattr(found, "__func__", found)
        return Task(MethodCall(name), code, f"{self.name}.{name}", storable=False, declared=self.declared)


class MethodCall:
    """Calls the method `name` of its first argument."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, instance: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Return what the method returns for the arguments."""
        return getattr(instance, self.name)(*args, **kwargs)
