"""What blocks, for the blocking client: it may, because the caller waits in any case."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
ResultT = TypeVar("ResultT")


def blocking(function: Callable[P, ResultT], *args: P.args, **keywords: P.kwargs) -> ResultT:
    """Calls the function here."""
    return function(*args, **keywords)
