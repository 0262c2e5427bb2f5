"""Writes Python's values to the wire: payloads and results, in the same way for clients and workers.

Text and bytes are sent as they are. Everything else becomes JSON, by msgspec, which writes dataclasses, Structs, attrs,
enums, datetimes and UUIDs. Pydantic's models are recognized by their attributes, so that only programs that use
pydantic need it. What JSON cannot hold is refused, with its place in the value. It never silently becomes null.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, get_args, get_type_hints

import msgspec

from gowork.proto import limits

#: The values of scheduler.v1.PayloadForm. They are repeated here because that enum's module imports protobuf, which a
#: module of handlers need not load.
FORM_UNSPECIFIED = 0
FORM_TEXT = 1
FORM_DATA = 2
#: The characters with which JSON begins. A text that begins so might be mistaken for JSON.
_JSON_BEGINS = frozenset('"{[-0123456789tfn \t\r\n')
#: Finds what encoders write for NaN and infinities. Only values whose JSON has it are searched for such floats.
_maybe_non_finite = re.compile(b'null|NaN|Infinity|"nan"|inf"').search


class ValueRefused(ValueError):
    """A value that cannot be sent. The message says why, and at which place in the value."""


def encode_payload(value: object) -> tuple[str, bytes, int]:
    """Writes a payload. Returns the fields payload, data and payload_form of a task; one of the first two is empty.

    A msgspec.Raw is sent as text as it is. The handler's type decides how it is read.

    Raises:
        ValueRefused: the value cannot be written, or takes more than 1 MiB.
    """
    text, data, form = "", b"", FORM_UNSPECIFIED
    if isinstance(value, str):
        # A subclass may have its own __str__: that of an enum returns the member's name.
        text, size = value if type(value) is str else str.__str__(value), len(value)
        if text[:1] in _JSON_BEGINS:
            form = FORM_TEXT
        # Most texts are short ASCII. Only others are encoded to count their bytes.
        if size * 4 > limits.PAYLOAD_BYTES_MAX or not text.isascii():
            size = len(_utf8(text))
    elif isinstance(value, (bytes, bytearray, memoryview)):
        data = bytes(value)
        size = len(data)
        if not data:
            form = FORM_DATA
    else:
        encoded = bytes(value) if isinstance(value, msgspec.Raw) else _json(value, _payload_json, _payload_parts)
        try:
            text, size = encoded.decode(), len(encoded)
        except UnicodeDecodeError as error:
            raise ValueRefused(f"the text is not UTF-8: {error}") from None
    _check_size(value, size)
    return text, data, form


def encode_result(value: object) -> tuple[str, bytes]:
    """Writes what a handler returned. Returns (JSON text, b"") or ("", bytes); ("", b"") stands for empty bytes.

    Raises:
        ValueRefused: the value cannot be written, or takes more than 1 MiB.
    """
    if value is None:
        return "null", b""
    if isinstance(value, (bytes, bytearray, memoryview)):
        data = bytes(value)
        _check_size(value, len(data))
        return "", data
    encoded = _json(value, _result_json, _result_parts)
    _check_size(value, len(encoded))
    return encoded.decode(), b""


def type_name(annotation: Any) -> str:
    """Returns a type's name for messages."""
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__qualname__
    return str(annotation)


def is_model(annotation: Any) -> bool:
    """Whether the annotation is a class of pydantic's models, or one with their methods."""
    return (
        isinstance(annotation, type)
        and hasattr(annotation, "model_validate_json")
        and hasattr(annotation, "model_dump_json")
    )


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueRefused(f"the text has a lone surrogate at character {error.start}, which UTF-8 lacks") from None


def _check_size(value: object, size: int) -> None:
    if size > limits.PAYLOAD_BYTES_MAX:
        raise ValueRefused(
            f"{type_name(type(value))} of {size:,} bytes; at most {limits.PAYLOAD_BYTES_MAX:,} (1 MiB) are taken: "
            "store it elsewhere, and send its address"
        )


def _json(value: object, encode: Callable[[object], bytes], parts: Callable[[Any], Any]) -> bytes:
    try:
        encoded = encode(value)
        if _maybe_non_finite(encoded):
            _check_finite(msgspec.to_builtins(value, enc_hook=parts), "$")
    except ValueRefused:
        raise
    except RecursionError:
        raise ValueRefused(f"{type_name(type(value))} is nested too deeply, or contains itself") from None
    except Exception as error:  # The own code of a model or an object may raise any exception.
        place, part = _culprit(value, "$", encode)
        raise ValueRefused(
            f"{type_name(type(part))} cannot be written as JSON: {_text(error)} - at `{place}`"
        ) from error
    return encoded


def _text(error: Exception) -> str:
    try:
        return str(error) or type(error).__name__
    except Exception:  # noqa: BLE001 - a foreign exception's own code
        return type(error).__name__


def _payload_parts(value: Any) -> Any:
    """Returns an object that msgspec cannot write itself as plain values."""
    model: Any = type(value)
    if is_model(model):
        if _writes_non_finite(model):
            return msgspec.json.decode(_model_json(value, for_payload=True))
        return value.model_dump(mode="json", **_model_options(model, for_payload=True))
    return _by_value(value)


def _result_parts(value: Any) -> Any:
    if is_model(type(value)):
        if _writes_non_finite(type(value)):
            return msgspec.json.decode(_model_json(value, for_payload=False))
        return value.model_dump(mode="json")
    return _by_value(value)


def _payload_part(value: Any) -> Any:
    return msgspec.Raw(_model_json(value, for_payload=True)) if is_model(type(value)) else _by_value(value)


def _result_part(value: Any) -> Any:
    return msgspec.Raw(_model_json(value, for_payload=False)) if is_model(type(value)) else _by_value(value)


_payload_json = msgspec.json.Encoder(enc_hook=_payload_part).encode
_result_json = msgspec.json.Encoder(enc_hook=_result_part).encode


def _by_value(value: Any) -> Any:
    """Returns a subclass of a number or a text, or an array without dimensions (numpy's scalar), as a plain value."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return operator.index(value)
    if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
        plain = value.item()
        if isinstance(plain, (bool, int, float, str, bytes)):
            return plain
    raise TypeError("such objects have no JSON form")


def _model_json(value: Any, *, for_payload: bool) -> bytes:
    model: Any = type(value)
    return str(value.model_dump_json(**_model_options(model, for_payload=for_payload))).encode()


@lru_cache(1024)
def _model_options(model: Any, *, for_payload: bool) -> Mapping[str, bool]:
    """Returns the options with which to dump a payload's model, so that the model can read it; none for a result."""
    if not for_payload or not hasattr(model, "__pydantic_validator__"):
        return {}
    return {"by_alias": _reads_what_it_writes(model, set()), "round_trip": True}


def _reads_what_it_writes(annotation: Any, seen: set[Any]) -> bool:
    """Whether all fields in a model can be read by the aliases under which they are written.

    If not, they are written under their own names.
    """
    parts = list(get_args(annotation))
    if isinstance(annotation, type) and annotation not in seen:
        seen.add(annotation)
        fields = getattr(annotation, "__pydantic_fields__", None) or getattr(annotation, "model_fields", {})
        for field in fields.values():
            written, read = field.serialization_alias, field.validation_alias
            if written is not None and written not in getattr(read, "choices", (read,)):
                return False
            parts.append(field.annotation)
        if not fields and vars(annotation).get("__annotations__"):
            parts += _hints(annotation)
    return all(_reads_what_it_writes(part, seen) for part in parts)


def _hints(kind: type) -> list[Any]:
    """Returns the types of the fields of a dataclass or a typed dict."""
    try:
        return list(get_type_hints(kind).values())
    except (NameError, TypeError, AttributeError):
        return []


def models_in(annotation: Any) -> Iterator[Any]:
    """Yields the pydantic models that an annotation names."""
    if is_model(annotation) and hasattr(annotation, "model_fields"):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def _writes_non_finite(model: Any) -> bool:
    """Whether the model is configured to write NaN and infinities as strings, which it can read."""
    return (getattr(model, "model_config", None) or {}).get("ser_json_inf_nan") == "strings"


def _check_finite(value: object, place: str) -> None:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueRefused(f"{value} cannot be written as JSON, which has finite numbers only - at `{place}`")
    elif isinstance(value, dict):
        for key, part in value.items():
            if isinstance(key, float):
                _check_finite(key, f"{place}[…]")
            _check_finite(part, f"{place}.{key}")
    elif isinstance(value, (list, tuple, set, frozenset)):
        for number, part in enumerate(value):
            _check_finite(part, f"{place}[{number}]")


def _culprit(value: Any, place: str, encode: Callable[[object], bytes]) -> tuple[str, object]:
    """Returns the place of the innermost part that cannot be written, and that part."""
    for name, part in _parts(value):
        try:
            encode(part)
        except Exception:  # noqa: BLE001 - as in _json
            return _culprit(part, place + name, encode)
    if isinstance(value, dict):
        for key in value:
            try:
                encode({key: None})
            except Exception:  # noqa: BLE001 - as in _json
                return f"{place}[{key!r:.100}]", key
    return place, value


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f".{key}", part) for key, part in value.items())
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from ((f"[{number}]", part) for number, part in enumerate(value))
    else:
        kind = type(value)
        names = getattr(kind, "__struct_fields__", None) or getattr(kind, "__dataclass_fields__", None)
        if names is None:
            names = [attribute.name for attribute in getattr(kind, "__attrs_attrs__", ())]
        yield from ((f".{name}", getattr(value, name)) for name in names if hasattr(value, name))
