"""The handlers that the benchmarks run: they do as little as can be, so that what is measured is gowork."""

from __future__ import annotations

import time

from gowork.worker import handler


@handler("bench.thread")
def in_thread(payload: str) -> None:
    """Does nothing, in one of the runner's threads."""


@handler("bench.async")
async def on_loop(payload: str) -> None:
    """Does nothing, on the runner's event loop."""


@handler("bench.clock")
async def clock(payload: str) -> int:
    """Tells when it began, in nanoseconds of the clock that all processes of a machine share."""
    return time.monotonic_ns()
