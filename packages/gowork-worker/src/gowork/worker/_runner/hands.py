"""The threads that run plain handlers, and what each of them holds.

An exception may reach such a thread at any moment, not only within a handler: PyThreadState_SetAsyncExc sends one from
another thread, which is how libraries end what takes too long, and memory may run out anywhere. So each thread notes
what it takes in the same step in which it takes it, and whatever it held when it died is settled by the loop. A job
that it got from the queue is not its own before it has claimed it.

The interpreter looks for exceptions that were sent to a thread between two of its own steps. list.extend and map are
one step, so that nothing comes between the taking and the noting.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

from gowork.worker._runner.completion import AttemptReport
from gowork.worker._runner.job import Job

#: The arguments of one call of list.pop, and of SimpleQueue.get.
_LAST = (-1,)
_BLOCK = (True,)


class Hand:
    """One thread. Owner of every field: the thread, and once it is dead the loop."""

    __slots__ = ("is_over", "jobs", "report", "slots", "slots_given", "thread")

    def __init__(
        self, number: int, work: Callable[[Hand], None], thread: Callable[..., threading.Thread] = threading.Thread
    ) -> None:
        #: What it has claimed to run: at most one.
        self.jobs: list[Job] = []
        #: The slot that it holds: at most one.
        self.slots: list[int] = []
        #: Of the job that it holds, once that has run.
        self.report: AttemptReport | None = None
        #: The loop gives it a slot here while it waits for one.
        self.slots_given: SimpleQueue[int] = SimpleQueue()
        #: It has ended because it was told to.
        self.is_over = False
        # A daemon: a handler that never returns must not keep a stopped runner alive.
        self.thread = thread(target=work, args=(self,), name=f"gowork-{number}", daemon=True)

    def claim(self, queued: dict[int, Job], fence: int) -> bool:
        """Takes a job out of those that have not started, and holds it; false when somebody else was faster."""
        try:
            self.jobs.extend(map(queued.pop, (fence,)))
        except KeyError:
            return False
        return True

    def take_slot(self, pop: Callable[[int], int]) -> None:
        """Holds one of the free slots.

        Raises:
            IndexError: when there is none.
        """
        self.slots.extend(map(pop, _LAST))

    def await_slot(self) -> None:
        """Waits until the loop gives it a slot, and holds that."""
        self.slots.extend(map(self.slots_given.get, _BLOCK))

    def give_slot(self, extend: Callable[[map[int]], None]) -> None:
        """Gives its slot up, to a list or a deque."""
        extend(map(self.slots.pop, _LAST))

    def slots_left(self) -> list[int]:
        """The slots that a dead thread has, whether it has seen them or not."""
        while not self.slots_given.empty():
            self.slots.append(self.slots_given.get())
        return self.slots
