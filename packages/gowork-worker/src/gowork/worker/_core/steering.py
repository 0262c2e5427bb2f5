"""What a handler raises to say what becomes of its task, instead of returning or failing.

They derive from Exception, so that `finally` and context managers in handlers do what they always do; a handler that
catches Exception broadly should let them pass.
"""

from __future__ import annotations

from datetime import timedelta

#: A delay, in seconds or as timedelta.
Delay = float | timedelta


class Steering(Exception):
    """The base of Retry, Snooze, Cancel and Fail."""


class Retry(Steering):
    """The attempt failed; try again after `delay` if attempts are left."""

    def __init__(self, reason: str = "the handler asked for a retry", *, delay: Delay | None = None) -> None:
        """Args:
        reason: why, for people.
        delay: seconds to wait, in place of the retry policy's own delay; None leaves that to the policy.
        """
        super().__init__(reason)
        self.delay_ms = None if delay is None else delay_ms(delay)


class Snooze(Steering):
    """Not now: run the task again after `delay`. It does not count as an attempt."""

    def __init__(self, reason: str = "the handler asked to be run later", *, delay: Delay) -> None:
        """Args:
        reason: why, for people.
        delay: seconds to wait.
        """
        super().__init__(reason)
        self.delay_ms = delay_ms(delay)


class Cancel(Steering):
    """The task is not wanted any more: it ends as cancelled."""

    def __init__(self, reason: str = "cancelled by its handler") -> None:
        super().__init__(reason)


class Fail(Steering):
    """The task fails; without `retry` for good, whatever attempts are left."""

    def __init__(self, reason: str = "failed by its handler", *, retry: bool = False) -> None:
        super().__init__(reason)
        self.retry = retry


def delay_ms(delay: Delay) -> int:
    """A delay in whole milliseconds.

    Raises:
        ValueError: when it is negative.
    """
    seconds = delay.total_seconds() if isinstance(delay, timedelta) else float(delay)
    if seconds < 0:
        raise ValueError(f"a delay of {seconds} s is negative")
    return round(seconds * 1000)
