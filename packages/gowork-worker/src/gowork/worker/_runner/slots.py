"""The slots of a runner: which are free, and who is given the next one.

While slots are free, threads take them and give them back by themselves. As soon as somebody waits for one, each freed
slot goes through the loop, which gives it to threads and to attempts on the loop by turns.

Invariant: a slot is in `free`, in `handed` or in `withheld`, or one thread or attempt on the loop holds it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from gowork.worker._runner.hands import Hand
from gowork.worker._runner.job import Job
from gowork.worker._runner.lending import Lending
from gowork.worker._runner.table import SlotTable


class Slots:
    """Knows every slot. Threads take from `free` and call `release`; all else is called on the loop."""

    def __init__(
        self,
        table: SlotTable,
        lending: Lending,
        start_on_loop: Callable[[Job, int], None],
        withheld: Callable[[int], None],
        broken: Callable[[BaseException], None],
    ) -> None:
        """Args:
        table: says how many slots there are, and how many to spare.
        lending: says how many slots are lent.
        start_on_loop: starts a job on the loop in a slot.
        withheld: told how many slots are out of use, when `limit` has taken effect.
        broken: called when something was raised in the middle of the bookkeeping, which can't be trusted from then on.
        """
        self._loop = asyncio.get_running_loop()
        self._table = table
        self._lending = lending
        self._start_on_loop = start_on_loop
        self._tell_withheld = withheld
        self._broken = broken
        #: How many tasks may run at once, besides those that wait for others.
        self._limit = table.slots
        #: Slots that thread or loop may take. Owner: both.
        self.free = list(range(table.slots))
        #: Slots that the loop alone may give away, because somebody waits for one. Owner: both add, the loop takes.
        self.handed: deque[int] = deque()
        #: The spare slots, and those that `limit` has taken out of use. Owner: the loop.
        self.withheld: list[int] = list(range(table.slots, table.rows))
        #: How many slots were said to be out of use; -1 while `limit` has not taken effect. Owner: the loop.
        self._withheld_told = 0
        #: Threads that hold a job and wait for a slot. Owner: the loop.
        self.starving: deque[Hand] = deque()
        #: Jobs for the loop that wait for a slot. Owner: the loop.
        self.for_loop: deque[Job] = deque()
        #: Whether a thread is next when threads and the loop both wait. Owner: the loop.
        self._threads_next = False
        #: Whether freed slots must go through the loop. Owner: the loop; threads look after each slot that they free.
        self.contended = False

    def limit(self, slots: int) -> None:
        """Lets at most `slots` tasks run from now on, 0 to those of the table, besides tasks that wait for others."""
        self._limit = slots
        self._withheld_told = -1
        self.pump()

    def pump(self) -> None:
        """Gives free slots to those that wait for one, or withholds them."""
        try:
            self._hand_out()
        except BaseException as error:  # noqa: BLE001 - also what is sent to this thread by others
            self._broken(error)

    def release(self, hand: Hand, has_waited: bool) -> None:
        """Frees the slot of a thread.

        Args:
            hand: the thread, which calls this.
            has_waited: its job has waited for others, and may have lent this slot to one that still runs. The loop
                hears of the job's end first, and then withholds the slot.
        """
        if self.contended or has_waited:
            hand.give_slot(self.handed.extend)
            self._loop.call_soon_threadsafe(self.pump)
            return
        hand.give_slot(self.free.extend)
        if self.contended:
            # Somebody began to wait between the two looks, and may have missed this slot.
            self._loop.call_soon_threadsafe(self.pump)

    def _hand_out(self) -> None:
        self.contended = True
        excess = self._table.rows - self._limit - len(self._lending.lent) - len(self.withheld)
        while excess < 0:
            self.handed.append(self.withheld.pop())
            excess += 1
        while True:
            slot = self._next()
            if slot is None:
                break
            if excess > 0:
                self.withheld.append(slot)
                excess -= 1
            elif self.for_loop and not (self.starving and self._threads_next):
                self._threads_next = True
                self._start_on_loop(self.for_loop.popleft(), slot)
            elif self.starving:
                self._threads_next = False
                self.starving.popleft().slots_given.put(slot)
            else:
                self.free.append(slot)
                break
        if self._withheld_told < 0 and excess == 0:
            self._withheld_told = self._table.slots - self._limit
            self._tell_withheld(self._withheld_told)
        self.contended = bool(excess > 0 or self.starving or self.for_loop)
        if not self.contended:
            # One by one: a thread that saw the contention may add a slot meanwhile, which a clear() would lose.
            while self.handed:
                self.free.append(self.handed.popleft())

    def _next(self) -> int | None:
        try:
            return self.handed.popleft() if self.handed else self.free.pop()
        except IndexError:
            return None
