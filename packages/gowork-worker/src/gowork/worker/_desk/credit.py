"""How many tasks the leader may have sent in all: free slots, and a buffer worth at most 50 ms of measured work.

With short tasks the buffer hides the way to the leader and back, and its commit; with long ones it would only hoard
what another worker could start at once. So it follows the rate at which tasks really finish, and is dropped when
something in it had to wait.
"""

from __future__ import annotations

#: Seconds of work that may lie waiting.
_BUFFER_SECONDS = 0.05
#: Tasks that may lie waiting at most.
_BUFFER_MAX = 4000
#: Seconds of work that a measurement covers at least.
_WINDOW = 0.01
#: The weight of the latest measurement when it shows more than was thought, and less: a buffer that is too small
#: costs speed at
#: once, while one that is too large is found out by the recall.
_WEIGHT_UP = 0.7
_WEIGHT_DOWN = 0.3


class Credit:
    """Counts for one worker. Times are in seconds, on any one clock."""

    def __init__(self) -> None:
        #: Granted in this session.
        self._granted = 0
        #: The last count that was told.
        self._told = 0
        self._rate = 0.0
        #: Since when something is held without a break; None while nothing is. Idle time says nothing about how fast
        #: work is done.
        self._busy_since: float | None = None
        #: Since the last measurement: seconds in which something was held, up to the last break, and tasks that
        #: finished.
        self._busy = 0.0
        self._finished = 0

    @property
    def buffer(self) -> int:
        """How many tasks may lie waiting beyond those that run."""
        return min(_BUFFER_MAX, int(self._rate * _BUFFER_SECONDS))

    def start_session(self) -> None:
        """The count begins anew."""
        self._granted = self._told = 0

    def granted(self, tasks: int, now: float) -> None:
        """Counts `tasks` tasks that came in this session."""
        self._granted += tasks
        if self._busy_since is None:
            self._busy_since = now

    def finished(self, tasks: int, held: int, now: float) -> None:
        """Notes that `tasks` tasks have finished by themselves, and that `held` are still held."""
        if self._busy_since is None:
            return
        self._finished += tasks
        busy = self._busy + now - self._busy_since
        if busy >= _WINDOW:
            measured = self._finished / busy
            self._rate += (_WEIGHT_UP if measured > self._rate else _WEIGHT_DOWN) * (measured - self._rate)
            self._finished, self._busy, self._busy_since = 0, 0.0, now
            busy = 0.0
        if not held:
            self._busy, self._busy_since = busy, None

    def waited(self) -> None:
        """A task in the buffer had to wait behind long ones."""
        self._rate = 0.0

    def next(self, held: int, slots: int) -> int | None:
        """The count to tell the leader now; None when it has not grown.

        Args:
            held: how many tasks are held, whether they run or wait.
            slots: how many may run at once; 0 when no more are wanted.
        """
        if not slots:
            return None
        credit = self._granted + slots + self.buffer - held
        if credit <= self._told:
            return None
        self._told = credit
        return credit
