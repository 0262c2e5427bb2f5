"""Payloads into the type that a handler asks for, and what it returns into a result.

msgspec does the work for dataclasses, Structs, TypedDicts and built-in types; pydantic's models are known by their
methods, so that pydantic is needed only by those who use it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import msgspec

from gowork.rpc import limits

#: Takes the payload's text and data, of which at most one is set, and returns what the handler wants.
Decoder = Callable[[str, bytes], Any]


class PayloadError(Exception):
    """A payload that does not fit what its handler asks for; the message names the field."""


class ResultError(Exception):
    """A handler returned something that cannot be a result."""


def decoder_of(annotation: Any, default: Any = inspect.Parameter.empty) -> Decoder:
    """The decoder for a parameter with this annotation.

    Text is passed on as it is to `str` and to a parameter without annotation, data to `bytes`. Everything else is
    read as JSON. An empty payload becomes the parameter's default value where it has one.
    """
    if annotation is inspect.Parameter.empty:
        return _with_default(_as_it_is, default)
    if annotation is str:
        return _with_default(_text, default)
    if annotation in (bytes, bytearray):
        return _with_default(lambda text, data: annotation(data or text.encode()), default)
    if hasattr(annotation, "model_validate_json"):
        return _with_default(_model(annotation), default)
    try:
        decode = msgspec.json.Decoder(annotation).decode
        known = not isinstance(msgspec.inspect.type_info(annotation), msgspec.inspect.CustomType)
    except TypeError as error:
        raise PayloadError(f"payloads cannot be read as {_name(annotation)}: {error}") from error
    if not known:
        raise PayloadError(f"payloads cannot be read as {_name(annotation)}: use a dataclass or msgspec.Struct")
    return _with_default(_json(decode, _name(annotation)), default)


def encode_result(value: Any) -> tuple[str, bytes]:
    """What a handler returned, as JSON text or as bytes.

    Raises:
        ResultError: when it cannot be written as JSON, or is over 1 MiB.
    """
    if value is None:
        return "null", b""
    if isinstance(value, (bytes, bytearray, memoryview)):
        text, data = "", bytes(value)
    else:
        try:
            text, data = _encode(value).decode(), b""
        except Exception as error:
            raise ResultError(
                f"the handler returned a {_name(type(value))} that cannot be written as JSON: {error}"
            ) from error
    size = len(data) or len(text.encode())
    if size > limits.PAYLOAD_BYTES_MAX:
        raise ResultError(
            f"the result has {size:,} bytes, the limit is {limits.PAYLOAD_BYTES_MAX:,} (1 MiB): store it elsewhere"
        )
    return text, data


def encode_payload(value: Any) -> tuple[str, bytes]:
    """A payload to schedule, as text or as bytes: text and bytes as they are, everything else as JSON.

    Raises:
        ValueError: when it cannot be written as JSON, or is over 1 MiB.
    """
    if isinstance(value, str):
        text, data = value, b""
    elif isinstance(value, (bytes, bytearray, memoryview)):
        text, data = "", bytes(value)
    else:
        try:
            text, data = _encode(value).decode(), b""
        except Exception as error:
            raise ValueError(f"payload: a {_name(type(value))} cannot be written as JSON: {error}") from error
    size = len(data) or len(text.encode())
    if size > limits.PAYLOAD_BYTES_MAX:
        raise ValueError(f"payload: it has {size:,} bytes, the limit is {limits.PAYLOAD_BYTES_MAX:,} (1 MiB)")
    return text, data


def _encode(value: Any) -> bytes:
    if hasattr(value, "model_dump_json"):
        return str(value.model_dump_json()).encode()
    return msgspec.json.encode(value, enc_hook=_encode_other)


def _encode_other(value: Any) -> Any:
    """What msgspec does not know by itself: pydantic's models inside of containers."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise NotImplementedError(f"objects of type {_name(type(value))} are not supported")


def _with_default(decode: Decoder, default: Any) -> Decoder:
    if default is inspect.Parameter.empty:
        return decode
    return lambda text, data: decode(text, data) if text or data else default


def _as_it_is(text: str, data: bytes) -> Any:
    return data or text


def _text(text: str, data: bytes) -> str:
    if not data:
        return text
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise PayloadError(f"data: not UTF-8 text: {error}") from error


def _json(decode: Callable[[str | bytes], Any], wanted: str) -> Decoder:
    def read(text: str, data: bytes) -> Any:
        try:
            return decode(data or text)
        except msgspec.DecodeError as error:
            if not text and not data:
                raise PayloadError(f"payload: it is empty; the handler takes JSON of {wanted}") from error
            raise PayloadError(f"payload: {error}") from error

    return read


def _model(annotation: Any) -> Decoder:
    def read(text: str, data: bytes) -> Any:
        try:
            return annotation.model_validate_json(data or text)
        except ValueError as error:  # pydantic's ValidationError is one.
            raise PayloadError(f"payload: {_violations(error)}") from error

    return read


def _violations(error: ValueError) -> str:
    errors = getattr(error, "errors", None)
    if not callable(errors):
        return str(error)
    return "; ".join(
        f"{violation['msg']} - at `$.{'.'.join(str(part) for part in violation['loc'])}`" for violation in errors()[:5]
    )


def _name(annotation: Any) -> str:
    return getattr(annotation, "__qualname__", None) or str(annotation)
