"""What a process knows of the age of tasks: how old batches are at least, and which wall-clock time it believes.

It belongs to the process and not to a term, and a leader that follows looks, too. So one that takes over removes what
is old as its predecessor did.

Invariant OLD-ENOUGH: a wrong wall clock must not make a young task look old. Ages grow only as fast as the monotonic
clock. A wall clock that was stepped forward is believed after SETTLE_SECONDS, and so is the one that a process starts
with. The age of a batch goes by no wall clock: a batch is as old as the first look after it. So nothing is old in the
first minutes of a process.
"""

from __future__ import annotations

from collections import deque

from gowork.leader._core.model import Now

#: A task that finished less than this ago, in seconds, is not removed because of the number.
YOUNG_SECONDS = 15 * 60.0
#: For how long watchers that come back are told of removals, in seconds.
TOMBSTONE_SECONDS = 3600.0
#: For how long a clock that was stepped forward by more than STEP_MS is not believed, in seconds. The clock at a start
#: is not believed for as long, or for the age at which tasks are removed if that is less.
SETTLE_SECONDS = 3600.0
STEP_MS = 60_000


class Ages:
    """Is asked now and then, with the time."""

    def __init__(self) -> None:
        self._clock = CautiousClock()
        #: When it was first asked, in monotonic seconds.
        self._since: float | None = None
        #: (monotonic time, the number of the last batch then), oldest first.
        self._marks: deque[tuple[float, int]] = deque()

    def look(self, now: Now, changed: int) -> int:
        """Notes that a batch is durable now. Returns the wall-clock time that is believed, in milliseconds.

        Args:
            now: the time.
            changed: the number of the batch; see Record.changed. 0: none is known.
        """
        if self._since is None:
            self._since = now.mono
        marks = self._marks
        if not marks or marks[-1][1] < changed:
            marks.append((now.mono, changed))
        # The latest mark that is older than any time that is asked for is still needed.
        while len(marks) > 1 and marks[1][0] <= now.mono - max(YOUNG_SECONDS, TOMBSTONE_SECONDS):
            marks.popleft()
        return self._clock.wall_ms(now)

    def seconds(self, now: Now) -> float:
        """Returns for how long it has been asked, in seconds."""
        return 0.0 if self._since is None else now.mono - self._since

    def batch_at(self, mono: float) -> int:
        """Returns the number of the last batch at this time, or of a slightly earlier one; 0 when it is not known."""
        return max((number for at, number in self._marks if at <= mono), default=0)


class CautiousClock:
    """The wall clock, except that a step forward counts only after SETTLE_SECONDS."""

    def __init__(self) -> None:
        #: How far the wall clock is believed to be ahead of the monotonic one.
        self._believed_ms: int | None = None
        #: Since when the wall clock has been further ahead, in monotonic seconds; 0: it is not.
        self._doubted_since = 0.0

    def wall_ms(self, now: Now) -> int:
        """Returns the time that is believed, in milliseconds since the Unix epoch."""
        ahead_ms = now.wall_ms - int(now.mono * 1000)
        if self._believed_ms is None or ahead_ms <= self._believed_ms + STEP_MS:
            self._believed_ms, self._doubted_since = ahead_ms, 0.0
        elif not self._doubted_since:
            self._doubted_since = now.mono
        elif now.mono - self._doubted_since >= SETTLE_SECONDS:
            self._believed_ms, self._doubted_since = ahead_ms, 0.0
        return int(now.mono * 1000) + self._believed_ms
