"""The payload of a task that calls a function, and how its arguments get the types that the function wants."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

import msgspec


class PythonCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The payload: JSON with these fields. Only `call` is needed."""

    #: The function: `package.module:name`.
    call: str
    #: Its arguments by position.
    args: list[Any] = []
    #: Its arguments by name.
    kwargs: dict[str, Any] = {}


def bound(function: Callable[..., Any], call: PythonCall) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns the arguments to call the function with: (by position, by name).

    An argument becomes what its parameter is annotated with, as the payload of a handler does. It stays as it is in
    JSON where there is no annotation, or one that JSON can't be read as.

    Raises:
        ValueError: when an argument is missing, is one too many, or does not fit its annotation. The text names it.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        # Some functions of C modules tell nobody what they take.
        return tuple(call.args), call.kwargs
    try:
        arguments = signature.bind(*call.args, **call.kwargs)
    except TypeError as error:
        raise ValueError(f"args, kwargs: {error}; {call.call} takes {signature}") from None
    hints = _hints(function)
    for name, value in arguments.arguments.items():
        if name not in hints:
            continue
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            arguments.arguments[name] = tuple(_fitting(name, each, hints[name]) for each in value)
        elif kind is inspect.Parameter.VAR_KEYWORD:
            arguments.arguments[name] = {key: _fitting(key, each, hints[name]) for key, each in value.items()}
        else:
            arguments.arguments[name] = _fitting(name, value, hints[name])
    return arguments.args, arguments.kwargs


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    # Those of a class are its attributes' and not its constructor's.
    described: Any = vars(function).get("__init__", function) if isinstance(function, type) else function
    try:
        return get_type_hints(described, include_extras=True)
    except Exception:  # noqa: BLE001 - annotations are code, and may raise anything
        return {}


def _fitting(name: str, value: Any, annotation: Any) -> Any:
    try:
        return msgspec.convert(value, annotation)
    except msgspec.ValidationError as error:
        raise ValueError(f"argument {name!r}: {error}") from None
    except TypeError:
        # msgspec knows no such type.
        return value
