"""Encodes payloads and decodes results, with the client's own errors."""

from __future__ import annotations

from typing import Any

import msgspec

from gowork.base import values
from gowork.base.typed_values import Unfit, reader_of
from gowork.client.errors import InvalidArgument, ResultError


def encode_payload(payload: object) -> tuple[str, bytes, int]:
    """Encodes a payload. Returns the fields payload, data and payload_form of a task; one of the first two is empty.

    Raises:
        InvalidArgument: when the payload cannot be encoded, or takes more than 1 MiB.
    """
    try:
        return values.encode_payload(payload)
    except values.ValueRefused as error:
        raise InvalidArgument.of("payload", str(error)) from error


def decode_result(text: str, data: bytes, type: Any = None, *, is_empty_data: bool = False) -> Any:
    """Decodes a result from the fields of a task; see TaskInfo.value.

    Raises:
        ResultError: when the result does not fit the type.
    """
    try:
        if type is None or type is Any:
            if data or is_empty_data or not text:
                return data if data or is_empty_data else None
            return msgspec.json.decode(text)
        return reader_of(type).result(text, data, is_empty_data=is_empty_data)
    except (Unfit, msgspec.MsgspecError) as error:
        raise ResultError(f"the result is not {_name(type)}: {error}") from error


def _name(type: Any) -> str:
    return "JSON" if type is None else values.type_name(type)
