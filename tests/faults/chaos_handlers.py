"""What a chaos run's tasks do, and the handlers' own record of it: one file for each process, one write for each line.

A line is JSON: `["start", id, fence, attempt, pid, worker, monotonic ns, wall-clock ms]` or `["end", id, fence,
attempt, pid, worker, monotonic ns, wall-clock ms, how]`, where `how` is "returned" or the name of an exception's type.
Records lie in the worker's working directory.
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
    """What a task is to do."""

    #: How long it takes, in milliseconds.
    ms: int = 0
    #: Attempts that fail before one succeeds.
    failures: int = 0
    #: Tasks that it schedules with its completion.
    children: int = 0


@cache
def _record() -> int:
    return os.open(FOLDER / f"{os.getpid()}.chaos", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def _note(event: str, ctx: Context, *more: str) -> None:
    now = (time.monotonic_ns(), time.time_ns() // 1_000_000)
    line = [event, ctx.id, ctx.fence, ctx.attempt, os.getpid(), ctx.worker, *now, *more]
    # The kernel has it when the call returns, whatever becomes of this process.
    os.write(_record(), json.dumps(line).encode() + b"\n")


class _Recorded:
    """Records that the handler runs, for as long as the block lasts."""

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
    """On the runner's loop."""
    with _Recorded(ctx):
        await asyncio.sleep(work.ms / 1000)
    return ctx.fence


@handler
def threaded(ctx: Context, work: Work) -> int:
    """In one of the runner's threads; it stops when it is asked to."""
    with _Recorded(ctx):
        ctx.cancelled.wait(work.ms / 1000)
    return ctx.fence


@handler(isolation="process")
def isolated(ctx: Context, work: Work) -> int:
    """Alone in a process, which has to be ended to stop it."""
    with _Recorded(ctx):
        time.sleep(work.ms / 1000)
    return ctx.fence


@handler
async def flaky(ctx: Context, work: Work) -> int:
    """Fails a few times first. Attempts that were interrupted are counted too: it fails at most so often."""
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
    """Asks to be run again later, the first time."""
    with _Recorded(ctx):
        if ctx.attempt == 1:
            raise Snooze(delay=work.ms / 1000)
    return ctx.fence


@handler
def parent(ctx: Context, work: Work) -> int:
    """Schedules follow-ups with its completion."""
    with _Recorded(ctx):
        for _ in range(work.children):
            ctx.schedule(Work(ms=work.ms), handler=quick)
        if ctx.attempt <= work.failures:
            raise RuntimeError("what it scheduled so far is not scheduled")
    return ctx.fence


@handler(time_limit=0.3)
async def overdue(ctx: Context, work: Work) -> int:
    """Never ends by itself."""
    with _Recorded(ctx):
        await asyncio.sleep(3600)
    return ctx.fence
