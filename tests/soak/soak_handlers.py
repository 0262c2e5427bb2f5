"""Handlers of every kind, which do what their payload says.

Python switches between threads every 10 µs, so that threads often see each other's unfinished work.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from typing import Any

from gowork.worker import Cancel, Context, Fail, Retry, Snooze, handler, lifespan

sys.setswitchinterval(1e-5)

#: {what the handler is to do: 1, "n": the task's number}; `_before` has the order.
Plan = dict[str, Any]


class Unspeakable(Exception):
    """An exception of which neither text nor attributes can be read."""

    def __str__(self) -> str:
        raise SystemExit

    def __getattr__(self, name: str) -> Any:
        raise KeyboardInterrupt


@lifespan
async def tools(state: Any) -> AsyncIterator[None]:
    state.words = {"open": "yes"}
    yield
    state.words = None


def _before(ctx: Context, plan: Plan) -> None:
    if "progress" in plan:
        for step in range(3):
            ctx.progress(step / 3, f"step {step}")
    if "log" in plan:
        logging.getLogger("soak").warning("asked", extra={"number": plan["n"]})
    if "spans" in plan:
        with ctx.tracer.start_as_current_span("part"):
            pass
    if "state" in plan:
        assert ctx.state.words["open"] == "yes"
    if "retry" in plan and ctx.attempt < 3:
        raise Retry("again", delay=0.01)
    if "snooze" in plan and ctx.attempt < 2:
        raise Snooze("later", delay=0.01)
    if "follow" in plan:
        ctx.schedule({"n": plan["n"]}, handler="leaf", id=f"{ctx.id}/leaf")
    if "fail" in plan:
        raise Fail("for good")
    if "cancel_itself" in plan:
        raise Cancel("not wanted")
    if "unspeakable" in plan:
        raise Unspeakable


def _block(ctx: Context, plan: Plan) -> int:
    _before(ctx, plan)
    if "hold" in plan:
        ctx.cancelled.wait(60)
    return int(plan["n"])


async def _await(ctx: Context, plan: Plan) -> int:
    if "yield" in plan:
        await asyncio.sleep(0)
    _before(ctx, plan)
    if "hold" in plan:
        # The handler's own work: only a cancel or a time limit may end it.
        await asyncio.sleep(60)
    return int(plan["n"])


@handler(max_attempts=3)
def plain(ctx: Context, plan: Plan) -> int:
    return _block(ctx, plan)


@handler(max_attempts=3, time_limit=60)
def plain_limited(ctx: Context, plan: Plan) -> int:
    return _block(ctx, plan)


@handler(max_attempts=3, time_limit=60, grace=30, on_lease_lost="stop")
def plain_graced(ctx: Context, plan: Plan) -> int:
    return _block(ctx, plan)


@handler(max_attempts=3)
async def on_loop(ctx: Context, plan: Plan) -> int:
    return await _await(ctx, plan)


@handler(max_attempts=3, time_limit=60)
async def on_loop_limited(ctx: Context, plan: Plan) -> int:
    return await _await(ctx, plan)


@handler(max_attempts=3, time_limit=60, isolation="process", grace=30)
def alone(ctx: Context, plan: Plan) -> int:
    return _block(ctx, plan)


@handler
def leaf(plan: Plan) -> int:
    return int(plan["n"])
