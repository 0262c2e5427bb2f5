"""Refuses arguments of a wrong type by their names. protobuf would not say which argument is wrong."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from gowork.client.errors import InvalidArgument

MessageT = TypeVar("MessageT", bound=Message)
ItemT = TypeVar("ItemT")
#: {protobuf's type of a field: what the caller has to give}
_NEEDED = {
    FieldDescriptor.CPPTYPE_STRING: "text",
    FieldDescriptor.CPPTYPE_INT32: "a whole number",
    FieldDescriptor.CPPTYPE_INT64: "a whole number",
    FieldDescriptor.CPPTYPE_UINT32: "a whole number",
    FieldDescriptor.CPPTYPE_UINT64: "a whole number",
    FieldDescriptor.CPPTYPE_DOUBLE: "a number",
    FieldDescriptor.CPPTYPE_FLOAT: "a number",
    FieldDescriptor.CPPTYPE_BOOL: "True or False",
}


def message(kind: type[MessageT], /, *, within: str = "", **fields: Any) -> MessageT:
    """Makes a message of these fields.

    Args:
        kind: the message's class.
        within: the prefix of a field's name in an error, such as `retry.`.
        fields: {name: value}, as for the class.

    Raises:
        InvalidArgument: when a value has another type than its field, or is out of the field's range.
    """
    try:
        return kind(**fields)
    except UnicodeError:
        # Its message says which character of which text is wrong.
        raise
    except (TypeError, ValueError) as error:
        # The field at fault is searched only after a failure, because that takes time.
        for name, value in fields.items():
            try:
                kind(**{name: value})
            except (TypeError, ValueError):
                raise InvalidArgument.of(f"{within}{name}", f"is {value!r}; {_needed(kind, name)}") from error
        raise


def text(value: object, field: str) -> str:
    """Returns the value, which has to be text.

    Raises:
        InvalidArgument: when it is not text.
    """
    if not isinstance(value, str):
        raise InvalidArgument.of(field, f"is {value!r}; text is needed")
    return value


def seconds(value: Any, field: str) -> float:
    """Returns a number of seconds, which may be negative or infinite.

    Raises:
        InvalidArgument: when it is not a number.
    """
    try:
        # A NaN is not: it is below nothing and above nothing, so that no wait would ever end by it.
        is_number = bool(-math.inf <= value <= math.inf)
    except TypeError:
        is_number = False
    if not is_number:
        raise InvalidArgument.of(field, f"is {value!r}; a number of seconds is needed")
    return float(value)


def pairs(value: object, field: str) -> dict[str, str]:
    """Returns a mapping of text to text, such as labels, as a dict.

    Raises:
        InvalidArgument: when it is not such a mapping. The error names the key at fault.
    """
    if not isinstance(value, Mapping):
        raise InvalidArgument.of(field, f"is {value!r}; a mapping of text to text is needed, as in {{'team': 'web'}}")
    for key, part in value.items():
        text(key, f"a key of {field}")
        text(part, f"{field}[{key!r}]")
    return dict(value)


def many(values: Iterable[ItemT], field: str) -> Iterable[ItemT]:
    """Returns the values, which have to be an iterable, but not a text: nobody means the text's characters.

    Raises:
        InvalidArgument: when it is a text, bytes, or cannot be iterated.
    """
    if isinstance(values, (str, bytes, bytearray)) or not isinstance(values, Iterable):
        raise InvalidArgument.of(field, f"is {values!r}; a list, or another iterable of them, is needed")
    return values


def _needed(kind: type[Message], name: str) -> str:
    field = kind.DESCRIPTOR.fields_by_name[name]
    return f"{_NEEDED.get(field.cpp_type, 'another type')} is needed"
