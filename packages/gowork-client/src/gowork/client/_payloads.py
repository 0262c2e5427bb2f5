"""Payloads on their way out and results on their way in.

Text and bytes go as they are; everything else is JSON, by msgspec, which knows dataclasses, Structs, attrs, enums,
datetimes and UUIDs. Pydantic models are known by their methods, so that pydantic is not needed here.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gowork.client.errors import InvalidArgument, ResultError
from gowork.rpc import limits


def encode_payload(payload: object) -> tuple[str, bytes]:
    """The fields payload and data of a task; at most one of them is filled.

    Raises:
        InvalidArgument: when it can't be encoded, or is larger than a payload may be.
    """
    text, data = "", b""
    if isinstance(payload, str):
        # Most texts are short; only a long one has to be measured in bytes.
        text, size = payload, len(payload)
        if size * 4 > limits.PAYLOAD_BYTES_MAX:
            size = len(payload.encode())
    elif isinstance(payload, (bytes, bytearray, memoryview)):
        data = bytes(payload)
        size = len(data)
    else:
        encoded = _json(payload)
        text, size = encoded.decode(), len(encoded)
    if size > limits.PAYLOAD_BYTES_MAX:
        raise InvalidArgument.of("payload", f"has {size:,} bytes; at most {limits.PAYLOAD_BYTES_MAX:,} are taken")
    return text, data


def decode_result(text: str, data: bytes, type: Any = None) -> Any:
    """The inverse, for results; see TaskInfo.value."""
    if data or not text:
        value: Any = data or None
        if type is None or type is Any or (type is bytes and data):
            return value
        if not data and type is bytes:
            return b""
        if data:
            raise ResultError(f"the result is {len(data):,} bytes, not JSON for {_name(type)}")
        text = "null"
    try:
        if hasattr(type, "model_validate_json"):
            return type.model_validate_json(text)
        return msgspec.json.decode(text, type=Any if type is None else type)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ResultError(f"the result is not {_name(type)}: {error}") from error


def _json(payload: object) -> bytes:
    try:
        if hasattr(payload, "model_dump_json"):
            return str(payload.model_dump_json()).encode()
        return _encode(payload)
    except (TypeError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise InvalidArgument.of("payload", f"a {type(payload).__name__} can't be written as JSON: {error}") from error


def _foreign(value: object) -> object:
    """What msgspec does not know, inside a larger value."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise TypeError(f"objects of type {type(value).__name__} have no JSON form")


_encode = msgspec.json.Encoder(enc_hook=_foreign).encode


def _name(type: Any) -> str:
    return "JSON" if type is None else getattr(type, "__name__", str(type))
