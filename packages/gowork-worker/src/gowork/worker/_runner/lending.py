"""Which attempts wait for other tasks, and which of them lend their slots meanwhile.

Without it, parents that wait for their children would keep the slots that the children need, and none would go on.
A short wait lends nothing, because handing a slot over and back costs more than it is worth.

Invariants: an attempt lends one slot, however many waits it is in. Only running attempts lend. At most as many lend as
there are spare slots.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container

#: Seconds that a wait lasts before the slot is lent.
LEND_AFTER_SECONDS = 0.1


class Lending:
    """The runner's SlotLender, whose methods any thread may call. Most others are called on the loop only."""

    def __init__(self, spare: int, running: Container[int], changed: Callable[[], None]) -> None:
        """Args:
        spare: how many attempts may lend at once.
        running: the fences of running attempts; a live view.
        changed: called when more or fewer attempts lend than before.
        """
        self._loop = asyncio.get_running_loop()
        self._spare = spare
        self._running = running
        self._changed = changed
        #: The fences of attempts that have begun to wait. While it is empty, other attempts need not look further.
        #: The waiting thread adds; the loop removes.
        self.noted: dict[int, None] = {}
        #: {fence: how many waits the attempt is in}
        self._waits: dict[int, int] = {}
        #: {fence: the timer that ends when the attempt has waited for LEND_AFTER_SECONDS}
        self._timers: dict[int, asyncio.TimerHandle] = {}
        #: The fences of attempts that have waited that long and found no spare slot, in their order.
        self._beyond: dict[int, None] = {}
        #: The fences of attempts that lend.
        self.lent: set[int] = set()

    def begin_wait(self, fence: int) -> None:
        """See SlotLender."""
        self.noted[fence] = None
        self._tell(self._begun, fence)

    def end_wait(self, fence: int) -> None:
        """See SlotLender."""
        self._tell(self._ended, fence)

    def keeps(self, fence: int) -> bool:
        """See SlotLender."""
        return fence in self._beyond

    def attempt_ended(self, fence: int) -> None:
        """Has the loop `drop` an attempt that was noted and has ended. May be called from any thread."""
        self._tell(self.drop, fence)

    def drop(self, fence: int) -> None:
        """Ends all waits of an attempt."""
        self._waits.pop(fence, None)
        self._beyond.pop(fence, None)
        timer = self._timers.pop(fence, None)
        if timer is not None:
            timer.cancel()
        lent = fence in self.lent
        self.lent.discard(fence)
        # Removed last: if an exception breaks this off, the attempt stays noted, and its end calls this again.
        self.noted.pop(fence, None)
        if lent:
            self._fill()
            self._changed()

    def look_after(self) -> None:
        """Drops attempts that have ended and are still known here, because an exception broke something off."""
        for fence in [fence for fence in (*self.noted, *self._waits, *self.lent) if fence not in self._running]:
            self.drop(fence)

    def _tell(self, what: Callable[[int], None], fence: int) -> None:
        try:
            self._loop.call_soon_threadsafe(what, fence)
        except RuntimeError:
            pass  # The loop is closed: the runner has ended, and this thread goes on without it.

    def _begun(self, fence: int) -> None:
        if fence not in self._running:
            # The attempt has ended, and a thread that it started goes on in its name.
            self.drop(fence)
            return
        # The end of the previous wait may have removed it.
        self.noted[fence] = None
        waits = self._waits[fence] = self._waits.get(fence, 0) + 1
        if waits == 1:
            self._timers[fence] = self._loop.call_later(LEND_AFTER_SECONDS, self._lend, fence)

    def _ended(self, fence: int) -> None:
        waits = self._waits.get(fence, 0)
        if waits > 1:
            self._waits[fence] = waits - 1
        elif waits:
            self.drop(fence)

    def _lend(self, fence: int) -> None:
        self._beyond[fence] = None
        self._timers.pop(fence, None)
        self._fill()

    def _fill(self) -> None:
        """Lets attempts that have waited long enough lend, as long as there are spare slots."""
        filled = False
        while self._beyond and len(self.lent) < self._spare:
            fence = next(iter(self._beyond))
            self.lent.add(fence)
            del self._beyond[fence]
            filled = True
        if filled:
            self._changed()
