"""Finding nodes in arguments, and putting results in their place."""

from collections import Counter, OrderedDict, defaultdict, namedtuple
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counting import calls
from functionfuse import workflow
from functionfuse._arguments import nodes_in, substitute

Pair = namedtuple("Pair", "left right")


class Typed(NamedTuple):
    """A namedtuple with types."""

    left: Any
    right: Any


class Params(dict):
    """A dict that knows more than its items."""

    label = ""


@workflow
def make(value: object) -> object:
    """Return the value."""
    return value


def result_of(node: Any) -> Any:
    """Give as a node's result its only argument."""
    return node.args[0]


@pytest.fixture
def node() -> Any:
    """Return a node whose result is 7."""
    return make(7)


CONTAINERS = {
    "list": lambda x: [1, x],
    "tuple": lambda x: (1, x),
    "set": lambda x: {1, x},
    "frozenset": lambda x: frozenset({1, x}),
    "dict value": lambda x: {"k": x},
    "dict key": lambda x: {x: "v"},
    "namedtuple": lambda x: Pair(1, x),
    "typed namedtuple": lambda x: Typed(1, x),
    "OrderedDict": lambda x: OrderedDict([("b", x), ("a", 1)]),
    "defaultdict": lambda x: defaultdict(list, k=x),
    "dict subclass": lambda x: Params(k=x),
    "Counter": lambda x: Counter({x: 3}),
    "nested": lambda x: [{"k": (1, frozenset({x}))}, Pair([x], {x: [x]})],
}


@pytest.mark.parametrize("make_container", CONTAINERS.values(), ids=CONTAINERS.keys())
def test_a_node_in_any_container_is_found_and_replaced(make_container: Any, node: Any) -> None:
    """A node inside a container of each kind is found, and the container comes back in its type with the result."""
    container = make_container(node)
    replaced = substitute(container, result_of)
    assert set(nodes_in(container)) == {node}
    assert replaced == make_container(7)
    assert type(replaced) is type(container)
    assert container == make_container(node), "the argument itself must not change"


structures = st.recursive(
    st.integers() | st.text(),
    lambda inner: st.one_of(
        st.lists(inner),
        st.tuples(inner, inner),
        st.dictionaries(st.text(), inner),
        st.builds(Pair, inner, inner),
        st.frozensets(st.text()),
    ),
)


def with_nodes(value: Any, nodes: list[Any]) -> Any:
    """Return the structure with nodes, which are added to `nodes`, in the place of its integers."""
    if isinstance(value, int):
        nodes.append(make(value))
        return nodes[-1]
    if isinstance(value, dict):
        return {key: with_nodes(item, nodes) for key, item in value.items()}
    if isinstance(value, Pair):
        return Pair(*[with_nodes(item, nodes) for item in value])
    return type(value)(with_nodes(item, nodes) for item in value) if isinstance(value, (list, tuple)) else value


@given(structures)
def test_any_structure_comes_back_with_results(structure: Any) -> None:
    """In whatever structure nodes stand for values, they are found, in order, and replaced by the values."""
    nodes: list[Any] = []
    argument = with_nodes(structure, nodes)
    assert list(nodes_in(argument)) == nodes
    assert substitute(argument, result_of) == structure


def test_a_lazy_proxy_is_not_woken() -> None:
    """An argument that only pretends to be of another class is not asked for its class."""

    class Lazy:
        @property
        def __class__(self) -> type:
            raise AssertionError("woken")

    lazy = Lazy()
    assert list(nodes_in([lazy])) == list(nodes_in(lazy)) == []
    assert substitute(lazy, result_of) is lazy
    assert make(lazy).parents == []


def test_references_are_found_from_left_to_right() -> None:
    """`nodes_in` yields nodes depth first, from left to right, as often as they occur."""
    a, b, c = make(1), make(2), make(3)
    assert list(nodes_in((a, [b, (c,)], {"x": a}))) == [a, b, c, a]


def test_items_index_the_result() -> None:
    """An item, and an item of an item, is replaced by what the result holds there, alone or inside containers."""
    node = make({"rows": [10, 20]})
    assert substitute(node["rows"][1], result_of) == 20
    assert substitute((node["rows"][0], [node["rows"]]), result_of) == (10, [[10, 20]])
    assert list(nodes_in([node["rows"][1]])) == [node]


def test_a_stand_in_refers_to_its_constructor() -> None:
    """A stand-in is found as its constructor's node and replaced by that node's result."""
    stand_in = workflow(Params)("state")
    (constructor,) = nodes_in([stand_in])
    assert constructor.func is Params
    assert substitute([stand_in], result_of) == ["state"]


def test_containers_without_nodes_are_handed_on_uncopied(node: Any) -> None:
    """A container that leads to no node is the same object afterwards, also beside one that does."""
    data, empty = [[1, 2], {"k": (3,)}], {}
    assert substitute(data, result_of) is data
    assert substitute(empty, result_of) is empty
    plain = 1.5
    assert substitute(plain, result_of) is plain
    flat = (1, "a")
    assert substitute(flat, result_of) is flat
    replaced = substitute([data, node], result_of)
    assert replaced[0] is data


def test_large_plain_data_is_passed_over() -> None:
    """A list of a million numbers is searched in a few steps, not in one for each."""
    data = [float(number) for number in range(1_000_000)]
    assert calls(lambda: list(nodes_in([data]))) < 100


def test_one_container_in_two_places_stays_one(node: Any) -> None:
    """A list that the arguments hold twice is one new list afterwards, so that the function sees them shared."""
    shared = [node]
    first, second = substitute((shared, [shared]), result_of)
    assert first == [7]
    assert second[0] is first


def test_what_a_subclass_knows_is_kept() -> None:
    """A defaultdict keeps its factory, an OrderedDict its order, a subclass of dict its attributes."""
    node = make(7)
    params = Params(k=node)
    params.label = "mine"
    assert substitute(params, result_of).label == "mine"
    assert substitute(defaultdict(list, k=node), result_of)["other"] == []
    assert list(substitute(OrderedDict([("b", node), ("a", 1)]), result_of)) == ["b", "a"]


def test_containers_that_cannot_be_made_anew_stay_closed(node: Any) -> None:
    """A node in a tuple or frozenset subclass, an attribute or an iterator is neither found nor replaced."""

    class Triple(tuple):
        __slots__ = ()

    class Frozen(frozenset):
        pass

    for value in (Triple([node]), Frozen([node]), iter([node]), Exception(node)):
        assert list(nodes_in([value])) == []
        assert substitute([value], result_of)[0] is value


def test_a_list_that_holds_itself_is_rebuilt_as_one(node: Any) -> None:
    """A list that holds itself ends the search, and its rebuilt form holds itself, not the old one."""
    loop: list[Any] = [node]
    loop.append(loop)
    replaced = substitute(loop, result_of)
    assert replaced[0] == 7
    assert replaced[1] is replaced
    assert list(nodes_in(loop)) == [node]


def test_circles_through_tuples_are_rebuilt_whole(node: Any) -> None:
    """Where lists and tuples hold each other in a circle no old container, and no node, is left inside."""
    first: list[Any] = []
    outer = (first,)
    inner = (outer, node)
    first.append(inner)
    replaced = substitute(outer, result_of)
    assert replaced[0][0][0] is replaced
    assert replaced[0][0][1] == 7


@pytest.mark.parametrize("wrap", [lambda x: [x], lambda x: (x,), lambda x: {"k": x}], ids=["list", "tuple", "dict"])
def test_deep_nesting_is_searched_to_the_ground(wrap: Any, node: Any) -> None:
    """A node five hundred containers deep is found and replaced."""
    value: Any = node
    for _ in range(500):
        value = wrap(value)
    replaced = substitute([value], result_of)[0]
    assert list(nodes_in(value)) == [node]
    for _ in range(500):
        replaced = next(iter(replaced.values() if isinstance(replaced, dict) else replaced))
    assert replaced == 7


def test_an_error_while_a_result_is_fetched_reaches_the_caller(node: Any) -> None:
    """`substitute` lets the error of `result_of` through as it is."""

    def lost(_: Any) -> Any:
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        substitute({"k": [node]}, lost)
