"""Looks at the runners many times a second: which do not answer, which tasks run past their time, and which wait behind
long ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gowork.worker._desk.events import Looked
from gowork.worker._desk.instructions import SPEAK, Instruction, Level, Note, ObserveLag, Ping, Tell
from gowork.worker._desk.roster import READY_SECONDS_MAX, Roster
from gowork.worker._desk.runner import Runner
from gowork.worker._desk.stops import Stops
from gowork.worker._desk.tasks import HeldTask
from gowork.worker._runner.messages import Recall, Running

#: Seconds that a task may wait in a runner, behind long tasks and behind any, before the runner's tasks that have not
#: started are recalled.
RECALL_AFTER = 0.2
RECALL_AT_LATEST = 1.0


class Watch:
    """Watches all runners. It keeps nothing except what the last look found."""

    def __init__(
        self, roster: Roster, stops: Stops, blocked_timeout: float, instruct: Callable[[Instruction], None]
    ) -> None:
        """Args:
        roster: the runners to look at.
        stops: the tasks that were asked to stop.
        blocked_timeout: a runner is ended when its loop has not answered for this number of seconds.
        instruct: takes instructions.
        """
        self._roster = roster
        self._stops = stops
        self._blocked_timeout = blocked_timeout
        self._instruct = instruct
        #: {(fence, start in ns), ...} of the tasks that the last look found past their time.
        self._overdue: set[tuple[int, int]] = set()

    def look(self, now: float, looked: Looked, *, recall: bool) -> None:
        """Looks once.

        Args:
            now: the time.
            looked: what the runners' tables say.
            recall: whether tasks that wait too long are recalled.
        """
        overdue: set[tuple[int, int]] = set()
        clock = looked.clock_ns
        for runner in list(self._roster.runners.values()):
            rows = looked.rows.get(runner.id, ())
            self._feel_pulse(runner, now, looked.ticks.get(runner.id))
            if self._roster.is_late(runner, now) and not runner.fault:
                self._roster.end([runner], fault=f"it was not ready within {READY_SECONDS_MAX:g} s")
            self._end_ailing(runner, now, rows, clock)
            if runner.tasks:
                overdue |= {(row.fence, row.started_ns) for row in rows if row.kill_at_ns and clock >= row.kill_at_ns}
                self._end_overdue(runner, overdue & self._overdue)
                if recall and len(runner.tasks) > len(rows):
                    self._recall(runner, rows, now, clock)
        self._overdue = overdue
        for task in self._stops.due(now):
            self._end_runner_of(task)

    def ponged(self, runner: Runner, now: float) -> None:
        """A runner has answered its ping."""
        was_blocked = runner.is_blocked
        lag = runner.pulse.answered(now)
        if lag is not None:
            self._instruct(ObserveLag(lag))
        if was_blocked:
            self._instruct(Note(Level.INFO, "runner ticks again", {}, runner.id))
            self._instruct(SPEAK)

    @staticmethod
    def returned(runner: Runner) -> None:
        """A runner has answered a Recall."""
        runner.is_recalling = False

    def _feel_pulse(self, runner: Runner, now: float, ticks: int | None) -> None:
        if not runner.is_ready:
            return
        was_blocked = runner.is_blocked
        if runner.pulse.check(now):
            self._instruct(Ping(runner.id))
        if runner.is_blocked:
            if ticks is not None:
                runner.pulse.see_ticks(ticks)
            if not was_blocked:
                self._instruct(Note(Level.WARNING, "runner blocked", {}, runner.id))
                self._instruct(SPEAK)

    def _end_ailing(self, runner: Runner, now: float, rows: Sequence[Running], clock_ns: int) -> None:
        """Ends a runner that must be given up. Its tasks are lost, because nobody knows which of them is to blame."""
        if runner.fault or runner.is_gone:
            return
        stopped_at = runner.stopped_at if runner.was_stopped else None
        ailment = runner.pulse.ailment(now, stopped_at, self._blocked_timeout, rows, clock_ns)
        if ailment:
            self._roster.end([runner], fault=ailment)

    def _end_overdue(self, runner: Runner, overdue: set[tuple[int, int]]) -> None:
        """Ends the runner of a task that two looks have found past its limit and grace. A single look may read a row
        that is half written.
        """
        for fence, _ in overdue:
            task = runner.tasks.get(fence)
            if task is not None and self._stops.time_out(task):
                self._end_runner_of(task)

    def _end_runner_of(self, task: HeldTask) -> None:
        self._stops.over(task.fence)
        runner = task.runner
        if runner is None or runner.ended_on_purpose:
            # Its process takes a while to end, and its tasks are found again until then.
            return
        if task.fence in runner.tasks and runner.is_process:
            self._roster.end([runner], on_purpose=True)
            event = "runner ended for a task that did not stop"
            self._instruct(Note(Level.WARNING, event, {"why": task.stop_kind}, runner.id, task.grant))

    def _recall(self, runner: Runner, rows: Sequence[Running], now: float, clock: int) -> None:
        if runner.is_recalling or runner.alone:
            return
        running = {row.fence for row in rows}
        oldest = next((task for fence, task in runner.tasks.items() if fence not in running), None)
        if oldest is None or now - oldest.sent_at <= RECALL_AFTER:
            return
        # While tasks end in these slots, or slots are free, the machine is merely busy. Another worker would not be
        # faster.
        long = [row for row in rows if clock - row.started_ns > RECALL_AFTER * 1e9 / 2]
        if len(long) >= runner.usable_slots or now - oldest.sent_at > RECALL_AT_LATEST:
            runner.is_recalling = True
            self._instruct(Tell(runner.id, Recall()))
