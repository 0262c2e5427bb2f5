"""Handlers that a worker of any version loads. Their results show that payload, options and steering arrived."""

from __future__ import annotations

from dataclasses import dataclass

from gowork.worker import Context, Snooze, handler


@dataclass
class Number:
    value: int


@handler
def double(number: Number) -> int:
    return 2 * number.value


@handler
def reverse(data: bytes) -> bytes:
    return data[::-1]


@handler(max_attempts=3, retry_delay=0.01)
def flaky(ctx: Context) -> str:
    if ctx.attempt == 1:
        raise ValueError("the first attempt always fails")
    return f"attempt {ctx.attempt}"


#: Tasks that have snoozed once: the worker has one runner.
_napped: set[str] = set()


@handler
async def napping(ctx: Context) -> str:
    if ctx.id not in _napped:
        _napped.add(ctx.id)
        raise Snooze(delay=0.01)
    return "rested"


@handler
def parent(ctx: Context, number: Number) -> str:
    child = f"{ctx.id}-child"
    ctx.schedule({"value": number.value + 1}, handler="double", id=child)
    return child


@handler
def failing() -> None:
    raise RuntimeError("fails for good")


@handler
def until_cancelled(ctx: Context) -> None:
    # Again and again, because a watch tells only of progress that comes after the watch began.
    while not ctx.cancelled.wait(0.05):
        ctx.progress(0.5, "waiting for the cancel")
