"""Finds fields of payloads that the handler's type does not have, and logs each once, because they are dropped.

They are no error, because producers are upgraded before workers. A type that refuses them does so by itself (msgspec's
forbid_unknown_fields, pydantic's extra="forbid"). A type that keeps them has no unknown ones (pydantic's
extra="allow").
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any, get_args, get_origin

import msgspec

from gowork.base.values import is_model
from gowork.worker._core.codec import PayloadError

logger = logging.getLogger("gowork.worker")

#: Most fields that are named for one handler, because their names come from outside.
FIELDS_NAMED_MAX = 64
#: How many levels deep types are looked into.
_DEPTH_MAX = 20


@dataclass(slots=True)
class _Shape:
    """Which fields a type knows in its JSON. The shape of a class that contains itself contains itself."""

    #: {name: the shape of its value, or None where that has no fields}; None when every name is accepted
    fields: dict[str, _Shape | None] | None = None
    #: The shape of every item of a list, and of every value of a dict.
    items: _Shape | None = None

    @property
    def matters(self) -> bool:
        return self.fields is not None or self.items is not None


class UnknownFields:
    """Looks at the payloads of one handler. May be used from any thread."""

    def __init__(self, shape: _Shape, handler: str) -> None:
        self._shape = shape
        self._handler = handler
        self._named: set[str] = set()
        #: The known names, when no field has fields of its own; else None.
        self._flat = frozenset(shape.fields) if shape.fields is not None and not any(shape.fields.values()) else None

    @classmethod
    def of(cls, annotation: Any, handler: str) -> UnknownFields | None:
        """Returns the check of payloads of this type; None where no field can be unknown."""
        shape = _shape_of(annotation, {}, 0)
        return cls(shape, handler) if shape is not None and shape.matters else None

    def look(self, source: str | bytes, *, refuse: bool = False) -> None:
        """Logs which fields of this payload are unknown, each name once.

        Raises:
            PayloadError: when there is one and `refuse` is set.
        """
        if len(self._named) >= FIELDS_NAMED_MAX and not refuse:
            return
        unknown = self._unknown_in(source)
        if not unknown:
            return
        if refuse:
            raise PayloadError(f"payload: its handler's type has no field {min(unknown)!r}")
        for name in sorted(unknown - self._named):
            if len(self._named) >= FIELDS_NAMED_MAX:
                return
            self._named.add(name)
            logger.warning(
                "a payload has a field that its handler does not know; it is dropped",
                extra={"handler": self._handler, "field": name},
            )

    def _unknown_in(self, source: str | bytes) -> Set[str]:
        try:
            if self._flat is None:
                return set(_unknown(self._shape, _anything(source), ""))
            # Most types have no fields within fields: then the values need not be read.
            names = _names(source)
            return frozenset() if self._flat.issuperset(names) else names.keys() - self._flat
        except msgspec.MsgspecError:
            return frozenset()  # The text is no JSON: the type takes texts too.


_names = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_anything = msgspec.json.Decoder().decode


def _unknown(shape: _Shape, value: Any, place: str) -> Iterable[str]:
    if isinstance(value, dict):
        for name, part in value.items():
            inner = shape.items
            if shape.fields is not None:
                if name not in shape.fields:
                    yield f"{place}{name}"
                    continue
                inner = shape.fields[name]
            if inner is not None:
                yield from _unknown(inner, part, f"{place}{name}.")
    elif isinstance(value, list) and shape.items is not None:
        for part in value:
            yield from _unknown(shape.items, part, place)


def _shape_of(annotation: Any, seen: dict[Any, _Shape], depth: int) -> _Shape | None:
    if depth > _DEPTH_MAX:
        return None
    if is_model(annotation):
        return _of_model(annotation, seen, depth)
    try:
        return _of_info(msgspec.inspect.type_info(annotation), seen, depth)
    except (TypeError, RecursionError):
        pass
    if get_origin(annotation) is None:
        return None
    return _merged([_shape_of(part, seen, depth + 1) for part in get_args(annotation)])


def _of_model(model: Any, seen: dict[Any, _Shape], depth: int) -> _Shape | None:
    if (getattr(model, "model_config", None) or {}).get("extra") in ("allow", "forbid"):
        return None
    if model in seen:
        return seen[model]
    fields: dict[str, _Shape | None] = {}
    shape = seen[model] = _Shape(fields)
    known: Mapping[str, Any] = getattr(model, "model_fields", {})
    if not known or getattr(model, "__pydantic_root_model__", False):
        shape.fields = None
        return shape
    for name, about in known.items():
        inner = _shape_of(about.annotation, seen, depth + 1)
        alias = about.validation_alias
        if alias is not None and not isinstance(alias, str) and not hasattr(alias, "choices"):
            shape.fields = None  # The alias is a path into other fields, so any name may be meant.
            return shape
        for key in (name, about.alias, *getattr(alias, "choices", (alias,))):
            if isinstance(key, str):
                fields[key] = inner
            elif key is not None:
                shape.fields = None
                return shape
    return shape


def _of_info(info: Any, seen: dict[Any, _Shape], depth: int) -> _Shape | None:
    if depth > _DEPTH_MAX:
        return None
    match info:
        case msgspec.inspect.StructType() | msgspec.inspect.DataclassType() | msgspec.inspect.TypedDictType():
            return _of_fields(info, seen, depth)
        case msgspec.inspect.UnionType():
            return _merged([_of_info(part, seen, depth + 1) for part in info.types])
        case msgspec.inspect.CustomType():
            return _of_model(info.cls, seen, depth) if is_model(info.cls) else None
        case msgspec.inspect.DictType():
            inner = _of_info(info.value_type, seen, depth + 1)
        case msgspec.inspect.ListType() | msgspec.inspect.SetType() | msgspec.inspect.VarTupleType():
            inner = _of_info(info.item_type, seen, depth + 1)
        case _:
            return None
    return None if inner is None else _Shape(items=inner)


def _of_fields(info: Any, seen: dict[Any, _Shape], depth: int) -> _Shape | None:
    if getattr(info, "array_like", False):
        return None
    if info.cls in seen:
        return seen[info.cls]
    shape = seen[info.cls] = _Shape()
    fields: dict[str, _Shape | None] = {}
    for part in info.fields:
        fields[part.encode_name] = _of_info(part.type, seen, depth + 1)
    if getattr(info, "tag_field", None) is not None:
        fields[info.tag_field] = None
    if not getattr(info, "forbid_unknown_fields", False) or any(fields.values()):
        shape.fields = fields
    return shape


def _merged(shapes: Iterable[_Shape | None]) -> _Shape | None:
    """Merges the shapes of a union: a name is known when one of its types knows it."""
    found = [shape for shape in shapes if shape is not None and shape.matters]
    if len(found) < 2:
        return found[0] if found else None
    merged = _Shape(fields={})
    for shape in found:
        if shape.fields is None:
            merged.fields = None
        elif merged.fields is not None:
            merged.fields.update(shape.fields)
        merged.items = merged.items or shape.items
    return merged
