"""Whether a runner's loop answers, and when the runner is given up."""

from __future__ import annotations

from collections.abc import Sequence

from gowork.worker._runner.messages import Running

#: Seconds between pings, and without an answer until a runner counts as blocked.
PING_INTERVAL = 1.0
BLOCKED_AFTER = 3.0
#: Ticks of a blocked runner's loop that are seen, one a second, until the runner counts as deaf: it runs, but what is
#: sent to it goes elsewhere.
DEAF_TICKS = 15
#: Seconds that a runner may live on after the end of its pipe, and that one may take to end which was told to stop.
PIPE_END_GRACE = 1.0
STOP_GRACE = 5.0


class Pulse:
    """Of one runner. Times are in seconds, on any one clock."""

    def __init__(self, *, answers: bool) -> None:
        """`answers` is False where a ping has no answer, because nobody could act on a missing one."""
        self._answers = answers
        self._pinged_at = 0.0
        #: When the ping was sent that has not been answered.
        self._unanswered_since: float | None = None
        self._pipe_ended_at: float | None = None
        #: The last tick that was seen, and how many since the ping.
        self._tick = self._ticked = 0
        #: The loop does not answer.
        self.is_blocked = False

    def check(self, now: float) -> bool:
        """Notes whether a loop that takes messages is blocked; whether it is to be pinged now."""
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
        """The blocked loop has ticked `ticks` times since it was started."""
        if ticks != self._tick:
            self._tick = ticks
            self._ticked += 1

    def answered(self, now: float) -> float | None:
        """The ping is answered: after how many seconds; None when none was open."""
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
        """Why the runner can't be talked to any more and is to be ended, in words; empty while it can.

        Args:
            now: the time.
            stopped_at: when it was told to stop; None while it was not.
            timeout: seconds that its loop may not answer.
            rows: what it executes.
            clock_ns: now, on the clock of the rows.
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
        # A task that states how long it may take has that long, whoever it is that blocks: its limit ends the runner.
        if any(row.kill_at_ns > clock_ns for row in rows):
            return ""
        return f"the runner's loop did not answer for {timeout:g} s: see --blocked-timeout"
