"""The handlers that the benchmarks run. They do as little as possible, so that gowork is what is measured."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from gowork.worker import Context, handler


@handler("bench.thread")
def in_thread(payload: str) -> None:
    """Does nothing, in one of the runner's threads."""


@handler("bench.async")
async def on_loop(payload: str) -> None:
    """Does nothing, on the runner's event loop."""


@handler("bench.clock")
async def clock(payload: str) -> int:
    """Returns when it began, in nanoseconds of the clock that all processes of a machine share."""
    return time.monotonic_ns()


@handler("bench.sleep")
def sleeping(ctx: Context, payload: dict[str, Any]) -> None:
    """Sleeps for the payload's `seconds`, and records when it began and when it ended."""
    record = os.open(payload["record"], os.O_WRONLY | os.O_APPEND)
    for event, seconds in (("start", payload["seconds"]), ("end", 0)):
        os.write(record, json.dumps([event, ctx.id, time.monotonic()]).encode() + b"\n")
        time.sleep(seconds)
    os.close(record)
