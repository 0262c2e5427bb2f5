"""Runs isolated tasks: each in a process that runs nothing else meanwhile. A process runs one after another, until it
loses one. It imports the plugin of its tasks and the plugins that every handler needs, and no other.

An isolated task uses one of the worker's slots, so an ordinary runner must leave one of its slots first. It is asked to
(Slots), and says when it has (Withheld). While the task waits for other tasks, the ordinary runner has that slot again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from gowork.worker._desk.instructions import Instruction, Level, Note, Tell
from gowork.worker._desk.runner import Runner
from gowork.worker._desk.tasks import HeldTask
from gowork.worker._runner import messages

#: A process is ended when it has been idle for this number of seconds.
_IDLE_SECONDS = 30.0
#: The most processes beyond the number of slots: one for each isolated task that waits for others. Each takes memory.
LENT_PROCESSES_MAX = 16


class Solo:
    """The queue of isolated tasks, and the processes that run them."""

    def __init__(
        self,
        slots: int,
        ordinary: Sequence[Runner],
        spawn: Callable[[tuple[str, ...] | None, str, float], Runner | None],
        give: Callable[[Runner, list[HeldTask], float], None],
        instruct: Callable[[Instruction], None],
    ) -> None:
        """Args:
        slots: the worker's slots.
        ordinary: the runners of all other tasks, which leave their slots to isolated ones; a live view.
        spawn: starts a process that imports the plugins given, in the environment given, at the time given. Returns
            None when it cannot now.
        give: hands tasks to a runner, at the time given.
        instruct: takes instructions.
        """
        self._slots = slots
        self._ordinary = ordinary
        self._spawn = spawn
        self._give = give
        self._instruct = instruct
        self._queue: deque[HeldTask] = deque()
        #: The processes, including those that are being started.
        self.runners: list[Runner] = []
        #: Whether the log was told that too many isolated tasks wait for others.
        self._has_warned = False
        self._is_paused = False

    @property
    def waiting(self) -> int:
        """How many isolated tasks wait for others and lend their slots."""
        return min(LENT_PROCESSES_MAX, sum(runner.waiting for runner in self.runners))

    def pause(self, *, on: bool) -> None:
        """Begins or ends a pause. Nothing is started while it lasts."""
        self._is_paused = on

    @staticmethod
    def note_idle(runner: Runner, now: float) -> None:
        """A runner is idle from now on."""
        runner.idle_since = now

    def remove(self, runner: Runner) -> None:
        """A process has ended."""
        self.runners.remove(runner)

    def lender_ended(self, lender: Runner) -> None:
        """An ordinary runner has ended: isolated tasks that used its slots take those of another one."""
        for runner in self.runners:
            for task in runner.tasks.values():
                if task.lender is lender:
                    task.lender = None

    def put(self, task: HeldTask) -> None:
        """Queues a task."""
        self._queue.append(task)

    def take_back(self, task: HeldTask) -> bool:
        """Takes a task out of the queue. Returns False when it was not in there."""
        try:
            self._queue.remove(task)
        except ValueError:
            return False
        self._settle()
        return True

    def take_back_all(self) -> list[HeldTask]:
        """Takes all tasks out of the queue, and returns them."""
        waiting, self._queue = list(self._queue), deque()
        self._settle()
        return waiting

    def take_back_of(self, environment: str) -> list[HeldTask]:
        """Takes all tasks of an environment out of the queue, and returns them."""
        taken = [task for task in self._queue if task.environment == environment]
        self._queue = deque(task for task in self._queue if task.environment != environment)
        self._settle()
        return taken

    def has_idle(self, task: HeldTask) -> bool:
        """Whether a process that suits a task has nothing to do."""
        return any(runner.is_ready and not runner.tasks and runner.suits(task) for runner in self.runners)

    def try_again(self, task: HeldTask, now: float) -> None:
        """Starts a process for tasks like this one, if none is being started, to see whether it gets ready by now. The
        task does not wait for that.
        """
        if self._is_paused or any(runner.suits(task) and not runner.was_ready for runner in self.runners):
            return
        if sum(not runner.was_stopped for runner in self.runners) >= self._slots + self.waiting:
            idle = next((runner for runner in self.runners if runner.is_ready and not runner.tasks), None)
            if idle is None:
                return
            self.stop(idle, now)
        self._start(task, now)

    def finished(self, task: HeldTask) -> None:
        """An isolated task has ended: its slot goes back to the ordinary runner."""
        lender = task.lender
        if lender is not None:
            task.lender = None
            lender.lent -= 1
            self._settle()

    def lend(self, runner: Runner) -> None:
        """The task of this process waits for others: its slot goes back to the ordinary runner, until it goes on."""
        if sum(each.waiting for each in self.runners) > LENT_PROCESSES_MAX and not self._has_warned:
            self._has_warned = True
            event = "too many isolated handlers wait for other tasks: they lend no more slots"
            self._instruct(Note(Level.WARNING, event, {"lent_max": LENT_PROCESSES_MAX}))
        for task in runner.tasks.values():
            self.finished(task)

    def pump(self, now: float) -> None:
        """Starts the tasks that can start, and the processes that the others need.

        A process has imported one plugin and what that needs, so a task waits for a process of its plugin. Tasks have
        their turn in their order: when there may be no more processes, an idle one of another plugin is ended for the
        first task that has none.
        """
        for task in self._owing():
            # It runs already, and only takes the slot.
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
        starting = [runner for runner in self.runners if not runner.is_ready and not runner.was_stopped]
        there = sum(not runner.was_stopped for runner in self.runners)
        waiting: deque[HeldTask] = deque()
        for task in self._queue:
            runner = next((runner for runner in idle if runner.suits(task)), None)
            lender = self._lender()
            if runner is not None:
                idle.remove(runner)
                if lender is not None:
                    task.lender = lender
                    lender.lent += 1
                    self._give(runner, [task], now)
                    continue
            elif coming := next((runner for runner in starting if runner.suits(task)), None):
                starting.remove(coming)
            elif there < most or idle:
                if there < most:
                    there += 1
                else:
                    self.stop(idle.pop(), now)
                self._start(task, now)
            waiting.append(task)
        self._queue = waiting
        self._settle()

    def retire(self, now: float) -> None:
        """Ends processes that have been idle for `_IDLE_SECONDS`."""
        for runner in self.runners:
            if runner.tasks or not runner.is_ready:
                runner.idle_since = now
            elif now - runner.idle_since > _IDLE_SECONDS:
                self.stop(runner, now)

    def stop(self, runner: Runner, now: float) -> None:
        """Tells a process to stop. It gets no more tasks."""
        runner.stop(now)
        self._instruct(Tell(runner.id, messages.Stop()))

    def withheld(self, runner: Runner, slots: int, heard: int) -> None:
        """An ordinary runner had left `slots` of its slots to isolated tasks when it had heard `heard` Slots."""
        if heard >= runner.raised:
            runner.withheld = min(slots, runner.reserved)

    def _start(self, task: HeldTask, now: float) -> None:
        runner = self._spawn(task.only, task.environment, now)
        if runner is not None:
            self.runners.append(runner)

    def _lender(self) -> Runner | None:
        """Returns a runner that has left a slot which no isolated task uses; None when there is none."""
        return next((lender for lender in self._ordinary if lender.withheld > lender.lent), None)

    def _owing(self) -> list[HeldTask]:
        """Returns the tasks that run without a slot: they have waited for others and go on, or the runner that had left
        them a slot has ended.
        """
        active = (runner for runner in self.runners if not runner.waiting)
        return [task for runner in active for task in runner.tasks.values() if task.lender is None]

    def _settle(self) -> None:
        """Asks ordinary runners for as many slots as isolated tasks need, and no more."""
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
        """Asks runners with free slots for those that busy runners have not left yet.

        Otherwise an isolated task would wait for the end of a long task in a busy runner, while a runner that was
        started meanwhile has nothing to do.
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
        # Beyond these it has withheld nothing until it says so again.
        runner.withheld = min(runner.withheld, runner.reserved)
        # During a pause runners have no slots. They are told how many they have when it is over.
        if not self._is_paused:
            self._instruct(Tell(runner.id, runner.limit(runner.slots - runner.reserved)))
