"""Which modules hold the user's own code, and what their files say.

Own is what is neither in the standard library nor in an installed
distribution. A distribution that was installed from a folder, as
``pip install -e .`` does it, is own.
"""

from __future__ import annotations

import functools
import importlib.machinery
import json
import os
import sys
import sysconfig
from collections.abc import Iterable
from types import ModuleType

from functionfuse.fingerprint._bytecode import bytecode_of
from functionfuse.fingerprint._digest import digest

_NEVER_OWN = frozenset(("functionfuse", "catalog", "builtins"))
_INSTALLED = frozenset(("site-packages", "dist-packages"))
_LONGEST_SOURCE = 4 << 20  # bytes


class Owner:
    """Tells which modules are own.

    Parameters
    ----------
    named : iterable of str
        Modules and packages that are own wherever they are.
    """

    def __init__(self, named: Iterable[str] = ()) -> None:
        self.named = tuple(named)
        self._known: dict[str, bool] = {}

    def owns(self, module: object) -> bool:
        """Tell whether the module of this name is own."""
        if type(module) is not str:
            return False
        known = self._known.get(module)
        if known is None:
            self._known[module] = known = self.is_named(module) or is_own(module)
        return known

    def is_named(self, module: str) -> bool:
        """Tell whether a module was named as own."""
        return any(module == name or module.startswith(f"{name}.") for name in self.named)


_own: dict[tuple[str, str | None], bool] = {}


def is_own(module: str) -> bool:
    """Tell whether the module of this name holds the user's own code."""
    if module.partition(".")[0] in _NEVER_OWN:
        return False
    loaded = sys.modules.get(module)
    file = getattr(loaded, "__file__", None)
    key = module, file if type(file) is str else None
    known = _own.get(key)
    if known is None:
        _own[key] = known = _is_own(module, loaded, key[1])
    return known


def _is_own(module: str, loaded: ModuleType | None, file: str | None) -> bool:
    if module == "__main__":
        return True
    top = module.partition(".")[0]
    if file is None and loaded is not None and module in sys.builtin_module_names:
        return False
    if file is None:
        # A namespace package, a module that was made by hand, or one that was sent from another process.
        places = list(getattr(loaded, "__path__", ()) or ())
        return top not in sys.stdlib_module_names and not any(map(_is_installed, places))
    return not _is_installed(file) or top in _from_folders()


def _is_installed(path: str) -> bool:
    path = os.path.abspath(path)
    return not _INSTALLED.isdisjoint(path.split(os.sep)) or path.startswith(_standard_library())


@functools.cache
def _standard_library() -> tuple[str, ...]:
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
    return tuple(f"{place}{os.sep}" for path in paths if path for place in {path, os.path.realpath(path)})


@functools.cache
def _from_folders() -> frozenset[str]:
    """Return the packages of distributions that were installed from a folder."""
    from importlib import metadata  # on use: it takes its time

    found: set[str] = set()
    for place in {path for path in sys.path if os.path.basename(path) in _INSTALLED}:
        try:
            names = [name for name in os.listdir(place) if name.endswith(".dist-info")]
        except OSError:
            continue
        for name in names:
            if _is_from_folder(os.path.join(place, name, "direct_url.json")):
                files = metadata.PathDistribution.at(os.path.join(place, name)).files or ()
                found |= {os.path.splitext(file.parts[0])[0] for file in files if file.suffix == ".py"}
    return frozenset(found)


def _is_from_folder(path: str) -> bool:
    try:
        with open(path, encoding="utf-8") as file:
            return "dir_info" in json.load(file)
    except (OSError, ValueError):
        return False


# Names


def main_name() -> str:
    """Return the name by which the running script would be imported; ``__main__`` where that is not known."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and getattr(spec, "name", None):
        name = str(spec.name)
        return name[: -len(".__main__")] if name.endswith(".__main__") else name
    file = getattr(main, "__file__", None)
    return os.path.splitext(os.path.basename(file))[0] if type(file) is str else "__main__"


def shown_module(module: object) -> str:
    """Return a module's name, that of the running script as if it were imported."""
    return main_name() if module == "__main__" else str(module)


# Modules that a function imports when it is called


def file_of(module: str) -> str | None:
    """Return the source file of a module, which is not imported for that."""
    loaded = sys.modules.get(module)
    file = getattr(loaded, "__file__", None)
    if file is None:
        package = module.rpartition(".")[0]
        places: list[str] | None = None
        if package:
            above = file_of(package)
            if above is None or os.path.basename(above) != "__init__.py":
                return None
            places = [os.path.dirname(above)]
        try:
            spec = importlib.machinery.PathFinder.find_spec(module, places)
        except (ImportError, ValueError):
            return None
        file = spec.origin if spec is not None and spec.has_location else None
    return file if type(file) is str and file.endswith(".py") else None


_sources: dict[str, tuple[tuple[int, int], str, tuple[tuple[int, str, tuple[str, ...]], ...]]] = {}


def _source(path: str) -> tuple[str, tuple[tuple[int, str, tuple[str, ...]], ...]]:
    """Return the digest of a source file's code, and what it imports anywhere."""
    status = os.stat(path)
    stamp = status.st_mtime_ns, status.st_size
    known = _sources.get(path)
    if known is None or known[0] != stamp:
        if status.st_size > _LONGEST_SOURCE:
            raise ValueError(f"{path} is too large for source code")
        with open(path, "rb") as file:
            code = compile(file.read(), path, "exec", dont_inherit=True)
        bytecode = bytecode_of(code)
        text = digest("source", (bytecode.digest, ascii(bytecode.chains)))
        _sources[path] = known = stamp, text, bytecode.imports
    return known[1:]


def of_files(module: str, owner: Owner) -> str:
    """Return the digest of the code in a module's file, and in those of all own modules that it imports.

    Raises
    ------
    Exception
        Whatever reading and compiling them raises.
    """
    pending, found = [module], dict[str, str]()
    while pending:
        name = pending.pop()
        path = None if name in found else file_of(name)
        if path is None:
            found.setdefault(name, "none")
            continue
        if not (owner.owns(name) if name in sys.modules else not _is_installed(path) or owner.is_named(name)):
            found[name] = "installed"
            continue
        text, imports = _source(path)
        found[name] = text
        package = name if os.path.basename(path) == "__init__.py" else name.rpartition(".")[0]
        for each in imports:
            pending += imported_names(package, *each)
    # By content: which module has which name is told by the code that imports it.
    return digest(
        "modules", (found[module], *sorted(text for text in found.values() if text not in ("none", "installed")))
    )


def imported_names(package: str, level: int, name: str, names: tuple[str, ...]) -> list[str]:
    """Return the modules that an import may load, with the packages that they are in."""
    if level:
        parts = package.split(".")
        parts = parts[: len(parts) - level + 1]
        name = ".".join([*parts, name] if name else parts)
    parts = name.split(".") if name else []
    above = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return [*above, *(f"{name}.{each}" for each in names if each != "*")]
