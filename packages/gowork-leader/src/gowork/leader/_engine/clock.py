"""The clocks that the engine reads. The core gets their values and reads no clock."""

from __future__ import annotations

import time
from typing import Protocol

from gowork.leader._core.model import Now


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> Now:
        """Returns wall-clock milliseconds and monotonic seconds."""
        ...

    def wall_ns(self) -> int:
        """Returns wall-clock nanoseconds, for traces, because spans are too short for milliseconds."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> Now:
        return Now(time.time_ns() // 1_000_000, time.monotonic())

    def wall_ns(self) -> int:
        return time.time_ns()
