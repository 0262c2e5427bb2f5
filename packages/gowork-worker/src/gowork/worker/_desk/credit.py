"""How many tasks the leader may send in a session: as many as there are free slots, and a buffer.

The buffer is worth at most 50 ms of measured work. With short tasks it hides the leader's commit and the way there and
back. With long tasks it would only hoard what another worker could start at once. So it follows the rate at which
tasks finish, and is dropped when a task in it had to wait.
"""

from __future__ import annotations

#: Seconds of work that the buffer may hold.
_BUFFER_SECONDS = 0.05
#: The most tasks that the buffer may hold.
_BUFFER_MAX = 4000
#: The fewest seconds of work that a measurement covers.
_WINDOW = 0.01
#: The weight of the latest measurement when it is above the rate so far, and when it is below. A buffer that is too
#: small costs speed at once. One that is too large is noticed when tasks are recalled.
_WEIGHT_UP = 0.7
_WEIGHT_DOWN = 0.3


class Credit:
    """Counts for one worker. Times are in seconds, always on the same clock."""

    def __init__(self) -> None:
        #: How many tasks were granted in this session.
        self._granted = 0
        #: The last count that the leader was told in this session.
        self._told = 0
        #: Tasks that finish in a second of work.
        self._rate = 0.0
        #: Since when tasks are held without a break; None while none are. Idle time is not measured.
        self._busy_since: float | None = None
        #: Since the last measurement: seconds in which tasks were held, up to the last break, and how many finished.
        self._busy = 0.0
        self._finished = 0

    @property
    def buffer(self) -> int:
        """How many tasks may wait beside those that run."""
        return min(_BUFFER_MAX, int(self._rate * _BUFFER_SECONDS))

    def start_session(self) -> None:
        """Begins to count from 0."""
        self._granted = self._told = 0

    def granted(self, tasks: int, now: float) -> None:
        """Counts `tasks` tasks that the leader has granted in this session."""
        self._granted += tasks
        if self._busy_since is None:
            self._busy_since = now

    def finished(self, tasks: int, held: int, now: float) -> None:
        """Notes that runners have reported `tasks` tasks, and that `held` are still held."""
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
        """Drops the buffer, because a task in it had to wait behind long ones."""
        self._rate = 0.0

    def next(self, held: int, slots: int, least_share: float = 0.0) -> int | None:
        """Returns the count to tell the leader now; None when it has not grown enough.

        Args:
            held: how many tasks are held, whether they run or wait.
            slots: how many may run at once; 0 when no more are wanted.
            least_share: by which share of the window it must have grown.
        """
        if not slots:
            return None
        window = slots + self.buffer
        credit = self._granted + window - held
        grown = credit - self._told
        if grown <= 0 or grown < window * least_share:
            return None
        self._told = credit
        return credit
