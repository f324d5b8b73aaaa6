"""Bytecode without what makes no difference to a result: where it stands, what documents it, and names of variables.

Left out are NOPs and the space between instructions, docstrings, names of
functions, annotations that nobody reads, and the names of variables that are
no parameters. Jumps and the ranges of `try` count instructions, not bytes.
"""

from __future__ import annotations

import opcode
import sys
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any, NamedTuple

from functionfuse.fingerprint._digest import content

#: How a function is called, and what a call gives; the other flags tell where it stands.
_FLAGS = 0x04 | 0x08 | 0x20 | 0x80 | 0x100 | 0x200  # *args, **kwargs, generator, coroutines, async generator
_OP = {name: opcode.opmap.get(name, -1) for name in (*opcode.opmap, "CACHE", "PRECALL", "SET_FUNCTION_ATTRIBUTE")}
_NAMES = opcode.opname
_SKIPPED = {_OP.get(name, -1) for name in ("NOP", "CACHE", "RESUME", "MAKE_CELL", "COPY_FREE_VARS", "GEN_START")}
_EXTENDED_ARG, _MAKE_FUNCTION, _SET_ATTRIBUTE = (
    _OP[name] for name in ("EXTENDED_ARG", "MAKE_FUNCTION", "SET_FUNCTION_ATTRIBUTE")
)
_CACHE = _OP["CACHE"]
_CONSTANT = frozenset(opcode.hasconst)
_LOCALS = frozenset(opcode.haslocal)
_CELLS = frozenset(opcode.hasfree)
_NAMED = frozenset(opcode.hasname)
_RELATIVE, _ABSOLUTE = frozenset(opcode.hasjrel), frozenset(opcode.hasjabs)
_BACKWARD = frozenset(number for number in _RELATIVE if number < len(_NAMES) and "BACKWARD" in _NAMES[number])
#: Two instructions in one, since Python 3.13: of two variables, a nibble each.
_PAIRS = {
    _OP[name]: tuple(_OP[part] for part in parts)
    for name, parts in {
        "LOAD_FAST_LOAD_FAST": ("LOAD_FAST", "LOAD_FAST"),
        "STORE_FAST_LOAD_FAST": ("STORE_FAST", "LOAD_FAST"),
        "STORE_FAST_STORE_FAST": ("STORE_FAST", "STORE_FAST"),
    }.items()
    if name in _OP
}
#: The lowest bits of an argument that are no part of the name's number.
_FLAG_BITS = {
    _OP["LOAD_GLOBAL"]: 1 if sys.version_info >= (3, 11) else 0,
    _OP["LOAD_ATTR"]: 1 if sys.version_info >= (3, 12) else 0,
    _OP.get("LOAD_SUPER_ATTR", -2): 2,
}
_GLOBALS = frozenset(_OP[name] for name in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS") if name in _OP)
_ATTRIBUTES = frozenset(_OP[name] for name in ("LOAD_ATTR", "LOAD_METHOD") if name in _OP)
_STORES = frozenset(_OP[name] for name in ("STORE_FAST", "STORE_NAME", "STORE_DEREF", "STORE_GLOBAL"))
_REBINDS = frozenset(_OP[name] for name in ("STORE_DEREF", "DELETE_DEREF"))
_LOAD_CONST, _RETURN_VALUE = _OP["LOAD_CONST"], _OP["RETURN_VALUE"]
_RETURN_CONST = _OP.get("RETURN_CONST", -2)
_LOAD_CLOSURE = _OP.get("LOAD_CLOSURE", -2)
_ANNOTATIONS, _CLOSURE = 4, 8  # flags of MAKE_FUNCTION

#: What a class body stores of its own accord: its docstring and its place.
_BOOKKEEPING = frozenset(("__doc__", "__module__", "__qualname__", "__firstlineno__", "__static_attributes__"))
#: Code that names one of these may read annotations.
_READ_ANNOTATIONS = frozenset(
    ("__annotations__", "get_type_hints", "get_annotations", "signature", "getfullargspec", "register", "fields")
)
#: Code that names one of these may read the names of its variables.
_READ_NAMES = frozenset(("locals", "vars", "eval", "exec", "dir"))

Chain = tuple[str, ...]


class Instruction(NamedTuple):
    """One instruction: its number, its argument, where it begins, and where a jump leads."""

    operation: int
    argument: int
    offset: int
    target: int = -1


class Bytecode:
    """A code object and those nested in it, read once.

    Constants are taken in the order of their use: no instruction loads the
    docstring of a function, and so it is not among them. `CodeType.co_code` is
    as compiled: what the interpreter, a tracer or a coverage tool makes of it
    while it runs does not show.

    Parameters
    ----------
    code : types.CodeType
        Of a function, a module, a class body or a comprehension.

    Attributes
    ----------
    digest : str
        32 hexadecimal digits: equal where the code does the same to what `chains` and `captured` stand for.
    chains : tuple of tuple of str
        Names looked up among the globals, here or in nested code, each with the
        attributes that are taken of it, in the order of their use.
    captured : tuple of str
        Free variables in the order of their use.
    imports : tuple of (int, str, tuple of str)
        What the code itself imports: level, module, names.
    rebinds : frozenset of str
        Free variables assigned to, here or in nested code.
    sets : frozenset of str
        Attributes assigned to, here or in nested code.
    assigns : frozenset of str
        Global variables assigned to, here or in nested code.
    """

    __slots__ = ("assigns", "captured", "chains", "digest", "imports", "rebinds", "sets")

    def __init__(self, code: CodeType) -> None:
        reader = _Reader()
        text = reader.read(code, _Scope(code, None), keeps_annotations=False)
        self.digest = content(text.encode())
        self.chains: tuple[Chain, ...] = tuple(reader.chains)
        self.imports = tuple(reader.imports)
        self.captured = tuple(name for name in reader.free if name in code.co_freevars)
        self.captured += tuple(name for name in code.co_freevars if name not in reader.free)
        self.rebinds = frozenset(reader.rebinds.intersection(code.co_freevars))
        self.sets = frozenset(reader.sets)
        self.assigns = frozenset(reader.assigns)


_read: dict[int, tuple[CodeType, Bytecode]] = {}
_MOST_READ = 50_000


def bytecode_of(code: CodeType) -> Bytecode:
    """Return what a code object does, read once in a process."""
    known = _read.get(id(code))
    if known is None:
        if len(_read) >= _MOST_READ:  # of functions that are made again and again
            _read.clear()
        _read[id(code)] = known = code, Bytecode(code)  # the code stays, lest another one get its address
    return known[1]


class _Scope:
    """The variables of one code object, numbered in the order of their use."""

    def __init__(self, code: CodeType, outer: _Scope | None) -> None:
        count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & 4) + bool(code.co_flags & 8)
        self.parameters = code.co_varnames[:count]
        self._keeps_names = not _READ_NAMES.isdisjoint(code.co_names)
        self._free = frozenset(code.co_freevars)
        self._numbers: dict[str, int] = {name: number for number, name in enumerate(self.parameters)}
        self._outer = outer
        self._depth: int = outer._depth + 1 if outer else 0

    def variable(self, name: str) -> str:
        """Return what stands for a variable, whatever its name."""
        if self._keeps_names:
            return name
        if name in self._free and self._outer is not None:
            return self._outer.variable(name)
        return f"{self._depth}.{self._numbers.setdefault(name, len(self._numbers))}"


class _Reader:
    """Reads a code object and those in it, and collects what they refer to."""

    def __init__(self) -> None:
        self.chains: dict[Chain, int] = {}
        self.imports: dict[tuple[int, str, Chain], None] = {}
        self.free: dict[str, None] = {}
        self.rebinds: set[str] = set()
        self.sets: set[str] = set()
        self.assigns: set[str] = set()

    def read(self, code: CodeType, scope: _Scope, keeps_annotations: bool) -> str:
        instructions = list(_decoded(code.co_code))
        dropped = _Dropped(code, instructions)
        if not keeps_annotations and not dropped.reads_annotations():
            dropped.annotations()
        kept = [number for number in range(len(instructions)) if number not in dropped.numbers]
        places = _places(len(code.co_code), instructions, kept)
        lines = []
        for number in kept:
            each = instructions[number]
            if each.target >= 0:
                operand = str(places[each.target])
            else:
                operand = self._operand(code, scope, instructions, number, dropped)
            lines.append(f"{each.operation} {operand}")
        handlers = _handlers(getattr(code, "co_exceptiontable", b""), places)
        shape = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & _FLAGS)
        return f"({shape} {scope.parameters} {handlers}\n" + "\n".join(lines) + "\n)"

    def _operand(
        self, code: CodeType, scope: _Scope, instructions: list[Instruction], number: int, dropped: _Dropped
    ) -> str:
        operation, argument = instructions[number][:2]
        if operation in _CONSTANT:
            constant = code.co_consts[argument]
            if type(constant) is CodeType:
                return self.read(constant, _Scope(constant, scope), number in dropped.keepers)
            return constant_text(constant)
        if operation in _LOCALS:
            return scope.variable(_local_name(code, argument))
        if operation in _CELLS:
            name = _cell_name(code, argument)
            if name in code.co_freevars:
                self.free[name] = None
            if operation in _REBINDS:
                self.rebinds.add(name)
            return scope.variable(name)
        if operation in _NAMED:
            return self._named(code, instructions, number)
        if operation == _MAKE_FUNCTION:
            return str(argument & ~_ANNOTATIONS if number in dropped.unannotated else argument)
        return str(argument)

    def _named(self, code: CodeType, instructions: list[Instruction], number: int) -> str:
        operation, argument = instructions[number][:2]
        bits = _FLAG_BITS.get(operation, 0)
        name, flags = code.co_names[argument >> bits], argument & ((1 << bits) - 1)
        kind = _NAMES[operation]
        if operation in _GLOBALS:
            chain = (name, *_attributes_after(code, instructions, number))
            return f"{self.chains.setdefault(chain, len(self.chains))} {flags}"
        if kind == "STORE_ATTR":
            self.sets.add(name)
        elif kind in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            self.assigns.add(name)
        elif kind == "IMPORT_NAME":
            self.imports[self._imported(code, instructions, number, name)] = None
        return f"{name} {flags}"

    def _imported(
        self, code: CodeType, instructions: list[Instruction], number: int, name: str
    ) -> tuple[int, str, Chain]:
        names, level = (code.co_consts[instructions[number - back].argument] for back in (1, 2))
        return (level if type(level) is int else 0), name, (names if type(names) is tuple else ())


def _decoded(raw: bytes) -> Iterator[Instruction]:
    extended, begin, at, end = 0, 0, 0, len(raw)
    while at < end:
        operation, argument = raw[at], raw[at + 1] | extended
        at += 2
        if operation == _EXTENDED_ARG:
            extended = argument << 8
            continue
        while at < end and raw[at] == _CACHE:
            at += 2
        if operation not in _SKIPPED:
            if operation in _PAIRS:
                first, second = _PAIRS[operation]
                yield Instruction(first, argument >> 4, begin)
                yield Instruction(second, argument & 15, begin)
            elif operation == _RETURN_CONST:
                yield Instruction(_LOAD_CONST, argument, begin)
                yield Instruction(_RETURN_VALUE, 0, begin)
            elif operation in _RELATIVE:
                yield Instruction(operation, 0, begin, at + 2 * (-argument if operation in _BACKWARD else argument))
            elif operation in _ABSOLUTE:
                yield Instruction(operation, 0, begin, 2 * argument)
            else:
                yield Instruction(operation, argument, begin)
        extended, begin = 0, at


def _places(size: int, instructions: list[Instruction], kept: list[int]) -> list[int]:
    """Return for each byte the place of the first instruction, of those that are kept, there or after it."""
    places = [len(kept)] * (size + 1)
    begin = 0
    for place, number in enumerate(kept):
        offset = instructions[number].offset
        if offset >= begin:
            places[begin : offset + 1] = [place] * (offset + 1 - begin)
            begin = offset + 1
    return places


def _handlers(table: bytes, places: list[int]) -> list[list[int]]:
    """Return begin, end, target and depth of what `try` protects; neighbours with one target are one."""
    found: list[list[int]] = []
    numbers = _varints(table)
    for start in numbers:
        size, target, depth = next(numbers), next(numbers), next(numbers)
        begin, end, target = places[2 * start], places[2 * (start + size)], places[2 * target]
        if begin == end:
            continue
        if found and found[-1][1:] == [begin, target, depth]:
            found[-1][1] = end
        else:
            found.append([begin, end, target, depth])
    return found


def _varints(table: bytes) -> Iterator[int]:
    value = 0
    for byte in table:
        value = value << 6 | byte & 63
        if not byte & 64:
            yield value
            value = 0


def _attributes_after(code: CodeType, instructions: list[Instruction], number: int) -> Iterator[str]:
    for each in instructions[number + 1 :]:
        if each.operation not in _ATTRIBUTES:
            return
        yield code.co_names[each.argument >> _FLAG_BITS.get(each.operation, 0)]


def _local_name(code: CodeType, number: int) -> str:
    # Of Python 3.13 LOAD_FAST also loads the cell of a closure.
    return code.co_varnames[number] if number < len(code.co_varnames) else _cell_name(code, number)


def _cell_name(code: CodeType, number: int) -> str:
    if sys.version_info < (3, 11):
        return (code.co_cellvars + code.co_freevars)[number]
    cells = tuple(name for name in code.co_cellvars if name not in code.co_varnames)
    return (code.co_varnames + cells + code.co_freevars)[number]


def constant_text(constant: object) -> str:
    """Return a text of a constant, the same in every process."""
    kind = type(constant)
    if kind is tuple:
        return f"({','.join(map(constant_text, constant))})"  # type: ignore[call-overload]  # a tuple
    if kind is frozenset:
        return f"{{{','.join(sorted(map(constant_text, constant)))}}}"  # type: ignore[call-overload]  # a frozenset
    if kind is int:
        return hex(constant)  # type: ignore[arg-type]  # an int; repr of a huge one is refused
    return ascii(constant)


class _Dropped:
    """The numbers of instructions that do not count."""

    def __init__(self, code: CodeType, instructions: list[Instruction]) -> None:
        self._code = code
        self._instructions = instructions
        self.numbers: set[int] = set()
        self.unannotated: set[int] = set()  # that make a function, whose annotations do not count
        self.keepers: set[int] = set()  # that load the body of a class whose annotations may be read
        for number, each in enumerate(instructions):
            if each.operation == _MAKE_FUNCTION:
                self._function(number)
            elif each.operation == _LOAD_CLOSURE or (each.operation in _LOCALS and self._is_cell(each)):
                self.numbers.add(number)  # the code that captures it tells what it is
            elif self._is_bookkeeping(number):
                self.numbers |= {number - 1, number}

    def _is_bookkeeping(self, number: int) -> bool:
        each = self._instructions[number]
        if _NAMES[each.operation] != "STORE_NAME" or self._code.co_names[each.argument] not in _BOOKKEEPING:
            return False
        return self._instructions[number - 1].operation in _CONSTANT or self._loads(number - 1, "__name__")

    def _is_cell(self, each: Instruction) -> bool:
        return _NAMES[each.operation] == "LOAD_FAST" and each.argument >= len(self._code.co_varnames)

    def _loads(self, number: int, name: str) -> bool:
        each = self._instructions[number]
        return _NAMES[each.operation] == "LOAD_NAME" and self._code.co_names[each.argument] == name

    def _function(self, number: int) -> None:
        body = self._body(number)
        if sys.version_info < (3, 11):
            self.numbers.add(number - 1)  # the qualified name
        is_class = any(
            _NAMES[each.operation] == "LOAD_BUILD_CLASS" for each in self._instructions[max(0, body - 12) : body]
        )
        if is_class and not self._is_plain_class(number):
            self.keepers.add(body)

    def _body(self, number: int) -> int:
        return number - (2 if sys.version_info < (3, 11) else 1)

    def _is_plain_class(self, number: int) -> bool:
        """Tell whether a class is made without bases, keywords and decorators, so that nobody reads its annotations."""
        after = number + 1 + sum(1 for _ in self._attributes(number))
        following = self._instructions[after : after + 4]
        names = [_NAMES[each.operation] for each in following if _NAMES[each.operation] != "PRECALL"]
        calls = [each.argument for each in following if _NAMES[each.operation] in ("CALL", "CALL_FUNCTION")]
        return names[:1] == ["LOAD_CONST"] and calls[:1] == [2] and names[2:3] and names[2].startswith("STORE_")  # type: ignore[return-value]

    def _attributes(self, number: int) -> Iterator[Instruction]:
        for each in self._instructions[number + 1 :]:
            if each.operation != _SET_ATTRIBUTE:
                return
            yield each

    def reads_annotations(self) -> bool:
        """Tell whether the code may read annotations of what it defines."""
        names = set(self._code.co_names)
        if any(_NAMES[each.operation] == "SETUP_ANNOTATIONS" for each in self._instructions):
            names.discard("__annotations__")  # which it fills
        return not _READ_ANNOTATIONS.isdisjoint(names)

    def annotations(self) -> None:
        """Drop the annotations of undecorated functions, and those in the body of a class."""
        for number, each in enumerate(self._instructions):
            if each.operation == _MAKE_FUNCTION:
                self._annotations_of_function(number)
            elif _NAMES[each.operation] == "SETUP_ANNOTATIONS":
                self.numbers.add(number)
            elif _NAMES[each.operation] == "STORE_SUBSCR" and self._loads(number - 2, "__annotations__"):
                begin = self._begin_of_value(number - 3)
                if begin is not None:
                    self.numbers.update(range(begin, number + 1))

    def _annotations_of_function(self, number: int) -> None:
        attributes = list(self._attributes(number))
        flags = self._instructions[number].argument
        for each in attributes:
            flags |= each.argument
        after = number + 1 + len(attributes)
        following = self._instructions[after : after + 1]
        if not flags & _ANNOTATIONS or not following or following[0].operation not in _STORES:
            return
        last = self._body(number) - 1
        if flags & _CLOSURE:
            last -= self._instructions[last].argument + 1
        begin = self._begin_of_value(last)
        if begin is None:
            return
        self.numbers.update(range(begin, last + 1))
        self.unannotated.add(number)
        self.numbers.update(
            number + 1 + place for place, each in enumerate(attributes) if each.argument == _ANNOTATIONS
        )

    def _begin_of_value(self, last: int) -> int | None:
        """Return the first of the instructions that leave one value on the stack, the last of which is `last`."""
        needed = 1
        for number in range(last, -1, -1):
            each = self._instructions[number]
            if each.target >= 0:
                return None
            argument = each.argument if each.operation >= opcode.HAVE_ARGUMENT else None
            needed -= _stack_effect(each.operation, argument)
            if needed == 0:
                return number
        return None


_stack_effect: Callable[[int, Any], int] = opcode.stack_effect
