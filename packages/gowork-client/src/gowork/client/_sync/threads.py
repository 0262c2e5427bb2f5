"""Calls functions that block, for the blocking client: directly, because its caller waits in any case."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
ResultT = TypeVar("ResultT")


def blocking(function: Callable[P, ResultT], *args: P.args, **keywords: P.kwargs) -> ResultT:
    """Calls the function in this thread."""
    return function(*args, **keywords)
