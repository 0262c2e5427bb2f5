"""A handler whose tasks go on until they are cancelled, for tasks that run while something else is measured."""

from __future__ import annotations

import asyncio

from gowork.worker import handler


@handler("bench.hold")
async def hold(payload: str) -> None:
    """Waits for ever."""
    await asyncio.Event().wait()
