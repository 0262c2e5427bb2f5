"""Whether anything new may be started: not while too many bytes of reports are unacknowledged, nor while the leader is
away.
"""

from __future__ import annotations

from collections.abc import Callable

from gowork.worker._desk.instructions import SPEAK, Instruction, Tell
from gowork.worker._desk.roster import Roster
from gowork.worker._desk.runner import Runner
from gowork.worker._desk.solo import Solo
from gowork.worker._desk.unacknowledged import Unacknowledged
from gowork.worker._runner import messages


class Pause:
    """Pauses all runners at once."""

    def __init__(
        self,
        unacknowledged: Unacknowledged,
        bytes_max: int,
        roster: Roster,
        solo: Solo,
        instruct: Callable[[Instruction], None],
    ) -> None:
        """Args:
        unacknowledged: the reports that the leader has not acknowledged.
        bytes_max: a pause begins when they take more bytes than this, and ends when they take at most half of it.
        roster: the runners that are told.
        solo: starts isolated tasks.
        instruct: takes instructions.
        """
        self._unacknowledged = unacknowledged
        self._bytes_max = bytes_max
        self._roster = roster
        self._solo = solo
        self._instruct = instruct
        #: Whether nothing new is started.
        self.is_on = False
        #: Whether the reconnect grace has passed without a stream.
        self.is_cut_off = False
        self._has_lease = True

    def cut_off(self, now: float) -> None:
        """The reconnect grace has passed without a stream."""
        self.is_cut_off = True
        self.check(now)

    def lose_lease(self, now: float) -> None:
        """The worker has not heard from the leader for longer than the lease."""
        if self._has_lease:
            self._has_lease = False
            self._tell_lease()
            self.check(now)

    def start_session(self, now: float) -> None:
        """The leader is back."""
        if not self._has_lease:
            self._has_lease = True
            self._tell_lease()
        self.is_cut_off = False
        self.check(now)

    def brief(self, runner: Runner) -> None:
        """Tells a runner that has just become ready of a pause, and of a lost lease."""
        if not self._has_lease:
            self._instruct(Tell(runner.id, messages.Lease(False)))
        # A runner of isolated tasks is given none during a pause, and nobody would give it its slot back afterwards.
        if self.is_on and not runner.alone:
            self._instruct(Tell(runner.id, runner.limit(0)))

    def check(self, now: float) -> None:
        """Begins or ends the pause, if it must."""
        full = self._unacknowledged.bytes > (self._bytes_max // 2 if self.is_on else self._bytes_max)
        is_on = full or self.is_cut_off or not self._has_lease
        if is_on == self.is_on:
            return
        self.is_on = is_on
        self._solo.pause(on=is_on)
        for runner in self._roster.ready():
            slots = 0 if is_on else runner.slots - runner.reserved
            self._instruct(Tell(runner.id, runner.limit(slots)))
        if not is_on:
            self._solo.pump(now)
        self._instruct(SPEAK)

    def _tell_lease(self) -> None:
        for runner in self._roster.runners.values():
            if runner.is_ready:
                self._instruct(Tell(runner.id, messages.Lease(self._has_lease)))
