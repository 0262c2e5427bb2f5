"""Runs isolated tasks: each alone in a process of its own, one after another in the same process while it behaves. Such
a process imports the plugin of its tasks and those that every handler needs, and no other.

Such a task uses one of the worker's slots like any other, so an ordinary runner must leave one of its own first: it
is asked to (Slots) and says when it has (Withheld). While the task waits for other tasks, that slot is its runner's
again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from gowork.worker._desk.instructions import Instruction, Level, Note, Tell
from gowork.worker._desk.runner import Runner
from gowork.worker._desk.tasks import HeldTask
from gowork.worker._runner import messages

#: Seconds that an idle process is kept.
_IDLE_SECONDS = 30.0
#: Processes, beyond as many as there are slots, in place of those whose tasks wait for others: each takes memory.
LENT_PROCESSES_MAX = 16


class Solo:
    """The queue of isolated tasks, and the processes that run them."""

    def __init__(
        self,
        slots: int,
        ordinary: Sequence[Runner],
        spawn: Callable[[tuple[str, ...] | None, float], Runner | None],
        give: Callable[[Runner, list[HeldTask], float], None],
        instruct: Callable[[Instruction], None],
    ) -> None:
        """Args:
        slots: the worker's slots.
        ordinary: the runners of all other tasks, which lend their slots; a live view.
        spawn: starts another process, for these plugins, at this time; None when it can't be now.
        give: hands tasks to a runner, at this time.
        instruct: takes instructions.
        """
        self._slots = slots
        self._ordinary = ordinary
        self._spawn = spawn
        self._give = give
        self._instruct = instruct
        self._queue: deque[HeldTask] = deque()
        #: The processes, those that are being started included.
        self.runners: list[Runner] = []
        self._has_warned = False
        self._is_paused = False

    @property
    def waiting(self) -> int:
        """How many isolated tasks wait for others, as far as others may run instead."""
        return min(LENT_PROCESSES_MAX, sum(runner.waiting for runner in self.runners))

    def pause(self, *, on: bool) -> None:
        """Starts nothing, until the pause is over."""
        self._is_paused = on

    @staticmethod
    def note_idle(runner: Runner, now: float) -> None:
        """A runner has nothing to do from now on."""
        runner.idle_since = now

    def remove(self, runner: Runner) -> None:
        """A process has ended."""
        self.runners.remove(runner)

    def lender_ended(self, lender: Runner) -> None:
        """A runner has ended: isolated tasks that use its slots owe them to the one that takes its place."""
        for runner in self.runners:
            for task in runner.tasks.values():
                if task.lender is lender:
                    task.lender = None

    def put(self, task: HeldTask) -> None:
        """Queues a task."""
        self._queue.append(task)

    def take_back(self, task: HeldTask) -> bool:
        """Gives up a task that waits; False when it does not."""
        try:
            self._queue.remove(task)
        except ValueError:
            return False
        self._settle()
        return True

    def take_back_all(self) -> list[HeldTask]:
        """Gives up all that waits."""
        waiting, self._queue = list(self._queue), deque()
        self._settle()
        return waiting

    def finished(self, task: HeldTask) -> None:
        """An isolated task has ended: its slot goes back."""
        lender = task.lender
        if lender is not None:
            task.lender = None
            lender.lent -= 1
            self._settle()

    def lend(self, runner: Runner) -> None:
        """The task of this process waits for others: its slot goes back, until it goes on."""
        if sum(each.waiting for each in self.runners) > LENT_PROCESSES_MAX and not self._has_warned:
            self._has_warned = True
            event = "too many isolated handlers wait for other tasks: they lend no more slots"
            self._instruct(Note(Level.WARNING, event, {"lent_max": LENT_PROCESSES_MAX}))
        for task in runner.tasks.values():
            self.finished(task)

    def pump(self, now: float) -> None:
        """Starts what can be started, and gets ready for what cannot yet.

        A process has imported one plugin and what that needs, so a task waits for one of its own. Tasks have their turn
        in their order: for the first that has no process, an idle one of another plugin makes room.
        """
        for task in self._owing():
            # It goes on already.
            lender = self._lender()
            if lender is None:
                break
            task.lender = lender
            lender.lent += 1
        if self._is_paused:
            self._settle()
            return
        most = self._slots + self.waiting
        idle = [runner for runner in self.runners if runner.is_ready and not runner.tasks]
        starting = [runner.only for runner in self.runners if not runner.is_ready and not runner.was_stopped]
        there = sum(not runner.was_stopped for runner in self.runners)
        waiting: deque[HeldTask] = deque()
        for task in self._queue:
            runner = next((runner for runner in idle if runner.only == task.only), None)
            lender = self._lender()
            if runner is not None:
                idle.remove(runner)
                if lender is not None:
                    task.lender = lender
                    lender.lent += 1
                    self._give(runner, [task], now)
                    continue
            elif task.only in starting:
                starting.remove(task.only)
            elif there < most or idle:
                if there < most:
                    there += 1
                else:
                    self.stop(idle.pop(), now)
                self._start(task.only, now)
            waiting.append(task)
        self._queue = waiting
        self._settle()

    def retire(self, now: float) -> None:
        """Ends processes that have been idle for long."""
        for runner in self.runners:
            if runner.tasks or not runner.is_ready:
                runner.idle_since = now
            elif now - runner.idle_since > _IDLE_SECONDS:
                self.stop(runner, now)

    def stop(self, runner: Runner, now: float) -> None:
        """Ends a process: it gets no more tasks."""
        runner.stop(now)
        self._instruct(Tell(runner.id, messages.Stop()))

    def withheld(self, runner: Runner, slots: int) -> None:
        """An ordinary runner has left `slots` of its slots."""
        runner.withheld = min(slots, runner.reserved)

    def _start(self, only: tuple[str, ...] | None, now: float) -> None:
        runner = self._spawn(only, now)
        if runner is not None:
            self.runners.append(runner)

    def _lender(self) -> Runner | None:
        """A runner that has left a slot which no isolated task uses."""
        return next((lender for lender in self._ordinary if lender.withheld > lender.lent), None)

    def _owing(self) -> list[HeldTask]:
        """Tasks that run without a slot that a runner has left: they have waited for others and go on, or the runner
        has ended.
        """
        active = (runner for runner in self.runners if not runner.waiting)
        return [task for runner in active for task in runner.tasks.values() if task.lender is None]

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
        # During a pause runners have no slots; they are told of these when it is over.
        if not self._is_paused:
            self._instruct(Tell(runner.id, messages.Slots(runner.slots - runner.reserved)))
