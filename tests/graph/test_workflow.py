"""The decorator, and the nodes, items and stand-ins that it makes."""

import functools
import gc
import operator
import pickle
import subprocess
import sys
import threading
import time
import weakref
from typing import Any

import pytest

import functionfuse
from functionfuse import task, workflow
from functionfuse.errors import InvalidName, NotRun
from functionfuse.workflow import Node


@workflow
def add(a: Any, b: Any = 0) -> Any:
    """Add two numbers."""
    return a + b


class Base:
    """A class to inherit a method from."""

    def inherited(self) -> str:
        """Return a constant."""
        return "inherited"


@workflow
class Counter(Base):
    """Counts."""

    limit = 10

    def __init__(self, start: int = 0) -> None:
        self.value = start

    def __len__(self) -> int:
        return self.value

    def __iter__(self) -> Any:
        return iter(())

    def add(self, n: int) -> int:
        """Add n."""
        self.value += n
        return self.value

    def error(self) -> None:
        """Do nothing."""

    @property
    def double(self) -> int:
        """Twice the value."""
        return 2 * self.value

    @staticmethod
    def static(x: int) -> int:
        """Return the argument."""
        return x

    @classmethod
    def of(cls, x: int) -> str:
        """Return the class's name."""
        return cls.__name__

    class Nested:
        """A class inside a class."""


class Results:
    """An outcome of a run with given results."""

    def __init__(self, results: Any) -> None:
        self.results = results

    def result_of(self, node: Node) -> Any:
        """Return the result of the node."""
        return self.results[node]


class Failing:
    """An outcome of a run in which all failed."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.calls = 0

    def result_of(self, node: Node) -> Any:
        """Raise the error."""
        self.calls += 1
        raise self.error


# The package


def test_the_package_is_a_table_of_contents() -> None:
    """The package exports one decorator under two names, and what else a script needs, each from where it is."""
    assert task is workflow
    for name in functionfuse.__all__:
        assert getattr(functionfuse, name).__name__ in (name, "workflow")
    assert set(functionfuse.__all__) <= set(dir(functionfuse))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        functionfuse.nothing  # noqa: B018


def test_import_loads_nothing_heavy() -> None:
    """`import functionfuse` leaves heavy modules and its own backends and storages unloaded."""
    script = (
        "import sys; before = set(sys.modules); import functionfuse; "
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    heavy = {
        "inspect",
        "dataclasses",
        "json",
        "pickle",
        "logging",
        "asyncio",
        "graphlib",
        "numpy",
        "duckdb",
        "catalog.catalog",
    }
    assert "functionfuse" in loaded
    assert heavy.isdisjoint(loaded)


# Decorated functions


def test_a_call_makes_a_node_and_runs_nothing() -> None:
    """Calling a decorated function keeps function and arguments, and does not call it."""

    @workflow
    def explode(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("must not run")

    values = [1]
    node = explode(values, key="x")
    assert node.func is explode.__wrapped__  # type: ignore[attr-defined]  # update_wrapper adds it
    assert node.code is node.func
    assert node.args[0] is values
    assert node.kwargs == {"key": "x"}
    assert node.storable is True
    assert node.after == ()
    assert node.backend_info == {}


def test_the_decorated_function_looks_like_the_function() -> None:
    """Name, module and docstring are those of the function or class that was decorated."""
    assert add.__name__ == "add"
    assert add.__module__ == __name__
    assert add.__doc__ == "Add two numbers."
    assert add.__wrapped__(1, 2) == 3  # type: ignore[attr-defined]
    assert Counter.__name__ == "Counter"
    assert Counter.__doc__ == "Counts."
    assert not hasattr(Counter, "limit"), "a decorated class is a function, which does not pass for the class"


def test_default_names_count_the_calls_of_each_function() -> None:
    """The default name is the qualified name and a counter of that function's own, with four digits or more."""

    def make() -> Any:
        @workflow
        def local() -> None: ...

        return local

    one, other = make(), make()
    qualname = "test_default_names_count_the_calls_of_each_function.<locals>.make.<locals>.local"
    assert [one().get_name(), one().get_name(), other().get_name()] == [
        f"{qualname}_0000",
        f"{qualname}_0001",
        f"{qualname}_0000",
    ]
    for _ in range(9_998):
        one()
    assert one().get_name() == f"{qualname}_10000"


def test_any_callable_can_be_decorated() -> None:
    """Builtins, bound methods, partial and callable objects make nodes that call them."""
    functions = {
        "len": len,
        "str.upper": "abc".upper,
        "partial": functools.partial(int, base=2),
        "attrgetter": operator.attrgetter("real"),
    }
    for name, function in functions.items():
        node = workflow(function)("1")
        assert node.func is function
        assert node.get_name() == f"{name}_0000"


@pytest.mark.parametrize("thing", [3, "name", None, property(len)])
def test_what_cannot_be_called_cannot_be_decorated(thing: Any) -> None:
    """Decorating something that is neither function nor class is a TypeError that shows it."""
    with pytest.raises(TypeError, match=f"only functions and classes can be decorated, not .*{type(thing).__name__}"):
        workflow(thing)


def test_decorating_twice_changes_nothing() -> None:
    """A decorated function or class that is decorated again is the same object."""
    assert workflow(add) is add
    assert workflow(Counter) is Counter


def test_a_wrapper_around_a_decorated_function_is_a_function_of_its_own() -> None:
    """functools.wraps copies attributes of a decorated function, and yet the wrapper can be decorated."""

    @functools.wraps(add)
    def wrapper(*args: Any) -> Any:
        return add(*args)

    decorated: Any = workflow(wrapper)
    assert decorated is not wrapper
    assert decorated(1).func is wrapper


@pytest.mark.parametrize("decorated", [add, Counter], ids=["function", "class"])
def test_decorated_objects_pickle_by_reference(decorated: Any) -> None:
    """A decorated function or class of a module comes back from a pickle as the same object."""
    assert pickle.loads(pickle.dumps(decorated)) is decorated


def test_decorated_functions_of_main_pickle_by_value() -> None:
    """Cloudpickle takes a decorated function of __main__ with it into another process, where it makes nodes."""
    pytest.importorskip("cloudpickle")
    dump = (
        "import cloudpickle, sys\n"
        "from functionfuse import workflow\n"
        "@workflow\n"
        "def again(n):\n"
        "    return n and again(n - 1)\n"
        "@workflow\n"
        "class Thing:\n"
        "    def method(self):\n"
        "        return again\n"
        "again(1), Thing().method()\n"
        "sys.stdout.buffer.write(cloudpickle.dumps((again, Thing)))\n"
    )
    load = (
        "import pickle, sys\n"
        "again, Thing = pickle.load(sys.stdin.buffer)\n"
        "print(again(3).get_name(), again(3).func.__globals__['again'] is again, Thing().method().get_name())\n"
    )
    data = subprocess.run([sys.executable, "-W", "error", "-c", dump], capture_output=True, check=True).stdout
    out = subprocess.run([sys.executable, "-c", load], input=data, capture_output=True, check=True).stdout
    assert out.split() == [b"again_0000", b"True", b"Thing.method_0000"]


def test_nodes_are_made_safely_by_many_threads() -> None:
    """Eight threads that call one function over one node lose no child, and no name or number is given twice."""
    base = add(0)

    def work() -> None:
        for _ in range(1_000):
            add(base)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(base.children) == 8_000
    assert len({node.get_name() for node in base.children}) == 8_000
    assert len({node.seq for node in base.children}) == 8_000


# Nodes


def test_parents_and_children_know_each_other() -> None:
    """Nodes in positional and keyword arguments are parents, once each and in order, and have the node as a child."""
    a, b, c, d = add(1), add(2), add(3), add(4)
    node = workflow(max)(b, a, [c, b], key={"deep": (d[0],)})
    assert node.parents == [b, a, c, d]
    assert [parent.children for parent in (a, b, c, d)] == [[node]] * 4


def test_parents_in_a_list_are_those_of_the_moment() -> None:
    """A list that is changed after the call changes the parents of the node."""
    a, b = add(1), add(2)
    values = [a]
    node = add(values)
    values.append(b)
    assert node.parents == [a, b]


def test_the_list_of_parents_is_the_callers() -> None:
    """Changing the list that `parents` returned does not change the node."""
    node = add(add(1))
    node.parents.clear()
    assert len(node.parents) == 1


def test_set_name_renames_and_returns_the_node() -> None:
    """`set_name` gives the node itself back, under its new name."""
    node = add(1)
    assert node.set_name("first") is node
    assert node.get_name() == "first"


@pytest.mark.parametrize("name", ["", None, 7, b"bytes"])
def test_only_strings_that_are_not_empty_are_names(name: Any) -> None:
    """An empty name or one that is no string raises InvalidName, which shows it, and leaves the name as it was."""
    node = add(1).set_name("kept")
    with pytest.raises(InvalidName, match=f"must be a string that is not empty, not {name!r}"):
        node.set_name(name)
    assert node.get_name() == "kept"


def test_backend_info_belongs_to_the_node() -> None:
    """What a backend writes into `backend_info` is found there again, and not on other nodes."""
    node, other = add(1), add(2)
    node.backend_info["key"] = "value"
    assert node.backend_info == {"key": "value"}
    assert other.backend_info == {}


def test_seq_grows_with_every_node() -> None:
    """Numbers of creation grow over all functions, constructors and methods."""
    counter = Counter()
    numbers = [add(1).seq, counter.add(1).seq, add(2).seq]
    assert numbers == sorted(set(numbers))


def test_nodes_are_compared_by_identity() -> None:
    """Two calls with the same arguments are two nodes."""
    assert len({add(1), add(1)}) == 2


def test_a_graph_that_nobody_holds_is_freed() -> None:
    """Nodes can be referenced weakly, and a graph goes with its last reference."""
    node = add(add(1))
    reference = weakref.ref(node)
    del node
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("shape", ["fan-out", "list", "arguments", "chain"])
def test_building_a_graph_is_linear(shape: str) -> None:
    """A node of a graph of 64,000 costs at most a few of 1,000; it would be 64 if each cost the size of its graph."""

    def build(n: int) -> float:
        base = add(0)
        start = time.thread_time()
        nodes = [add(base) for _ in range(n)]
        if shape == "list":
            add(nodes)
        elif shape == "arguments":
            workflow(max)(*nodes)
        elif shape == "chain":
            functools.reduce(lambda node, _: add(node), range(n), base)
        return (time.thread_time() - start) / n

    gc.disable()  # the collector's price grows with all that lives in the process
    try:
        small = min(build(1_000) for _ in range(5))
        large = min(build(64_000) for _ in range(2))
    finally:
        gc.enable()
    assert large < 16 * small


# Results


def test_a_result_is_what_the_last_run_left() -> None:
    """`result` asks the outcome that a backend left, and items index what it gives."""
    node = add(1)
    node._outcome = Results({node: {"k": [5]}})
    assert node.result == {"k": [5]}
    assert node["k"][0].result == 5
    node._outcome = Results({node: "newer"})
    assert node.result == "newer"


def test_a_result_before_any_run_is_an_error() -> None:
    """The result of a node, item or stand-in that no run has reached raises NotRun, which names the node."""
    for reference in (add(1).set_name("early"), add(1).set_name("early")[0], Counter().set_name("early")):
        with pytest.raises(NotRun, match="'early' has no result yet"):
            reference.result  # noqa: B018


@pytest.mark.parametrize("make", [lambda: add(1), lambda: add(1)[0], lambda: Counter()], ids=["node", "item", "object"])
@pytest.mark.parametrize("kind", [AttributeError, KeyError, StopIteration])
def test_the_error_of_a_node_reaches_the_caller_as_itself(make: Any, kind: type[Exception]) -> None:
    """An error raised while a result is fetched, an AttributeError too, is neither replaced nor raised twice."""
    reference = make()
    outcome = Failing(kind("of the node"))
    reference._nodes()[0]._outcome = outcome
    with pytest.raises(kind) as caught:
        reference.result  # noqa: B018
    assert caught.value is outcome.error
    assert outcome.calls == 1


# Items


def test_items_remember_their_keys() -> None:
    """Any keys, one after the other, make an item that knows its node and them."""
    node = add(1)
    item = node[0]["k"][1:2][None]
    assert item.node is node
    assert item.keys == (0, "k", slice(1, 2), None)
    assert repr(node.set_name("n")["k"][0]) == "<Item 'n'['k'][0]>"


def test_a_node_is_no_key() -> None:
    """Indexing a node by a node is a TypeError at once, not a miss in the run."""
    node, index = add(1), add(2)
    for key in (index, index[0], Counter()):
        with pytest.raises(TypeError, match="cannot be a key of"):
            node[key]


REFERENCES = {"node": lambda: add(1), "item": lambda: add(1)[0], "stand-in": lambda: Counter()}


@pytest.mark.parametrize("make", REFERENCES.values(), ids=REFERENCES.keys())
def test_nothing_can_be_unpacked_before_it_has_run(make: Any) -> None:
    """Unpacking, iterating and `in` raise a TypeError that says to index, instead of looping for ever."""
    reference = make()
    with pytest.raises(TypeError, match=r"cannot be unpacked.*Index it, as node\[0\]"):
        _first, _second = reference
    with pytest.raises(TypeError, match="cannot be unpacked"):
        list(reference)
    with pytest.raises(TypeError, match="'in' cannot look into"):
        1 in reference  # noqa: B015


# Stand-ins


def test_calling_a_class_makes_its_constructor_node() -> None:
    """A decorated class gives a stand-in whose constructor's node calls the class and is never stored."""
    start = add(1)
    stand_in = Counter(start=start)
    (constructor,) = start.children
    assert constructor.func is constructor.code is Counter.__wrapped__  # type: ignore[attr-defined]
    assert constructor.kwargs == {"start": start}
    assert constructor.storable is False
    assert stand_in.parents == [start]
    assert stand_in.children == []
    stand_in.backend_info["key"] = 1
    assert constructor.backend_info == {"key": 1}


def test_a_stand_in_is_named_by_its_constructor() -> None:
    """`set_name` on a stand-in names the constructor's node and returns the stand-in, whose methods still work."""
    stand_in = Counter()
    assert stand_in.set_name("counter") is stand_in
    assert stand_in.get_name() == "counter"
    assert stand_in.add(1).args[0].get_name() == "counter"
    assert repr(stand_in) == "<StandIn 'counter'>"


def test_methods_are_nodes_on_the_object() -> None:
    """A method's node has the constructor's as first argument, calls the method by name, and knows its code."""
    cls: Any = Counter.__wrapped__  # type: ignore[attr-defined]
    stand_in = Counter()
    node = stand_in.add(5)
    assert isinstance(node, Node)
    assert node.args == (stand_in._nodes()[0], 5)
    assert node.func(cls(2), 5) == 7
    assert node.code is cls.add
    assert node.storable is False
    assert stand_in.children == [node]
    assert node.set_name("five") is node


def test_all_kinds_of_methods_make_nodes() -> None:
    """Inherited, static and class methods and nested classes are callables of a class; their code is the function."""
    cls: Any = Counter.__wrapped__  # type: ignore[attr-defined]
    stand_in = Counter()
    assert stand_in.inherited().code is Base.inherited
    assert stand_in.static(1).code is cls.static
    assert stand_in.of(1).code is cls.of.__func__
    assert stand_in.of(1).func(cls(), 1) == "Counter"
    assert stand_in.Nested().code is cls.Nested


def test_methods_are_counted_each_for_itself() -> None:
    """Default names of methods have a counter per class and method, over all objects of the class."""

    @workflow
    class Local(Base):
        def other(self) -> None: ...

    first, second = Local(), Local()
    prefix = "test_methods_are_counted_each_for_itself.<locals>.Local"
    assert [first.get_name(), second.get_name()] == [f"{prefix}_0000", f"{prefix}_0001"]
    assert first.inherited().get_name() == f"{prefix}.inherited_0000"
    assert second.inherited().get_name() == f"{prefix}.inherited_0001"
    assert second.other().get_name() == f"{prefix}.other_0000"


def test_methods_pickle_by_name() -> None:
    """What a method's node calls survives pickling, so that a worker can call it."""
    call = pickle.loads(pickle.dumps(workflow(str)().upper().func))
    assert call("text") == "TEXT"


def test_methods_run_after_those_called_before() -> None:
    """Each method on an object has the method called before it as a parent, but not as an argument."""
    stand_in = Counter()
    first, second, third = stand_in.add(1), stand_in.inherited(), stand_in.add(2)
    constructor = stand_in._nodes()[0]
    assert first.after == ()
    assert second.after == (first,)
    assert third.after == (second,)
    assert third.parents == [constructor, second]
    assert second.children == [third]


def test_as_an_argument_an_object_has_had_its_methods_called() -> None:
    """A node that takes a stand-in, at any depth, runs after the methods called until then, not after later ones."""
    stand_in = Counter()
    early = add(stand_in)
    method = stand_in.add(1)
    plain, deep = add(stand_in), add([{"k": stand_in}], b=stand_in)
    later = stand_in.add(2)
    constructor = stand_in._nodes()[0]
    assert early.after == ()
    assert plain.after == deep.after == (method,)
    assert plain.parents == deep.parents == [constructor, method]
    assert later.after == (method,)


def test_an_object_can_be_its_own_methods_argument() -> None:
    """A stand-in passed to its own method has that method run after the earlier ones, once."""
    stand_in = Counter()
    first = stand_in.add(1)
    node = stand_in.add(stand_in)
    assert node.after == (first,)
    assert node.parents == [stand_in._nodes()[0], first]


def test_methods_called_by_many_threads_form_one_row() -> None:
    """Methods that threads call on one stand-in come one after the other, in the order of their numbers."""
    stand_in = Counter()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # seconds; threads take turns in the middle of calls

    def work() -> None:
        for _ in range(500):
            stand_in.add(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)
    methods = sorted(stand_in.children, key=lambda node: node.seq)
    assert [node.after for node in methods] == [(), *((node,) for node in methods[:-1])]


@pytest.mark.parametrize("name", ["missing", "double", "limit", "value", "mro"])
def test_only_methods_can_be_had_from_a_stand_in(name: str) -> None:
    """An unknown name, property or data attribute is an AttributeError that names it and the class."""
    with pytest.raises(AttributeError, match=f"class Counter has no method '{name}'.*only the methods"):
        getattr(Counter(), name)


def test_special_methods_make_no_nodes() -> None:
    """Special methods of the class, asked for by name or by the language, are not the stand-in's."""
    stand_in = Counter()
    assert not hasattr(stand_in, "__len__")
    assert not hasattr(stand_in, "__array__")
    with pytest.raises(TypeError):
        len(stand_in)
    assert stand_in.children == []


def test_a_half_made_stand_in_does_not_recurse() -> None:
    """Copy and pickle, which ask a stand-in without a constructor for special names, get plain AttributeErrors."""
    empty = type(Counter()).__new__(type(Counter()))
    with pytest.raises(AttributeError, match="__setstate__"):
        empty.__setstate__  # noqa: B018
