"""Resolves an annotation of a handler: a worker reads payloads by one and checks results by another, and a client
decodes results by the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, get_type_hints


def resolved(function: Callable[..., Any], annotation: Any, stand_ins: Mapping[str, Any] | None = None) -> Any:
    """Returns the type that an annotation of the function names.

    Args:
        function: the function; names are looked up where it was defined.
        annotation: the annotation, as inspect.signature has it: a type, or its text.
        stand_ins: {name: type} for names that the function's module lacks.

    Raises:
        Exception: of any type, when the annotation names what is not there at run time.
    """
    inner = inspect.unwrap(function)
    outside = getattr(inner, "__globals__", {})
    inside = _enclosed(inner)
    for name, kind in (stand_ins or {}).items():
        if name not in outside:
            inside.setdefault(name, kind)
    # get_type_hints resolves every annotation that it finds, so it is given this one alone.
    alone = SimpleNamespace(__annotations__={"it": annotation})
    return get_type_hints(alone, outside, inside, include_extras=True)["it"]


def result_type(function: Callable[..., Any]) -> Any:
    """Returns the type that a function is annotated to return; inspect.Signature.empty where it is not annotated.

    Raises:
        Exception: of any type, as `resolved` does.
    """
    annotation = inspect.signature(function).return_annotation
    return annotation if annotation is inspect.Signature.empty else resolved(function, annotation)


def _enclosed(function: object) -> dict[str, Any]:
    """Returns the variables of enclosing functions that a function refers to, except those that are not bound yet.

    inspect.getclosurevars refuses a function with such a variable, for example a function defined further down.
    """
    if not inspect.isfunction(function):
        return {}
    bound = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            bound[name] = cell.cell_contents
        except ValueError:
            pass  # Not bound yet.
    return bound
