"""The clocks that the engine reads; the core is handed their values."""

from __future__ import annotations

import time
from typing import Protocol

from gowork.leader._core.model import Now


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> Now:
        """Wall-clock milliseconds and monotonic seconds."""
        ...

    def wall_ns(self) -> int:
        """Wall-clock nanoseconds, for traces: spans are too short for milliseconds."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> Now:
        return Now(time.time_ns() // 1_000_000, time.monotonic())

    def wall_ns(self) -> int:
        return time.time_ns()
