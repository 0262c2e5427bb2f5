"""Whether a runner's loop answers, and when the runner is given up."""

from __future__ import annotations

from collections.abc import Sequence

from gowork.worker._runner.messages import Running

#: Seconds between two pings; and seconds without an answer after which a runner counts as blocked.
PING_INTERVAL = 1.0
BLOCKED_AFTER = 3.0
#: A blocked runner counts as deaf after this number of looks at which its loop had ticked again: it runs, but does not
#: get what is sent to it. The loop ticks once a second.
DEAF_TICKS = 15
#: Seconds that a runner may live after the end of its pipe, and after it was told to stop.
PIPE_END_GRACE = 1.0
STOP_GRACE = 5.0


class Pulse:
    """The pulse of one runner. Times are in seconds, always on the same clock."""

    def __init__(self, *, answers: bool) -> None:
        """`answers` is False for a runner within this process: it cannot be ended, so it need not answer."""
        self._answers = answers
        #: When the last ping was sent.
        self._pinged_at = 0.0
        #: When the ping was sent that has not been answered; None when each one has.
        self._unanswered_since: float | None = None
        #: When the runner closed its end of the pipe; None before that.
        self._pipe_ended_at: float | None = None
        #: The number of the last tick that was seen, and how many looks since the ping have seen a new one.
        self._tick = self._ticked = 0
        #: Whether the loop does not answer.
        self.is_blocked = False

    def check(self, now: float) -> bool:
        """Notes whether the loop is blocked, and returns whether to ping it now."""
        if self._unanswered_since is not None:
            self.is_blocked = now - self._unanswered_since > BLOCKED_AFTER
            return False
        if now - self._pinged_at < PING_INTERVAL:
            return False
        self._pinged_at = now
        self._ticked = 0
        if self._answers:
            self._unanswered_since = now
        return True

    def see_ticks(self, ticks: int) -> None:
        """Notes that the blocked loop has ticked `ticks` times since it was started."""
        if ticks != self._tick:
            self._tick = ticks
            self._ticked += 1

    def answered(self, now: float) -> float | None:
        """The ping is answered. Returns how many seconds that took; None when no ping was open."""
        if self._unanswered_since is None:
            return None
        lag = now - self._unanswered_since
        self._unanswered_since = None
        self.is_blocked = False
        return lag

    def pipe_ended(self, now: float) -> None:
        """The runner has closed its end of the pipe."""
        self._pipe_ended_at = now

    def ailment(
        self, now: float, stopped_at: float | None, timeout: float, rows: Sequence[Running], clock_ns: int
    ) -> str:
        """Returns why the runner must be given up, in words; empty while it need not.

        Args:
            now: the time.
            stopped_at: when it was told to stop; None when it was not.
            timeout: it is given up when its loop has not answered for this number of seconds.
            rows: what it executes.
            clock_ns: the time, on the clock of the rows.
        """
        if self._pipe_ended_at is not None and now - self._pipe_ended_at > PIPE_END_GRACE:
            return "the runner closed its pipe and went on"
        if stopped_at is not None and now - stopped_at > STOP_GRACE:
            return "the runner did not end though it was told to stop"
        if not self.is_blocked or self._unanswered_since is None:
            return ""
        if self._ticked >= DEAF_TICKS:
            return "the runner did not hear its supervisor, though its loop ticked"
        if now - self._unanswered_since <= timeout:
            return ""
        # A task with a time limit has that time, also in a blocked runner. Its limit ends the runner after that.
        if any(row.kill_at_ns > clock_ns for row in rows):
            return ""
        return f"the runner's loop did not answer for {timeout:g} s: see --blocked-timeout"
