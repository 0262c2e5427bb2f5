"""The handlers of a chaos run, and their own record of what ran: one file for each process, one write for each line.

A line is JSON: `["start", id, fence, attempt, pid, worker, monotonic ns, wall-clock ms]` or `["end", id, fence,
attempt, pid, worker, monotonic ns, wall-clock ms, how]`, where `how` is "returned" or the name of an exception's type.
Records lie in the worker's working directory. Handlers sleep in place of work that takes `Work.ms`.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType

from gowork.worker import Context, Snooze, handler

FOLDER = Path.cwd()


@dataclass
class Work:
    """A task's payload."""

    #: How long it takes, in milliseconds.
    ms: int = 0
    #: How many attempts fail before one succeeds.
    failures: int = 0
    #: How many follow-ups it schedules.
    children: int = 0


@cache
def _record() -> int:
    return os.open(FOLDER / f"{os.getpid()}.chaos", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def _note(event: str, ctx: Context, *more: str) -> None:
    now = (time.monotonic_ns(), time.time_ns() // 1_000_000)
    line = [event, ctx.id, ctx.fence, ctx.attempt, os.getpid(), ctx.worker, *now, *more]
    # The kernel has the line when the call returns, even if this process is killed then.
    os.write(_record(), json.dumps(line).encode() + b"\n")


class _Recorded:
    """Records the start and the end of its block, in which the handler works."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    def __enter__(self) -> None:
        _note("start", self._ctx)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _note("end", self._ctx, "returned" if kind is None else kind.__name__)


@handler
async def quick(ctx: Context, work: Work) -> int:
    """Runs on the runner's loop."""
    with _Recorded(ctx):
        await asyncio.sleep(work.ms / 1000)
    return ctx.fence


@handler
def threaded(ctx: Context, work: Work) -> int:
    """Runs in one of the runner's threads, and stops when it is asked to."""
    with _Recorded(ctx):
        ctx.cancelled.wait(work.ms / 1000)
    return ctx.fence


@handler(isolation="process")
def isolated(ctx: Context, work: Work) -> int:
    """Runs alone in a process, and sleeps deaf to cancels: its process must be ended to stop it."""
    with _Recorded(ctx):
        time.sleep(work.ms / 1000)
    return ctx.fence


@handler
async def flaky(ctx: Context, work: Work) -> int:
    """Fails in its first `failures` attempts; interrupted attempts are among these."""
    with _Recorded(ctx):
        await asyncio.sleep(work.ms / 1000)
        if ctx.attempt <= work.failures:
            raise RuntimeError("not yet")
    return ctx.fence


@handler
def hopeless(ctx: Context, work: Work) -> int:
    """Fails each time."""
    with _Recorded(ctx):
        raise ValueError("never")


@handler
async def snoozer(ctx: Context, work: Work) -> int:
    """Snoozes in its first attempt."""
    with _Recorded(ctx):
        if ctx.attempt == 1:
            raise Snooze(delay=work.ms / 1000)
    return ctx.fence


@handler
def parent(ctx: Context, work: Work) -> int:
    """Schedules follow-ups; they come with its completion."""
    with _Recorded(ctx):
        for _ in range(work.children):
            ctx.schedule(Work(ms=work.ms), handler=quick)
        if ctx.attempt <= work.failures:
            raise RuntimeError("the follow-ups of this attempt are not scheduled")
    return ctx.fence


@handler(time_limit=0.3)
async def overdue(ctx: Context, work: Work) -> int:
    """Never ends by itself: it sleeps beyond its time limit."""
    with _Recorded(ctx):
        await asyncio.sleep(3600)
    return ctx.fence
