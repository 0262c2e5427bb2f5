"""What a handler raises to say what becomes of its task, instead of returning or failing.

They derive from Exception, so that `finally` and context managers in handlers work as always. A handler that catches
Exception broadly should let them pass.
"""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

from gowork.proto import limits

#: A delay, in seconds or as timedelta.
Delay = float | timedelta
#: From here on a float of seconds has no fraction, and its milliseconds may be too large for a float.
_SECONDS_WHOLE = 2.0**53


class Steering(Exception):
    """The base of Retry, Snooze, Cancel and Fail."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Restores args and attributes without a call of __init__, whose parameters Exception does not keep. So it comes
        # whole out of a process pool, and so does a subclass with an __init__ of its own.
        return _restore, (type(self), self.args, vars(self))


class Retry(Steering):
    """The attempt failed; try again after `delay` if attempts are left."""

    def __init__(self, reason: str = "the handler asked for a retry", *, delay: Delay | None = None) -> None:
        """Args:
        reason: why, for people.
        delay: seconds to wait, at most 10 years: a longer delay is cut. None for the retry policy's delay.

        Raises:
            ValueError: for a delay that is negative or not finite.
        """
        super().__init__(reason)
        self.delay_ms = None if delay is None else _asked_ms(delay)


class Snooze(Steering):
    """Puts the task off: it runs again after `delay`. This does not count as an attempt."""

    def __init__(self, reason: str = "the handler asked to be run later", *, delay: Delay) -> None:
        """Args:
        reason: why, for people.
        delay: seconds to wait, at most 10 years: a longer delay is cut.

        Raises:
            ValueError: for a delay that is negative or not finite.
        """
        super().__init__(reason)
        self.delay_ms = _asked_ms(delay)


class Cancel(Steering):
    """The task is not wanted any more: it ends as cancelled."""

    def __init__(self, reason: str = "cancelled by its handler") -> None:
        super().__init__(reason)


class Fail(Steering):
    """The task fails. Without `retry` it fails for good, even if attempts are left."""

    def __init__(self, reason: str = "failed by its handler", *, retry: bool = False) -> None:
        super().__init__(reason)
        self.retry = retry


def delay_ms(delay: Delay) -> int:
    """Returns a delay in whole milliseconds.

    Raises:
        ValueError: when it is negative or not finite.
    """
    seconds = delay.total_seconds() if isinstance(delay, timedelta) else float(delay)
    if not math.isfinite(seconds):
        raise ValueError(f"a delay of {seconds} s is not finite")
    if seconds < 0:
        raise ValueError(f"a delay of {seconds} s is negative")
    return round(seconds * 1000) if seconds < _SECONDS_WHOLE else int(seconds) * 1000


def _asked_ms(delay: Delay) -> int:
    return min(delay_ms(delay), limits.REPORTED_DELAY_MS_MAX)


def _restore(kind: type[Steering], arguments: tuple[Any, ...], state: dict[str, Any]) -> Steering:
    error = kind.__new__(kind)
    error.args = arguments
    vars(error).update(state)
    return error
