"""The graph above the leaves: its order, its checks, and functions replaced in it."""

import random
import re
from typing import Any

import pytest

from counting import calls
from functionfuse import workflow
from functionfuse.baseworkflow import BaseWorkflow
from functionfuse.errors import CyclicGraph, DuplicateName, InvalidLeaf, InvalidName


@workflow
def make(*args: Any, **kwargs: Any) -> Any:
    """Return the arguments."""
    return args, kwargs


@workflow
class State:
    """An object with two methods."""

    def set(self, value: Any) -> None:
        """Do nothing."""

    def get(self) -> None:
        """Do nothing."""


def ordered(*leaves: Any) -> list[Any]:
    """Return the nodes of a workflow of the leaves, in order."""
    return BaseWorkflow(*leaves, workflow_name="w").ordered()


def names(nodes: list[Any]) -> list[str]:
    """Return the nodes' names."""
    return [node.get_name() for node in nodes]


# Leaves


def test_leaves_are_kept_as_given() -> None:
    """Nodes, items and stand-ins are leaves, in their order, and twice if given twice."""
    node, state = make(), State()
    flow = BaseWorkflow(node, node[0], state, node, workflow_name="w")
    assert flow.leaves[0] is flow.leaves[3] is node
    assert flow.leaves[1].keys == (0,)
    assert flow.leaves[2] is state
    assert flow.workflow_name == "w"


def test_a_workflow_needs_a_leaf() -> None:
    """No leaf at all is an InvalidLeaf."""
    with pytest.raises(InvalidLeaf, match="at least one leaf"):
        BaseWorkflow(workflow_name="w")


@pytest.mark.parametrize("leaf", [3, "name", {make()}, make], ids=["int", "str", "set", "decorated"])
def test_a_foreign_leaf_is_refused(leaf: Any) -> None:
    """What no decorated function or class returned is an InvalidLeaf that names its type."""
    with pytest.raises(InvalidLeaf, match=f"must be a node.*of type {type(leaf).__name__}"):
        BaseWorkflow(make(), leaf, workflow_name="w")


@pytest.mark.parametrize("leaf", [[make(), 3], {"a": [make(), 3]}, (3,)], ids=["list", "deep", "tuple"])
def test_a_container_of_leaves_holds_nothing_else(leaf: Any) -> None:
    """A value among the nodes of a list or dict is an InvalidLeaf that names it."""
    with pytest.raises(InvalidLeaf, match=r"must be a node.*not 3 of type int"):
        BaseWorkflow(leaf, workflow_name="w")


@pytest.mark.parametrize("leaf", [[], {}, (), {"a": []}], ids=["list", "dict", "tuple", "deep"])
def test_a_container_of_leaves_is_not_empty(leaf: Any) -> None:
    """An empty list or dict is an InvalidLeaf."""
    with pytest.raises(InvalidLeaf, match="empty"):
        BaseWorkflow(leaf, workflow_name="w")


def test_a_container_of_leaves_is_taken_as_it_is_now() -> None:
    """What is appended to a list of leaves later is not run."""
    leaves = [make()]
    flow = BaseWorkflow(leaves, workflow_name="w")
    leaves.append(make())
    assert [len(leaf) for leaf in flow.leaves] == [1]
    assert len(flow.ordered()) == 1


@pytest.mark.parametrize("name", ["", None, 3])
def test_a_workflow_has_a_name(name: Any) -> None:
    """An empty name, or one that is no string, is an InvalidName."""
    with pytest.raises(InvalidName, match="the name of a workflow must be a string that is not empty"):
        BaseWorkflow(make(), workflow_name=name)


# Order


def test_all_ancestors_come_in_the_order_of_their_making() -> None:
    """Leaves and ancestors are there once, oldest first, and nothing else is."""
    a = make()
    b = make(a)
    make(a)  # a descendant that no leaf needs
    c = make(b, a, key=[a, b])
    unrelated = make()
    d = make()
    assert ordered(d, c, c[0], b) == [a, b, c, d]
    assert unrelated not in ordered(c)


def test_a_random_graph_is_ordered_parents_first() -> None:
    """In a random graph of 300 nodes each node comes after its parents."""
    draw = random.Random(1)
    nodes = [make()]
    for _ in range(300):
        nodes.append(make(*draw.choices(nodes, k=2), [draw.choice(nodes)]))
    place = {node: i for i, node in enumerate(ordered(*nodes))}
    assert len(place) == 301
    assert all(place[parent] < place[node] for node in nodes for parent in node.parents)


def test_a_node_appended_to_a_list_later_runs_first() -> None:
    """A node that joined a list after the call is a parent at the next `ordered`; the others keep their order."""
    values = [make()]
    early = make(values)
    between = make()
    flow = BaseWorkflow(early, between, workflow_name="w")
    assert flow.ordered() == [values[0], early, between]
    late = make(make())
    values.append(late)
    assert flow.ordered() == [values[0], between, late.parents[0], late, early]


def test_only_the_methods_called_until_then_are_needed() -> None:
    """A stand-in that is a leaf, or an argument, brings its constructor and the methods called on it until then."""
    state = State()
    first = state.set(1)
    consumer = make(state)
    flow = BaseWorkflow(state, workflow_name="w")
    second = state.get()
    constructor = first.args[0]
    assert flow.ordered() == [constructor, first]
    assert ordered(consumer) == [constructor, first, consumer]
    assert ordered(consumer, state) == [constructor, first, consumer, second]


def test_a_long_chain_is_ordered_without_recursion() -> None:
    """A chain of 20,000 nodes, far deeper than Python's stack, is ordered."""
    node = make()
    for _ in range(20_000):
        node = make(node)
    assert len(ordered(node)) == 20_001


@pytest.mark.parametrize("shape", ["fan-out", "list", "arguments"])
def test_ordering_is_linear(shape: str) -> None:
    """A node takes as many calls to order among 16,000 as among 1,000."""

    def order(n: int) -> float:
        base = make()
        leaves: list[Any] = [make(base) for _ in range(n)]
        if shape != "fan-out":
            leaves = [make(leaves) if shape == "list" else make(*leaves)]
        flow = BaseWorkflow(*leaves, workflow_name="w")
        return calls(flow.ordered) / n

    assert order(16_000) < 1.5 * order(1_000)


# Checks


def test_a_node_in_its_own_arguments_is_a_cycle() -> None:
    """A node appended to the list that it was called with is a CyclicGraph, which names it."""
    values: list[Any] = []
    node = make(values).set_name("ouroboros")
    values.append(node[0])
    with pytest.raises(CyclicGraph, match="'ouroboros' -> 'ouroboros'"):
        ordered(node)


def test_a_cycle_is_shown_whole() -> None:
    """A cycle over several nodes is a CyclicGraph that names all of them, and none that only hangs on it."""
    values: dict[str, Any] = {}
    start = make(make().set_name("before"), values).set_name("a")
    middle = make(start).set_name("b")
    values["k"] = make([middle]).set_name("c")
    after = make(middle).set_name("after")
    with pytest.raises(CyclicGraph) as caught:
        ordered(after)
    circle = re.findall(r"'(\w+)'", str(caught.value))
    assert sorted(circle[:-1]) == ["a", "b", "c"]
    assert circle[0] == circle[-1]


def test_two_nodes_of_one_name_are_refused() -> None:
    """DuplicateName names the name, what both nodes call, and the way out, before anything runs."""
    first = make().set_name("same")
    second = State().set_name("state").get().set_name("same")
    with pytest.raises(DuplicateName) as caught:
        ordered(first, second)
    for part in ("'w'", "'same'", f"{__name__}.make", f"{__name__}.State.get", "set_name"):
        assert part in str(caught.value)


def test_a_default_name_given_to_another_node_is_refused() -> None:
    """A name that happens to be another node's default name is a duplicate, too."""
    node = make()
    with pytest.raises(DuplicateName):
        ordered(node, make().set_name(node.get_name()))


def test_a_name_may_be_used_again_in_another_graph() -> None:
    """Nodes of one name that no workflow has together are no duplicates."""
    first, second = make().set_name("same"), make().set_name("same")
    assert ordered(first) == [first]
    assert ordered(second) == [second]


# Finding nodes


def test_find_nodes_matches_whole_names() -> None:
    """A regular expression, given as text or compiled, must match all of the name; without one all nodes come."""
    a = make().set_name("sum")
    b = make(a).set_name("sum of squares\n")
    c = make(b).set_name("mean")
    flow = BaseWorkflow(c, workflow_name="w")
    assert flow.find_nodes() == [a, b, c]
    assert flow.find_nodes("sum") == [a]
    assert flow.find_nodes(re.compile("SUM.*", re.IGNORECASE | re.DOTALL)) == [a, b]
    assert flow.find_nodes("m") == []


@pytest.mark.parametrize("regex", ["(", 3])
def test_a_bad_regular_expression_is_an_error_that_shows_it(regex: Any) -> None:
    """What cannot be compiled is a ValueError that shows it."""
    flow = BaseWorkflow(make(), workflow_name="w")
    with pytest.raises(ValueError, match=re.escape(f"{regex!r} is not a regular expression")):
        flow.find_nodes(regex)


def test_graph_traversal_yields_names_and_nodes() -> None:
    """`graph_traversal` yields the name with each node, parents first."""
    a = make().set_name("a")
    b = make(a).set_name("b")
    assert list(BaseWorkflow(b, workflow_name="w").graph_traversal()) == [("a", a), ("b", b)]


# Replacing functions


def test_a_replaced_function_is_replaced_in_one_workflow() -> None:
    """`replace_func` changes what one workflow calls and takes for the code, and neither node nor other workflows."""
    node = make()
    one, other = BaseWorkflow(node, workflow_name="one"), BaseWorkflow(node, workflow_name="other")
    one.replace_func(node, len)
    assert one.func_of(node) is one.code_of(node) is len
    assert other.func_of(node) is other.code_of(node) is node.func is make.__wrapped__  # type: ignore[attr-defined]


def test_methods_keep_what_they_call_and_what_their_code_is() -> None:
    """For a method that is not replaced the call is by name, and the code the method's function."""
    node = State().get()
    flow = BaseWorkflow(node, workflow_name="w")
    assert flow.func_of(node) is node.func
    assert flow.code_of(node) is State.__wrapped__.get  # type: ignore[attr-defined]


def test_a_decorated_replacement_counts_as_undecorated() -> None:
    """A decorated function that replaces another one is called itself, not made into a node in the run."""
    node = make()
    flow = BaseWorkflow(node, workflow_name="w")
    flow.replace_func(node, State)
    assert flow.func_of(node) is State.__wrapped__  # type: ignore[attr-defined]


def test_a_replacement_may_be_falsy() -> None:
    """A callable object that is false is a replacement like any other."""

    class Empty(list[Any]):
        def __call__(self) -> None: ...

    node, empty = make(), Empty()
    flow = BaseWorkflow(node, workflow_name="w")
    flow.replace_func(node, empty)
    assert flow.func_of(node) is flow.code_of(node) is empty


def test_the_class_of_a_stand_in_can_be_replaced() -> None:
    """A stand-in means its constructor's node, an item the node that it is of."""
    state, node = State(), make()
    flow = BaseWorkflow(state.get(), node, workflow_name="w")
    flow.replace_func(state, dict)
    flow.replace_func(node[0], len)
    assert flow.func_of(state.get().args[0]) is dict
    assert flow.func_of(node) is len


def test_only_nodes_of_the_graph_can_be_replaced() -> None:
    """A node outside of the graph is a ValueError, what is no node an InvalidLeaf, a replacement must be callable."""
    node = make()
    flow = BaseWorkflow(node, workflow_name="w")
    with pytest.raises(ValueError, match=r"'other'> is no leaf of workflow 'w'"):
        flow.replace_func(make().set_name("other"), len)
    with pytest.raises(InvalidLeaf, match=r"what is replaced must be a node.*of type str"):
        flow.replace_func("make_0000", len)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a node can only call a function, not 3 of type int"):
        flow.replace_func(node, 3)  # type: ignore[arg-type]


def test_a_node_that_joined_the_graph_later_can_be_replaced() -> None:
    """A node that was appended to a list argument after a first replacement is known to the next one."""
    values: list[Any] = []
    node = make(values)
    flow = BaseWorkflow(node, workflow_name="w")
    flow.replace_func(node, len)
    values.append(late := make())
    flow.replace_func(late, dict)
    assert flow.func_of(late) is dict
