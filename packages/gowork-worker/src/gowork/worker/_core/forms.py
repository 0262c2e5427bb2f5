"""The form of a handler: which payloads it reads. From it the leader sees which workers have another version of it.

Handlers that read the same payloads have the same form, in whatever process or version they are. So the form leaves out
what is no rule for payloads: a type's texts, and its defaults. Each process may make defaults anew (a time, a random
id, a set in the order of its hashes).
"""

from __future__ import annotations

import hashlib
import inspect
import json
import warnings
from collections.abc import Mapping, Set
from typing import Any

import msgspec

from gowork.base import values

#: Keywords of a JSON schema that do not change which values it reads.
_NO_RULES = frozenset({"title", "description", "default", "examples", "deprecated", "$comment"})
#: Keywords whose value has names that the type chose as its keys, not keywords.
_NAMES = frozenset({"properties", "patternProperties", "$defs", "definitions", "mapping"})
#: Keywords that hold values, not schemas.
_VALUES = frozenset({"const", "enum"})


def form_of(annotation: Any) -> str:
    """Returns a digest of the JSON schema of this annotation: 32 hex digits, or "" where it has no schema."""
    if annotation is inspect.Parameter.empty:
        return ""
    try:
        with warnings.catch_warnings():
            # Pydantic warns of defaults that JSON cannot hold.
            warnings.simplefilter("ignore")
            schema = _schema_of(annotation)
        text = json.dumps(without(schema, _NO_RULES), sort_keys=True, default=_type_of)
    except Exception:  # noqa: BLE001 - types bring code of their own, and many have no schema
        return ""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _schema_of(annotation: Any) -> Any:
    if values.is_model(annotation):
        return annotation.model_json_schema()
    try:
        return msgspec.json.schema(annotation, schema_hook=_foreign)
    except TypeError:
        if not any(values.models_in(annotation)):
            raise
    from pydantic import TypeAdapter  # The annotation names one of its types, so it is installed.

    return TypeAdapter(annotation).json_schema()


def _foreign(kind: type) -> dict[str, Any]:
    """Returns the schema of a type that msgspec does not read by itself."""
    if values.is_model(kind):
        schema: dict[str, Any] = kind.model_json_schema()  # type: ignore[attr-defined]
        return schema
    for plain in (int, float, str):
        if issubclass(kind, plain):
            return {"type": plain.__name__}
    raise NotImplementedError


def without(schema: Any, keywords: Set[str]) -> Any:
    """Returns a schema without these keywords."""
    if isinstance(schema, list):
        return [without(part, keywords) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    rest: dict[str, Any] = {}
    for key, part in schema.items():
        if key in _NAMES and isinstance(part, Mapping):
            rest[key] = {name: without(inner, keywords) for name, inner in part.items()}
        elif key in _VALUES:
            rest[key] = part
        elif key not in keywords:
            rest[key] = without(part, keywords)
    return rest


def _type_of(value: object) -> str:
    """Returns a text in place of a value that JSON cannot hold. Its repr may have an address, and those differ."""
    return type(value).__qualname__
