"""Runs isolated tasks: each alone in a process of its own, one after another in the same process while it behaves. Such
a process imports the plugin of its tasks and those that every handler needs, and no other.

Such a task uses one of the worker's slots like any other, so an ordinary runner must leave one of its own first: it
is asked to (Slots) and says when it has (Withheld). While the task waits for other tasks, that slot is its runner's
again.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence

from gowork.worker._runner import messages
from gowork.worker._supervisor.held import Held
from gowork.worker._supervisor.runner import Runner

logger = logging.getLogger("gowork.worker")

#: Seconds that an idle process is kept.
_IDLE_SECONDS = 30.0
#: Processes, beyond as many as there are slots, in place of those whose tasks wait for others: each takes memory.
LENT_PROCESSES_MAX = 16


class Solo:
    """The queue of isolated tasks, and the processes that run them."""

    def __init__(self, slots: int, ordinary: Sequence[Runner], spawn: Callable[[tuple[str, ...] | None], None]) -> None:
        """Args:
        slots: the worker's slots.
        ordinary: the runners of all other tasks, which lend their slots; a live view.
        spawn: starts another process, for these plugins; it comes by `add` once it is there.
        """
        self._slots = slots
        self._ordinary = ordinary
        self._spawn = spawn
        self._queue: deque[Held] = deque()
        self._runners: list[Runner] = []
        self._has_warned = False
        #: Nothing is started: runners have been told that they have no slots.
        self.paused = False

    @property
    def runners(self) -> Sequence[Runner]:
        """The processes, starting ones included."""
        return self._runners

    @property
    def waiting(self) -> int:
        """How many isolated tasks wait for others, as far as others may run instead."""
        return min(LENT_PROCESSES_MAX, sum(runner.waiting for runner in self._runners))

    def add(self, runner: Runner) -> None:
        """Another process is being started."""
        self._runners.append(runner)

    def remove(self, runner: Runner) -> None:
        """A process has ended."""
        self._runners.remove(runner)

    def put(self, held: Held) -> None:
        """Queues a task."""
        self._queue.append(held)

    def take_back(self, held: Held) -> bool:
        """Gives up a task that waits; False when it does not."""
        try:
            self._queue.remove(held)
        except ValueError:
            return False
        self._settle()
        return True

    def take_back_all(self) -> list[Held]:
        """Gives up all that waits."""
        waiting, self._queue = list(self._queue), deque()
        self._settle()
        return waiting

    def finished(self, held: Held) -> None:
        """An isolated task has ended: its slot goes back."""
        lender = held.reserved_of
        if lender is not None:
            held.reserved_of = None
            lender.lent -= 1
            self._settle()

    def lender_ended(self, lender: Runner) -> None:
        """A runner has ended: isolated tasks that use its slots owe them to the one that takes its place."""
        for runner in self._runners:
            for held in runner.tasks.values():
                if held.reserved_of is lender:
                    held.reserved_of = None

    def lend(self, runner: Runner) -> None:
        """The task of this process waits for others: its slot goes back, until it goes on."""
        if sum(each.waiting for each in self._runners) > LENT_PROCESSES_MAX and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "too many isolated handlers wait for other tasks: they lend no more slots",
                extra={"lent_max": LENT_PROCESSES_MAX},
            )
        for held in runner.tasks.values():
            self.finished(held)

    def pump(self, now: float) -> None:
        """Starts what can be started, and gets ready for what cannot yet.

        A process has imported one plugin and what that needs, so a task waits for one of its own. Tasks have their turn
        in their order: for the first that has no process, an idle one of another plugin makes room.
        """
        for held in self._owing():
            # It goes on already.
            lender = self._lender()
            if lender is None:
                break
            held.reserved_of = lender
            lender.lent += 1
        if self.paused:
            self._settle()
            return
        most = self._slots + self.waiting
        idle = [runner for runner in self._runners if runner.is_ready and not runner.tasks]
        starting = [runner.only for runner in self._runners if not runner.is_ready and not runner.was_stopped]
        there = sum(not runner.was_stopped for runner in self._runners)
        waiting: deque[Held] = deque()
        for held in self._queue:
            runner = next((runner for runner in idle if runner.only == held.only), None)
            lender = self._lender()
            if runner is not None:
                idle.remove(runner)
                if lender is not None:
                    held.reserved_of = lender
                    lender.lent += 1
                    runner.start_tasks([held], now)
                    continue
            elif held.only in starting:
                starting.remove(held.only)
            elif there < most or idle:
                if there < most:
                    there += 1
                else:
                    self.stop(idle.pop(), now)
                self._spawn(held.only)
            waiting.append(held)
        self._queue = waiting
        self._settle()

    def retire(self, now: float) -> None:
        """Ends processes that have been idle for long."""
        for runner in self._runners:
            if runner.tasks or not runner.is_ready:
                runner.idle_since = now
            elif now - runner.idle_since > _IDLE_SECONDS:
                self.stop(runner, now)

    @staticmethod
    def stop(runner: Runner, now: float) -> None:
        """Ends a process: it gets no more tasks."""
        runner.is_ready = False
        runner.was_stopped = True
        runner.stopped_at = now
        runner.send(messages.Stop())

    def _lender(self) -> Runner | None:
        """A runner that has left a slot which no isolated task uses."""
        return next((lender for lender in self._ordinary if lender.withheld > lender.lent), None)

    def _owing(self) -> list[Held]:
        """Tasks that run without a slot that a runner has left: they have waited for others and go on, or the runner
        has ended.
        """
        active = (runner for runner in self._runners if not runner.waiting)
        return [held for runner in active for held in runner.tasks.values() if held.reserved_of is None]

    def _settle(self) -> None:
        """Asks for as many slots as isolated tasks need, and no more."""
        self._ask_free_ones()
        lent = sum(runner.lent for runner in self._ordinary)
        wanted = min(self._slots, lent + len(self._owing()) + len(self._queue))
        reserved = sum(runner.reserved for runner in self._ordinary)
        for runner in sorted(self._ordinary, key=lambda runner: len(runner.tasks) - runner.usable_slots):
            if not runner.is_ready:
                continue
            change = max(runner.lent, min(runner.slots, runner.reserved + wanted - reserved)) - runner.reserved
            if change:
                reserved += change
                self._reserve(runner, change)

    def _ask_free_ones(self) -> None:
        """Asks a runner with a free slot in place of one that must end a task first.

        Without it an isolated task that was promised a slot of a busy runner would wait for the end of a long task
        there, while a runner that was restarted meanwhile has nothing to do.
        """
        ready = [runner for runner in self._ordinary if runner.is_ready]
        for free in ready:
            room = free.usable_slots - len(free.tasks)
            for busy in ready:
                unmet = busy.reserved - max(busy.withheld, busy.lent)
                moved = min(room, unmet, len(busy.tasks) - busy.usable_slots)
                if moved > 0:
                    room -= moved
                    self._reserve(busy, -moved)
                    self._reserve(free, moved)

    def _reserve(self, runner: Runner, change: int) -> None:
        runner.reserved += change
        # What it had withheld counts no more until it has said so again.
        runner.withheld = min(runner.withheld, runner.reserved)
        # While the worker is paused its runners have no slots; they are told of these when it goes on.
        if not self.paused:
            runner.send(messages.Slots(runner.slots - runner.reserved))
