"""Turns payloads into the type that a handler asks for, and the value that it returns into a result.

gowork.base.typed_values decides how each type is read, and gowork.base.values how each value is written. Clients use
the same modules.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from gowork.base import values
from gowork.base.typed_values import Unfit, UnreadableType, reader_of
from gowork.base.values import is_model, type_name

#: Takes the payload's text, data and form, and returns the value for the handler.
Decoder = Callable[[str, bytes, int], Any]
#: A value of exactly one of these types is read back as it was written.
_PLAIN = (str, int, float, bool, bytes)
#: Takes what a handler returned, and its result as text and data. Raises ResultError when it is of another type.
ResultCheck = Callable[[Any, str, bytes], None]


class PayloadError(Exception):
    """A payload does not fit the type that its handler asks for; the message names the field."""


class ResultError(Exception):
    """A handler returned something that cannot be a result; the message names its place and type."""


def decoder_of(annotation: Any, default: Any = inspect.Parameter.empty) -> Decoder:
    """Returns the decoder for a parameter with this annotation.

    A parameter without annotation gets text and bytes as they are. An empty payload becomes the parameter's default
    value where it has one.

    Raises:
        PayloadError: when no payload can be read as this type.
    """
    if annotation is inspect.Parameter.empty:
        return _with_default(_as_it_is, default)
    try:
        reader = reader_of(annotation)
    except UnreadableType as error:
        raise PayloadError(f"payloads cannot be read as {error}") from error
    read = reader.payload
    takes_every_text = reader.takes_every_text

    def decode(text: str, data: bytes, form: int) -> Any:
        if takes_every_text and not data and form != values.FORM_DATA:
            return text
        try:
            return read(text, data, form)
        except Unfit as error:
            raise PayloadError(f"payload: {error}") from error

    return _with_default(decode, default)


def encode_result(value: Any) -> tuple[str, bytes]:
    """Writes what a handler returned as (JSON text, b"") or as ("", bytes). ("", b"") stands for no bytes.

    Raises:
        ResultError: when it cannot be written as JSON, or is over 1 MiB.
    """
    try:
        return values.encode_result(value)
    except values.ValueRefused as error:
        raise ResultError(f"the result: {error}") from error


def result_check_of(annotation: Any, handler: str) -> ResultCheck | None:
    """Returns the check of a handler's results, by the type that the handler is annotated to return.

    A result is read back as that type, as a client does that asks for it. A pydantic model has checked its fields
    itself, and need not read what it writes. None where every result fits.

    Args:
        annotation: the type.
        handler: the handler's name, for errors.

    Raises:
        UnreadableType: results cannot be read as this type.
    """
    if annotation is Any or annotation is object:
        return None
    reader = reader_of(annotation)
    model = annotation if is_model(annotation) else ()
    plain = next((kind for kind in _PLAIN if annotation is kind), None)
    # Most results are JSON alone. They are read without the choice between texts, bytes and JSON, for each task.
    read = reader.json if reader.text is None and reader.data is None else None

    def check(value: Any, text: str, data: bytes) -> None:
        if type(value) is plain or isinstance(value, model):
            return
        try:
            if read is not None and text:
                read(text)
            else:
                reader.result(text, data, is_empty_data=not (text or data))
        except Unfit as error:
            raise ResultError(
                f"the result is not {type_name(annotation)}, which handler {handler!r} is annotated to return: "
                f"{error}; return that type, or change the annotation"
            ) from error

    return check


def encode_payload(value: Any) -> tuple[str, bytes, int]:
    """Writes a payload to schedule as (text, bytes, form). Text and bytes stay as they are, all else becomes JSON.

    Raises:
        ValueError: when it cannot be written as JSON, or is over 1 MiB.
    """
    try:
        return values.encode_payload(value)
    except values.ValueRefused as error:
        raise ValueError(f"payload: {error}") from error


def _with_default(decode: Decoder, default: Any) -> Decoder:
    if default is inspect.Parameter.empty:
        return decode
    return lambda text, data, form: decode(text, data, form) if text or data or form else default


def _as_it_is(text: str, data: bytes, form: int) -> Any:
    return data if data or form == values.FORM_DATA else text
