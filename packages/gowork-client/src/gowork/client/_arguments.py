"""Refuses arguments of a wrong type by their names, where protobuf would tell of "a bad argument" and not which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from gowork.client.errors import InvalidArgument

MessageT = TypeVar("MessageT", bound=Message)
ItemT = TypeVar("ItemT")
#: {what protobuf makes of a field in Python: what the caller has to give}
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
    """A message of these fields.

    Args:
        kind: the message's class.
        within: what stands before a field's name in an error, as in `retry.`.
        fields: as for the class.

    Raises:
        InvalidArgument: when one of them has another type than its field, or is out of its range.
    """
    try:
        return kind(**fields)
    except UnicodeError:
        # Its message says which character of which text is wrong.
        raise
    except (TypeError, ValueError) as error:
        # Only now is it worth the time to find the one.
        for name, value in fields.items():
            try:
                kind(**{name: value})
            except (TypeError, ValueError):
                raise InvalidArgument.of(f"{within}{name}", f"is {value!r}; {_needed(kind, name)}") from error
        raise


def text(value: object, field: str) -> str:
    """The value, which has to be text.

    Raises:
        InvalidArgument: when it is none.
    """
    if not isinstance(value, str):
        raise InvalidArgument.of(field, f"is {value!r}; text is needed")
    return value


def pairs(value: object, field: str) -> dict[str, str]:
    """A mapping of text to text, as labels are.

    Raises:
        InvalidArgument: when it is none; the key at fault is named.
    """
    if not isinstance(value, Mapping):
        raise InvalidArgument.of(field, f"is {value!r}; a mapping of text to text is needed, as in {{'team': 'web'}}")
    for key, part in value.items():
        text(key, f"a key of {field}")
        text(part, f"{field}[{key!r}]")
    return dict(value)


def many(values: Iterable[ItemT], field: str) -> Iterable[ItemT]:
    """The values, which have to be several. Python would iterate one text by its characters, which nobody means.

    Raises:
        InvalidArgument: for one text, for bytes, and for what can't be iterated.
    """
    if isinstance(values, (str, bytes, bytearray)) or not isinstance(values, Iterable):
        raise InvalidArgument.of(field, f"is {values!r}; a list, or another iterable of them, is needed")
    return values


def _needed(kind: type[Message], name: str) -> str:
    field = kind.DESCRIPTOR.fields_by_name[name]
    return f"{_NEEDED.get(field.cpp_type, 'another type')} is needed"
