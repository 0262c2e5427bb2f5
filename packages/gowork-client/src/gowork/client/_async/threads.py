"""Calls functions that block, for the asyncio client: in a thread, so that the event loop goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
ResultT = TypeVar("ResultT")


async def blocking(function: Callable[P, ResultT], *args: P.args, **keywords: P.kwargs) -> ResultT:
    """Calls the function in a thread, and waits for its result."""
    return await asyncio.to_thread(function, *args, **keywords)
