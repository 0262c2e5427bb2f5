"""The threads that run plain handlers: started as they are needed, replaced when they die.

Threads take their jobs from one queue themselves and hand the reports to one outbox, which the loop empties when it
gets to it. So a flood of short tasks costs no wake-up of the loop for each, and while little is going on each report
leaves at once.

Whatever reaches a thread outside of a handler ends that thread alone: the loop reports its job and gives its slot back.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

from gowork.worker._runner.attempt import Attempts
from gowork.worker._runner.hands import Hand
from gowork.worker._runner.job import Job
from gowork.worker._runner.jobs import Jobs
from gowork.worker._runner.lending import Lending
from gowork.worker._runner.slots import Slots
from gowork.worker._runner.strikes import Strikes

logger = logging.getLogger("gowork.worker.runner")


class Threads:
    """Starts, replaces and ends the threads. `_thread` and what it calls run in them, all else on the loop."""

    def __init__(
        self,
        slots_max: int,
        jobs: Jobs,
        attempts: Attempts,
        slots: Slots,
        lending: Lending,
        broken: Callable[[BaseException], None],
        thread: Callable[..., threading.Thread] = threading.Thread,
    ) -> None:
        """Args:
        slots_max: how many threads there are at most, besides one for each slot that is lent.
        jobs: what is held.
        attempts: runs a job.
        slots: gives slots to threads.
        lending: says how many slots are lent.
        broken: called when a dead thread can't be settled, when no thread can be started, and when one after another
            dies.
        thread: makes a thread.
        """
        self._loop = asyncio.get_running_loop()
        self._slots_max = slots_max
        self._jobs = jobs
        self._attempts = attempts
        self._slots = slots
        self._lending = lending
        self._broken = broken
        self._make_thread = thread
        self._strikes = Strikes(broken)
        #: What threads are to run, and None for each that is to end. Jobs that were taken out of Jobs.queued meanwhile
        #: are skipped. Owner: the loop puts, threads get.
        self.queue: SimpleQueue[Job | None] = SimpleQueue()
        #: The threads that have been started and not been settled. Owner: the loop.
        self.hands: list[Hand] = []
        self._hands_made = 0
        #: How many of them have been told to end, because there are more than slots, and have not yet. Owner: the loop.
        self._hands_ending = 0
        #: Owner: the loop.
        self._closed = False

    @property
    def missing(self) -> int:
        """How many more threads there may be; negative when there are too many."""
        return self._slots_max + len(self._lending.lent) - len(self.hands) + self._hands_ending

    def start(self, waiting: int) -> None:
        """Starts as many threads as there may be, at most `waiting`."""
        for _ in range(min(self.missing, waiting)):
            hand = Hand(self._hands_made, self._thread, self._make_thread)
            self._hands_made += 1
            # Noted before it starts, so that it is known even if something fails meanwhile.
            self.hands.append(hand)
            try:
                hand.thread.start()
            except RuntimeError as error:
                self.hands.remove(hand)
                # The system gives no more threads. Those that are there do the work, with as many tasks at once.
                if not self.hands:
                    self._broken(error)
                logger.warning("a thread could not be started", extra={"reason": str(error)})
                return

    def adjust(self) -> None:
        """Starts or ends threads, because more or fewer slots are lent than before."""
        if self._closed:
            return
        self.start(self.queue.qsize())
        for _ in range(-self.missing):
            # More threads than slots would all wait for them, and each slot would go through the loop.
            self._hands_ending += 1
            self.queue.put(None)

    def look_after(self) -> None:
        """Settles threads that have died without a word, and starts those that should be there."""
        for hand in [hand for hand in self.hands if not hand.thread.is_alive()]:
            self._replace(hand)
        if not self._closed:
            self.start(self.queue.qsize())

    def close(self) -> None:
        """Lets idle threads end, and starts no more. Threads stuck in a handler end with the process."""
        self._closed = True
        for _ in self.hands:
            self.queue.put(None)

    def _thread(self, hand: Hand) -> None:
        """What a thread does, from its start to its end."""
        try:
            self._work(hand)
        except BaseException as error:  # noqa: BLE001 - nobody is above it: the loop settles what it held
            self._strikes.note(error)
        finally:
            try:
                self._loop.call_soon_threadsafe(self._replace, hand)
            except RuntimeError:
                pass  # The loop is closed: the runner has ended.

    def _work(self, hand: Hand) -> None:
        get, queued, jobs, slots = self.queue.get, self._jobs.queued, self._jobs, self._slots
        while (job := get()) is not None:
            self._await_slot(hand)
            # As long as there is more to do the slot is kept: to give it up and take it again costs as much as all
            # else that a thread does for a short task.
            while True:
                has_waited = False
                if hand.claim(queued, job.fence):
                    slot = hand.slots[0]
                    hand.report = report = self._attempts.run(jobs.begin(job, slot))
                    has_waited = jobs.finish(job, slot, report)
                    self._strikes.in_a_row = 0
                    # In this order: without a job its report means nothing.
                    hand.jobs.clear()
                    hand.report = None
                if slots.contended or has_waited:
                    break
                try:
                    job = get(False)
                except Empty:
                    break
                if job is None:
                    break
            slots.release(hand, has_waited)
            if job is None:
                break
        hand.is_over = True

    def _await_slot(self, hand: Hand) -> None:
        try:
            hand.take_slot(self._slots.free.pop)
        except IndexError:
            self._loop.call_soon_threadsafe(self._starve, hand)
            hand.await_slot()

    def _starve(self, hand: Hand) -> None:
        if hand in self.hands:
            self._slots.starving.append(hand)
            self._slots.pump()

    def _replace(self, hand: Hand) -> None:
        """Settles the job of a thread that has died, and starts another thread."""
        if hand not in self.hands:
            return
        try:
            self._settle(hand)
            if not self._closed:
                self.start(1)
        except BaseException as error:  # noqa: BLE001 - also what is sent to this thread by others
            self._broken(error)

    def _settle(self, hand: Hand) -> None:
        self.hands.remove(hand)
        if hand.is_over and self._hands_ending:
            self._hands_ending -= 1
        if hand in self._slots.starving:
            self._slots.starving.remove(hand)
        slots = hand.slots_left()
        for job in hand.jobs:
            if hand.report is not None or self._jobs.held.get(job.fence) is job:
                self._jobs.finish(job, slots[0], hand.report or self._jobs.lose(job))
        if not hand.is_over:
            self._put_again()
        self._slots.handed.extend(slots)
        self._slots.pump()

    def _put_again(self) -> None:
        """Puts again what a thread may have got from the queue when it died, and did not come to claim.

        A job that is in the queue twice does no harm: one thread claims it. A thread too many that ends is started
        again.
        """
        for job in list(self._jobs.queued.values()):
            if not job.handler.is_async:
                self.queue.put(job)
        if self._hands_ending:
            self.queue.put(None)
