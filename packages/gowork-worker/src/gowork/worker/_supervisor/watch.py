"""Looks at the runners many times a second: who does not answer, what runs past its time, what waits behind long
tasks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from gowork.worker._runner.messages import Recall, StopKind
from gowork.worker._runner.table import Running
from gowork.worker._supervisor.event_log import EventLog
from gowork.worker._supervisor.fleet import Fleet
from gowork.worker._supervisor.held import Held
from gowork.worker._supervisor.runner import Runner

logger = logging.getLogger("gowork.worker")

#: Seconds between two looks, while tasks are held and while none are.
INTERVAL = 0.05
IDLE_INTERVAL = 0.25
#: Seconds that a task may lie behind long ones before what has not started in that runner is recalled; and behind any.
RECALL_AFTER = 0.2
RECALL_AT_LATEST = 1.0


class Watch:
    """Keeps nothing but what the last look found."""

    def __init__(self, fleet: Fleet, pulse_changed: Callable[[], None], events: EventLog) -> None:
        """Args:
        fleet: whom to look at.
        pulse_changed: called when a runner has become blocked, or answers again.
        events: takes lines about tasks.
        """
        self._fleet = fleet
        self._pulse_changed = pulse_changed
        self._events = events
        #: fence -> a task that was asked to stop, and when its runner is ended if it has not
        self.stopping: dict[int, Held] = {}
        #: Found past its time by the last look: (fence, start).
        self._overdue: set[tuple[int, int]] = set()

    def look(self, now: float, *, recall: bool) -> None:
        """Looks once.

        Args:
            now: the loop's clock.
            recall: whether tasks that wait too long are recalled.
        """
        overdue: set[tuple[int, int]] = set()
        for runner in self._fleet.every():
            self._feel_pulse(runner, now)
            self._end_ailing(runner, now)
            if runner.tasks:
                rows = runner.running()
                clock = time.monotonic_ns()
                overdue |= {(row.fence, row.started_ns) for row in rows if row.kill_at_ns and clock >= row.kill_at_ns}
                self._end_overdue(runner, overdue & self._overdue)
                if recall and len(runner.tasks) > len(rows):
                    self._recall(runner, rows, now, clock)
        self._overdue = overdue
        for held in [held for held in self.stopping.values() if now >= held.kill_at]:
            self._end_runner_of(held)
        self._fleet.solo.retire(now)
        self._fleet.solo.pump(now)

    def _feel_pulse(self, runner: Runner, now: float) -> None:
        was_blocked = runner.is_blocked
        runner.check_pulse(now)
        if runner.is_blocked != was_blocked:
            extra = {"runner": runner.name, "runner_pid": runner.pid}
            if runner.is_blocked:
                logger.warning("runner blocked", extra=extra)
            else:
                logger.info("runner ticks again", extra=extra)
            self._pulse_changed()

    def _end_ailing(self, runner: Runner, now: float) -> None:
        """Ends a runner that can't be talked to. Its tasks are lost, because nobody knows which of them is to blame."""
        if runner.fault:
            return
        ailment = runner.ailment(now)
        if ailment and runner.kill():
            runner.fault = ailment

    def _end_overdue(self, runner: Runner, overdue: set[tuple[int, int]]) -> None:
        """Ends the runner of tasks that two looks found past their limit and grace: one look may see a row half
        written.
        """
        for fence, _ in overdue:
            held = runner.tasks.get(fence)
            if held is not None and held.stop_kind in (None, StopKind.TIMEOUT):
                held.stop_kind = StopKind.TIMEOUT
                self._end_runner_of(held)

    def _end_runner_of(self, held: Held) -> None:
        self.stopping.pop(held.fence, None)
        runner = held.runner
        if runner is not None and held.fence in runner.tasks and runner.kill():
            runner.ended_on_purpose = True
            why = held.stop_kind
            self._events.tell(
                logging.WARNING,
                "runner ended for a task that did not stop",
                lambda: {**held.log_fields, "runner": runner.name, "runner_pid": runner.pid, "why": why},
            )

    def _recall(self, runner: Runner, rows: list[Running], now: float, clock: int) -> None:
        if runner.is_recalling or runner.alone:
            return
        running = {row.fence for row in rows}
        oldest = next((held for fence, held in runner.tasks.items() if fence not in running), None)
        if oldest is None or now - oldest.sent_at <= RECALL_AFTER:
            return
        # While slots turn over, or have still to be taken, the machine is merely busy: another worker would not be
        # faster.
        long = [row for row in rows if clock - row.started_ns > RECALL_AFTER * 1e9 / 2]
        if len(long) >= runner.usable_slots or now - oldest.sent_at > RECALL_AT_LATEST:
            runner.is_recalling = True
            runner.send(Recall())
