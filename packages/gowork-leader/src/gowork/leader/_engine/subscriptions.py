"""Waiters, which wait until named tasks finish, and watchers, which see every change that a filter selects.

They are told only of what is durable. A waiter is bounded: it holds each of its tasks once, and beyond WAITER_BYTES_MAX
only their ids. `watching` owns the watchers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from msgspec import Struct

from gowork.leader._core.model import COMPLETED, Standing, Task
from gowork.leader._engine.watching import Feed, SubscriptionsClosed, bytes_of

#: How many bytes of finished tasks, in bodies and results, may wait for one waiter to read them. Beyond that it keeps
#: ids, and the tasks are looked up in the store.
WAITER_BYTES_MAX = 16 << 20
#: The same over all waiters. Each waiter may keep one task beyond that.
WAITERS_BYTES_MAX = 64 << 20
#: How many completed tasks are kept for waiters that come later: at least this many, at most twice as many.
RECENT_TASKS_MAX = 1_000
#: A task with more bytes than this in its result is not kept, and a body with more bytes than this is left out.
RECENT_BYTES_MAX = 4 << 10


#: A body of at most 256 bytes is kept also for who does not want it, because to leave it out costs more.
SMALL_BYTES = 256


class Ended(Struct, frozen=True, gc=False):
    """A task that has finished."""

    id: str
    #: What was asked for; None: it was left out.
    body: bytes | None
    standing: Standing


class Waiting:
    """What all waiters hold together."""

    __slots__ = ("bytes", "closed_because", "ids")

    def __init__(self) -> None:
        #: How many bytes of finished tasks wait to be read or sent.
        self.bytes = 0
        #: How many ids the calls with lists of ids wait for.
        self.ids = 0
        #: Why no more tasks will be told; empty while they are.
        self.closed_because = ""


class Waiter:
    """Gathers tasks as they finish, each once."""

    __slots__ = ("_all", "_beyond", "_bytes", "_closed", "_event", "_finished", "_taken_bytes", "_with_bodies")

    def __init__(self, waiting: Waiting, *, with_bodies: bool = True) -> None:
        """Args:
        waiting: counts what all waiters hold.
        with_bodies: whether it gathers what was asked for, too. Otherwise only of tasks that ask for little.
        """
        self._all = waiting
        self._with_bodies = with_bodies
        #: Finished tasks that were not taken yet, and how many bytes they take.
        self._finished: list[Ended] = []
        self._bytes = 0
        #: How many bytes the tasks take that were taken last. They may not have been sent yet.
        self._taken_bytes = 0
        #: Ids of tasks that finished beyond the bounds.
        self._beyond: list[str] = []
        self._event = asyncio.Event()
        self._closed = False

    def finish(self, tasks: Sequence[Ended], size: int, *, are_small: bool) -> None:
        """Adds tasks that have finished.

        Args:
            tasks: each with its body.
            size: how many bytes their bodies and results have.
            are_small: whether no body has more than SMALL_BYTES.
        """
        own, of_all = self._bytes + size, self._all.bytes + size
        if (are_small or self._with_bodies) and own <= WAITER_BYTES_MAX and of_all <= WAITERS_BYTES_MAX:
            self._bytes, self._all.bytes = own, of_all
            self._finished += tasks
        else:
            for ended in tasks:
                self._finish(ended)
        self._event.set()

    def _finish(self, ended: Ended) -> None:
        if self._bytes >= WAITER_BYTES_MAX or (self._finished and self._all.bytes >= WAITERS_BYTES_MAX):
            self._beyond.append(ended.id)
            return
        body, standing = ended.body, ended.standing
        if not self._with_bodies and body is not None and len(body) > SMALL_BYTES:
            ended, body = Ended(ended.id, None, standing), None
        size = bytes_of(body or b"", standing)
        self._bytes += size
        self._all.bytes += size
        self._finished.append(ended)

    async def take(self) -> tuple[list[Ended], list[str]]:
        """Waits for the next finished tasks and returns (tasks, ids of others, which were beyond the bounds).

        Raises:
            SubscriptionsClosed: no more will come.
        """
        await self._event.wait()
        self._event.clear()
        self._all.bytes -= self._taken_bytes
        taken, self._finished, self._taken_bytes, self._bytes = self._finished, [], self._bytes, 0
        beyond, self._beyond = self._beyond, []
        if self._closed and not taken:
            raise SubscriptionsClosed(self._all.closed_because)
        return taken, beyond

    def end(self) -> None:
        """Frees what the waiter holds, because nothing more is taken."""
        self._all.bytes -= self._taken_bytes + self._bytes
        self._taken_bytes = self._bytes = 0

    def close(self) -> None:
        """Ends the wait."""
        self._closed = True
        self._event.set()


class Subscriptions:
    """All waiters and watchers."""

    def __init__(self) -> None:
        #: {task id: its waiters}; nearly always only one.
        self._waiters: dict[str, tuple[Waiter, ...]] = {}
        self.waiting = Waiting()
        self.watchers = Feed()
        #: {task id: the task as it completed}, in two generations. When the new one is full, the old one is forgotten.
        self._recent: dict[str, Ended] = {}
        self._less_recent: dict[str, Ended] = {}

    def recent(self, id: str, *, with_body: bool) -> Ended | None:
        """Returns the task if it completed a moment ago. None says nothing about the task."""
        found = self._recent.get(id) or self._less_recent.get(id)
        return None if found is None or (with_body and found.body is None) else found

    def add_waiter(self, waiter: Waiter, ids: Iterable[str]) -> None:
        """Has the waiter told when each of these tasks finishes. `ids` has each id once."""
        waiters, alone = self._waiters, (waiter,)
        for id in ids:
            others = waiters.get(id)
            waiters[id] = alone if others is None else (*others, waiter)

    def drop_waiter(self, waiter: Waiter, ids: Iterable[str]) -> None:
        """Has the waiter told of these tasks no more."""
        for id in ids:
            waiters = self._waiters.get(id)
            if waiters is not None:
                others = tuple(other for other in waiters if other is not waiter)
                if others:
                    self._waiters[id] = others
                else:
                    del self._waiters[id]

    def publish(self, tasks: Sequence[Task], changed: int, removed: Sequence[str] = ()) -> None:
        """Tells of a durable batch. It removed the ids in `removed` before it changed `tasks`."""
        waiters = self._waiters
        for id in removed:
            self._forget(id)
        # Tasks that follow each other and have the same waiters are told together.
        run: list[Ended] = []
        run_bytes, are_small = 0, True
        told: tuple[Waiter, ...] | None = None
        for task in tasks:
            standing, spec = task.standing, task.spec
            id = spec.id
            if standing.status < COMPLETED:
                self._forget(id)
                continue
            body = spec.body + spec.trace if spec.trace else spec.body
            result_bytes, body_bytes = len(standing.result) + len(standing.result_data), len(body)
            ended = Ended(id, body, standing)
            if standing.failure is not None or result_bytes > RECENT_BYTES_MAX:
                # An earlier task with this id may be kept, and is wrong from now on.
                self._forget(id)
            else:
                if len(self._recent) >= RECENT_TASKS_MAX:
                    self._recent, self._less_recent = {}, self._recent
                self._recent[id] = ended if body_bytes <= RECENT_BYTES_MAX else Ended(id, None, standing)
            its = waiters.pop(id, None)
            if its is None:
                continue
            if its is not told:
                for waiter in told or ():
                    waiter.finish(run, run_bytes, are_small=are_small)
                run, run_bytes, are_small, told = [], 0, True, its
            run.append(ended)
            run_bytes += result_bytes + body_bytes
            if body_bytes > SMALL_BYTES:
                are_small = False
        for waiter in told or ():
            waiter.finish(run, run_bytes, are_small=are_small)
        self.watchers.publish(tasks, changed, removed)

    def _forget(self, id: str) -> None:
        self._recent.pop(id, None)
        self._less_recent.pop(id, None)

    def close(self, because: str) -> None:
        """Ends all waits and watches.

        Args:
            because: why, for the callers whose calls end.
        """
        self.waiting.closed_because = because
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.close()
        self.watchers.close(because)
