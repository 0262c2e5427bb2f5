"""Describes handlers to clients: what each takes and returns, as JSON Schemas, and the first line of its documentation.

Every process with the same version of a handler describes it in the same bytes, because leaders and workers know a
description by its digest. So defaults are left out, which a process may make anew (a time, a random id).
"""

from __future__ import annotations

import hashlib
import inspect
import json
import warnings
from typing import Any

import msgspec

from gowork.base import values
from gowork.proto import limits
from gowork.worker._core.calls import Handler
from gowork.worker._core.forms import without

#: Most characters of the line of documentation.
DOC_CHARACTERS_MAX = 200
#: Keywords that processes may fill in different ways.
_UNSTABLE = frozenset({"default", "examples", "$comment"})
#: Keywords for people, which a large schema does without.
_WORDS = frozenset({"title", "description"})
_PLAIN = {int: "integer", float: "number", str: "string"}


def describe(handler: Handler) -> tuple[str, tuple[str, ...]]:
    """Returns the description of a handler, and which of its schemas, "payload" or "result", were left out.

    Never raises. cluster.v1.HandlerVersion says what a description has. A schema with which it would be larger than 64
    KiB loses its titles and descriptions. If it is still too large it is left out: that of the result before that of
    the payload.
    """
    parts: dict[str, Any] = {}
    left_out: list[str] = []
    if doc := _doc(handler.function):
        parts["doc"] = doc
    if handler.decode is None:
        parts["takes_payload"] = False
    elif handler.is_payload_optional:
        parts["payload_optional"] = True
    for name, annotation in (("payload", handler.payload_type), ("result", handler.result_type)):
        schema = schema_of(annotation, for_result=name == "result")
        if schema is None:
            continue
        for shown in (schema, without(schema, _WORDS)):
            if len(_text(parts | {name: shown})) <= limits.HANDLER_DESCRIPTION_BYTES_MAX:
                parts[name] = shown
                break
        else:
            left_out.append(name)
    return _text(parts), tuple(left_out)


def digest_of(description: str) -> str:
    """Returns the digest by which leaders know a description; empty for none."""
    digits = hashlib.sha256(description.encode()).hexdigest()
    return digits[: limits.HANDLER_DIGEST_DIGITS] if description else ""


def schema_of(annotation: Any, *, for_result: bool = False) -> Any:
    """Returns the JSON Schema of a payload or a result of this type; None where it has none."""
    if annotation is inspect.Parameter.empty or annotation is Any or annotation is object:
        return None
    try:
        with warnings.catch_warnings():
            # Pydantic warns of defaults that JSON cannot hold.
            warnings.simplefilter("ignore")
            schema = without(_schema(annotation, for_result=for_result), _UNSTABLE)
        return json.loads(json.dumps(_readable(schema)))
    except Exception:  # noqa: BLE001 - types bring code of their own, and many have no schema
        return None


def _schema(annotation: Any, *, for_result: bool) -> Any:
    if values.is_model(annotation):
        return _of_pydantic(annotation.model_json_schema, annotation.__qualname__, for_result=for_result)

    def foreign(kind: type) -> dict[str, Any]:
        if values.is_model(kind):
            schema: dict[str, Any] = _of_pydantic(
                kind.model_json_schema,  # type: ignore[attr-defined]
                kind.__qualname__,
                for_result=for_result,
            )
            # Its references are to its own parts, which are not those of the schema around it.
            return {"$id": f"gowork:{kind.__qualname__}", **schema}
        for plain, name in _PLAIN.items():
            if issubclass(kind, plain):
                return {"type": name}
        raise NotImplementedError

    try:
        return msgspec.json.schema(annotation, schema_hook=foreign)
    except TypeError:
        if not any(values.models_in(annotation)):
            raise
    from pydantic import TypeAdapter  # The annotation names one of its types, so it is installed.

    return _of_pydantic(TypeAdapter(annotation).json_schema, "payload", for_result=for_result)


def _of_pydantic(make: Any, name: str, *, for_result: bool) -> Any:
    """Returns a schema of pydantic's. A payload may have the aliases of fields or their own names."""
    if for_result:
        return make(mode="serialization", by_alias=False)
    by_alias, by_name = make(by_alias=True), make(by_alias=False)
    if by_alias == by_name:
        return by_alias
    return {"anyOf": [{"$id": f"gowork:{name}/{form}", **each} for form, each in enumerate((by_alias, by_name))]}


def _readable(schema: Any) -> Any:
    """Returns a schema of msgspec's that also accepts what msgspec reads, but does not write: a decimal as a number."""
    if isinstance(schema, list):
        return [_readable(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    readable = {key: _readable(part) for key, part in schema.items()}
    if readable.get("format") == "decimal" and readable.get("type") == "string":
        readable["type"] = ["string", "number"]
    return readable


def _doc(function: Any) -> str:
    try:
        lines = (inspect.getdoc(function) or "").splitlines()
    except Exception:  # noqa: BLE001 - a function's attributes may be anything
        return ""
    line = lines[0].strip() if lines else ""
    return "".join(character for character in line if character.isprintable())[:DOC_CHARACTERS_MAX]


def _text(parts: dict[str, Any]) -> str:
    return json.dumps(parts, sort_keys=True, separators=(",", ":"))
