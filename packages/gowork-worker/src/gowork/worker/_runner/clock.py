"""The runner's own clock, which handlers do not set.

Those that freeze time, as tests and replays do (freezegun and its like), replace the functions of `time` for their
whole process: limits would end innocents, and the timers of the loop would rest. Such libraries replace what modules
hold, too, so the functions are kept in a class.
"""

from __future__ import annotations

import asyncio
import time


class Clock:
    """What `time` was when the runner began."""

    #: Nanoseconds from some moment on.
    monotonic_ns = staticmethod(time.monotonic_ns)


class ClockedLoop(asyncio.SelectorEventLoop):
    """A loop whose timers go by that clock."""

    #: Seconds from the same moment on.
    time = staticmethod(time.monotonic)
