"""The handler of callback workers in the tests: its payload says how it ends."""

from __future__ import annotations

import asyncio

from gowork.worker import Cancel, Context, Retry, Snooze, handler


@handler(max_attempts=2)
async def ends(ctx: Context, payload: str) -> None:
    if payload == "cancel":
        raise Cancel("not needed any more")
    if payload == "snooze" and ctx.attempt == 1:
        raise Snooze("not yet", delay=0.05)
    if payload == "retry" and ctx.attempt == 1:
        raise Retry("flaky", delay=0.05)
    if payload == "for ever":
        ctx.progress(0.5, "half way")
        await asyncio.Event().wait()
