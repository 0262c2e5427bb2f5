"""Whether anything new may be started: not while too much is unacknowledged, nor while the leader is away."""

from __future__ import annotations

from collections.abc import Callable

from gowork.worker._desk.instructions import SPEAK, Instruction, Tell
from gowork.worker._desk.roster import Roster
from gowork.worker._desk.runner import Runner
from gowork.worker._desk.solo import Solo
from gowork.worker._desk.unacknowledged import Unacknowledged
from gowork.worker._runner import messages


class Pause:
    """Of all runners at once."""

    def __init__(
        self,
        unacknowledged: Unacknowledged,
        bytes_max: int,
        roster: Roster,
        solo: Solo,
        instruct: Callable[[Instruction], None],
    ) -> None:
        """Args:
        unacknowledged: the reports that are kept.
        bytes_max: what they may take; a pause lasts until they take half of it.
        roster: whom to tell.
        solo: starts isolated tasks.
        instruct: takes instructions.
        """
        self._unacknowledged = unacknowledged
        self._bytes_max = bytes_max
        self._roster = roster
        self._solo = solo
        self._instruct = instruct
        #: Nothing new is started.
        self.is_on = False
        #: The stream has been broken for longer than the leader waits.
        self.is_cut_off = False
        self._has_lease = True

    def cut_off(self, now: float) -> None:
        """The stream has been broken for longer than the leader waits."""
        self.is_cut_off = True
        self.check(now)

    def lose_lease(self, now: float) -> None:
        """What runs may be another's by now."""
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
        """Tells a runner that has just become ready how things stand."""
        if not self._has_lease:
            self._instruct(Tell(runner.id, messages.Lease(False)))
        # One for isolated tasks is given none during a pause, and nobody would give it its slot back afterwards.
        if self.is_on and not runner.alone:
            self._instruct(Tell(runner.id, messages.Slots(0)))

    def check(self, now: float) -> None:
        """Begins or ends the pause, as things stand."""
        full = self._unacknowledged.bytes > (self._bytes_max // 2 if self.is_on else self._bytes_max)
        is_on = full or self.is_cut_off or not self._has_lease
        if is_on == self.is_on:
            return
        self.is_on = is_on
        self._solo.pause(on=is_on)
        for runner in self._roster.ready():
            slots = 0 if is_on else runner.slots - runner.reserved
            self._instruct(Tell(runner.id, messages.Slots(slots)))
        if not is_on:
            self._solo.pump(now)
        self._instruct(SPEAK)

    def _tell_lease(self) -> None:
        for runner in self._roster.runners.values():
            if runner.is_ready:
                self._instruct(Tell(runner.id, messages.Lease(self._has_lease)))
