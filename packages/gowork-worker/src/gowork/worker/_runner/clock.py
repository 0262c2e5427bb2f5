"""The runner's own clock, which handlers cannot change.

Libraries that freeze time (freezegun and its like) replace the functions of `time` for the whole process. Then time
limits would end the wrong tasks, and the loop's timers would stop. Such libraries also replace functions that modules
hold, so these are held by classes.
"""

from __future__ import annotations

import asyncio
import time


class Clock:
    """The functions of `time`, as they were when the runner began."""

    #: Nanoseconds since some moment.
    monotonic_ns = staticmethod(time.monotonic_ns)


class ClockedLoop(asyncio.SelectorEventLoop):
    """A loop whose timers use this clock."""

    #: Seconds since the same moment.
    time = staticmethod(time.monotonic)
