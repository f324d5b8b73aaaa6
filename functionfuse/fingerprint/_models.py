"""What dataclasses, attrs and pydantic read from annotations: fields, defaults, constraints, validators."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from functionfuse.fingerprint._digest import digest

if TYPE_CHECKING:
    from functionfuse.fingerprint._parts import PartWalk

_ATTRS = (
    "name",
    "default",
    "validator",
    "converter",
    "eq",
    "order",
    "hash",
    "init",
    "kw_only",
    "on_setattr",
    "metadata",
)
_DATACLASS = ("name", "default", "default_factory", "init", "hash", "compare", "kw_only", "metadata")


def definition_of(walk: PartWalk, cls: type) -> None:
    """Enter the fields that a library has read from the annotations of a class itself."""
    own = vars(cls)
    for name, fields in _fields(own):
        for field_name, settings in fields:
            path = f"{walk.part.name}.{field_name}"
            walk.part.tokens.append(digest(name, (ascii(field_name), walk.value(path, settings))))
    params = own.get("__dataclass_params__")
    if params is not None:
        walk.part.tokens.append(ascii(repr(params)))


def _fields(own: Any) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    if "__dataclass_fields__" in own:
        fields = own["__dataclass_fields__"].values()
        yield "dataclass", [(each.name, _settings(each, _DATACLASS)) for each in fields]
    if "__attrs_attrs__" in own:
        yield "attrs", [(each.name, _settings(each, _ATTRS)) for each in own["__attrs_attrs__"]]
    if "__pydantic_fields__" in own:
        yield "pydantic", [(name, _pydantic(field)) for name, field in own["__pydantic_fields__"].items()]
    private = own.get("__private_attributes__")
    if private:
        yield "private", [(name, [each.default, each.default_factory]) for name, each in private.items()]
    decorators = own.get("__pydantic_decorators__")
    if decorators is not None:
        yield "validators", list(_validators(decorators))


def _settings(field: Any, names: tuple[str, ...]) -> list[Any]:
    return [_marked(getattr(field, name, None)) for name in names] + [_kind(field.type)]


def _marked(value: Any) -> Any:
    # Marks such as dataclasses.MISSING and attrs.NOTHING, whose class is all that there is to them.
    if value is dataclasses.MISSING or type(value).__name__ in ("_Nothing", "PydanticUndefinedType"):
        return "no value"
    return dict(value) if type(value).__name__ == "mappingproxy" else value


def _kind(kind: Any) -> Any:
    return kind if isinstance(kind, type | str) else repr(kind)


def _pydantic(field: Any) -> list[Any]:
    names = [name for name in type(field).__slots__ if not name.startswith("_") and name not in _DESCRIBES]
    return [(name, _marked(getattr(field, name, None))) for name in names] + [_kind(field.annotation)]


#: Settings of a field of pydantic that only describe it.
_DESCRIBES = frozenset(("annotation", "title", "description", "examples", "deprecated", "field_title_generator"))


def _validators(decorators: Any) -> Iterator[tuple[str, Any]]:
    for kind in sorted(each.name for each in dataclasses.fields(decorators)):
        found = getattr(decorators, kind)
        if isinstance(found, dict):
            for name, each in found.items():
                yield f"{kind}.{name}", each.info
