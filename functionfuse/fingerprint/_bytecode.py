"""Bytecode without what makes no difference to a result: where it stands, and its docstrings."""

from __future__ import annotations

import opcode
import sys
from collections.abc import Callable
from types import CodeType
from typing import Any

#: How a function is called, and what a call gives; the other flags tell where it stands.
_FLAGS = 0x04 | 0x08 | 0x20 | 0x80 | 0x100 | 0x200  # *args, **kwargs, generator, coroutines, async generator
_EXTENDED_ARG = opcode.opmap["EXTENDED_ARG"]
_HAS_CONSTANT = frozenset(opcode.hasconst)
_GLOBAL_SHIFT = 1 if sys.version_info >= (3, 11) else 0  # its argument's lowest bit is a flag there
#: What a class body stores of its own accord: its docstring and its place.
_BOOKKEEPING = frozenset(("__doc__", "__qualname__", "__firstlineno__", "__static_attributes__"))


class Bytecode:
    """A code object and those nested in it, read once.

    Constants are listed in the order of their use: no instruction loads the
    docstring of a function, and so it is not among them. `CodeType.co_code` is
    as compiled: what the interpreter, a tracer or a coverage tool makes of it
    while it runs does not show.

    Parameters
    ----------
    code : types.CodeType
        Of a function, a class body or a comprehension.

    Attributes
    ----------
    instructions : bytearray
        With the numbers of constants and the bookkeeping of class bodies blanked.
    constants : list
        Nested code is there as `Bytecode`.
    loads : dict with str keys
        Names looked up among the globals, here or in nested code, in the order of their use.
    rebinds : set of str
        Free variables assigned to, here or in nested code.
    sets : set of str
        Attributes assigned to, here or in nested code.
    """

    __slots__ = ("code", "constants", "instructions", "loads", "rebinds", "sets")

    def __init__(self, code: CodeType) -> None:
        self.code = code
        self.constants: list[Any] = []
        self.loads: dict[str, None] = {}
        self.rebinds: set[str] = set()
        self.sets: set[str] = set()
        self.instructions = bytearray(code.co_code)
        self._read(code.co_code)

    def shape(self) -> tuple[Any, ...]:
        """Return what belongs to the code besides instructions, constants and global names."""
        code = self.code
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & _FLAGS)
        handlers = getattr(code, "co_exceptiontable", b"")  # since Python 3.11 `try` leaves no instruction
        return (*counts, code.co_varnames, code.co_cellvars, code.co_freevars, handlers)

    def _read(self, raw: bytes) -> None:
        extended = 0
        for at in range(0, len(raw), 2):
            operation, argument = raw[at], raw[at + 1] | extended
            extended = argument << 8 if operation == _EXTENDED_ARG else 0
            if operation in _READERS:
                _READERS[operation](self, at, argument)

    def _constant(self, at: int, argument: int) -> None:
        self.instructions[at + 1] = 0
        constant = self.code.co_consts[argument]
        if isinstance(constant, CodeType):
            constant = Bytecode(constant)
            self._adopt(constant)
        elif isinstance(constant, str):  # 3.10 names inner functions by constants: `outer.<locals>.inner`
            constant = constant.rpartition(".<locals>.")[2]
        self.constants.append(constant)

    def _adopt(self, nested: Bytecode) -> None:
        self.loads |= nested.loads
        self.sets |= nested.sets
        self.rebinds |= nested.rebinds.intersection(self.code.co_freevars)

    def _global(self, at: int, argument: int) -> None:
        self.loads[self.code.co_names[argument >> _GLOBAL_SHIFT]] = None

    def _load_name(self, at: int, argument: int) -> None:
        self.loads[self.code.co_names[argument]] = None

    def _store_name(self, at: int, argument: int) -> None:
        if self.code.co_names[argument] in _BOOKKEEPING:
            if self.instructions[at - 2] in _HAS_CONSTANT:
                self.constants.pop()
            self.instructions[at - 2 : at] = b"\0\0"

    def _store_attribute(self, at: int, argument: int) -> None:
        self.sets.add(self.code.co_names[argument])

    def _store_cell(self, at: int, argument: int) -> None:
        name = self._cell_names()[argument]
        if name in self.code.co_freevars:
            self.rebinds.add(name)

    def _cell_names(self) -> tuple[str, ...]:
        code = self.code
        if sys.version_info < (3, 11):
            return code.co_cellvars + code.co_freevars
        cells = tuple(name for name in code.co_cellvars if name not in code.co_varnames)
        return code.co_varnames + cells + code.co_freevars


_READERS: dict[int, Callable[[Bytecode, int, int], None]] = {
    **dict.fromkeys(_HAS_CONSTANT, Bytecode._constant),
    **{
        opcode.opmap[name]: reader
        for name, reader in {
            "LOAD_GLOBAL": Bytecode._global,
            "LOAD_NAME": Bytecode._load_name,
            "LOAD_FROM_DICT_OR_GLOBALS": Bytecode._load_name,
            "STORE_NAME": Bytecode._store_name,
            "STORE_ATTR": Bytecode._store_attribute,
            "STORE_DEREF": Bytecode._store_cell,
            "DELETE_DEREF": Bytecode._store_cell,
        }.items()
        if name in opcode.opmap
    },
}
