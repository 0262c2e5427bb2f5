"""The engine: the one loop that owns the state.

It takes all that has queued up, decides, commits the whole batch, and only then lets replies and effects out.
Invariants: ONE-BATCH (the next batch is decided after this one is durable), BARRIER (nothing leaves before the commit
of the batch that it came from, reads included).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from gowork.leader._core import changes as ch
from gowork.leader._core import commands as cmd
from gowork.leader._core.apply import apply, expect, forget
from gowork.leader._core.callbacks import take_up
from gowork.leader._core.clock import next_deadlines, next_token, trim
from gowork.leader._core.decide import decide
from gowork.leader._core.decision import Decision
from gowork.leader._core.effects import Effect
from gowork.leader._core.model import COMPLETED, Now, QueueSettings, Task
from gowork.leader._core.state import Settings, State
from gowork.leader._core.tally import Tally
from gowork.leader._engine.clock import Clock, SystemClock
from gowork.leader._engine.counts import Counts
from gowork.leader._engine.loading import Loader
from gowork.leader._engine.news import log_news
from gowork.leader._engine.subscriptions import Subscriptions
from gowork.leader.store.codec import moved_task, new_task
from gowork.leader.store.protocol import (
    TERM_SHIFT,
    Batch,
    DeletedTask,
    MemberRecord,
    Opened,
    QueueRecord,
    Store,
    StoreBlockedError,
    StoreError,
    StoreFullError,
    changed_number,
)

_log = logging.getLogger(__name__)

T = TypeVar("T")

#: Commands of one batch; a single one may carry 10,000 tasks.
BATCH_COMMANDS_MAX = 4096
#: Tasks that a batch's submits and reports carry, after which it is full.
BATCH_TASKS_MAX = 20_000
#: While so many commands wait for a batch, and more come within each such span in seconds, the batch is held open.
GATHER_COMMANDS_MIN = 4
GATHER_COMMANDS_MAX = 256
GATHER_SECONDS = 0.001
#: How long to wait before a batch that could not be written is tried again, in seconds.
BLOCKED_RETRY_SECONDS = 1.0
#: A loop that was held up for longer than this extends all leases by as much, in seconds.
STALL_SECONDS = 1.0
#: The longest wait while a lease runs, in seconds: how long the loop was held up is told from what it is late by, and a
#: leader that is stopped while it waits would count that as waiting.
LEASE_WAIT_SECONDS = 1.0
#: The longest wait for something that is due by the wall clock, which may be stepped, in seconds.
WALL_WAIT_SECONDS = 5.0
#: Why nothing is taken.
FULL = "the store is full: nothing is accepted until there is room on its disk"
LOCKED = "another program holds the store's write lock: nothing is accepted until it lets go"


class Outbox(Protocol):
    """Takes effects to those they concern; must not block."""

    def deliver(self, effects: Sequence[Effect]) -> None: ...


class NotServingError(Exception):
    """The engine does not take this now: it stops."""


class NotTakenError(NotServingError):
    """The engine does not take this now: its store can't be written."""

    def __init__(self, *, full: bool, taken: bool = False) -> None:
        """Args:
        full: for want of room; else another program holds the store's write lock.
        taken: the command is in the batch that could not be written, and may come about yet.
        """
        self.full = full
        more = "; what this call asked for may yet come about, repeat it then to be sure" if taken else ""
        super().__init__(f"{FULL if full else LOCKED}{more}")


class _Abandoned(Exception):
    """The last batch can't be written, and the engine stops."""


_Read = Callable[[State], Any]
_Item = tuple["cmd.Command | _Read", "asyncio.Future[Any] | None"]


class Engine:
    """Runs the core over a store."""

    def __init__(
        self,
        store: Store,
        outbox: Outbox,
        counts: Counts,
        settings: Settings | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._store = store
        self._outbox = outbox
        self._counts = counts
        self._settings = settings or Settings()
        self._clock = clock or SystemClock()
        self._queue: list[_Item] = []
        #: The batch that is being decided and made durable.
        self._in_hand: list[_Item] = []
        #: {id: task}: what the batch in hand has changed of older tasks, until it is durable.
        self._being_moved: dict[str, Task] = {}
        self._wake = asyncio.Event()
        self._stop_asked = asyncio.Event()
        self._state = State(self._settings, fence=0, next_seq=1)
        self._loader = Loader(store, self._state)
        self._batch_number = 0
        self._stopping = False
        #: When the last batch was through, and when the loop is to look at the clock next if nothing comes.
        self._looked_mono = 0.0
        self._expected_mono = 0.0
        self.subscriptions = Subscriptions()
        self.opened = Opened(0, "", 1)
        self.started_ms = 0
        self.started_mono = 0.0
        #: Why the store takes nothing at the moment.
        self.blocked: StoreBlockedError | None = None
        #: How many requests came after `stop`.
        self.turned_away = 0

    # For the RPC layer.

    async def ask(self, command: cmd.Command) -> Any:
        """Has a command decided and answers when that is durable.

        A cancelled caller does not cancel a command that has been taken.

        Raises:
            NotServingError: when nothing is taken now.
        """
        self._check_serving()
        return await self._enqueue(command)

    async def read(self, question: Callable[[State], T]) -> T:
        """Asks a question about the state as it is when everything before is durable.

        The question must copy what it keeps.
        """
        self._check_serving()
        answer: T = await self._enqueue(question)
        return answer

    def will_tell(self, id: str) -> bool:
        """Whether the subscriptions will tell when this task finishes: a waiter that is added now misses nothing.

        False says nothing: the task may have finished, or there is none. Tells nothing that is not durable.

        Raises:
            NotServingError: when nothing is taken now.
        """
        self._check_serving()
        task = self._state.tasks.get(id)
        # A finished one is to be told of if the batch in hand has finished it; else it is in memory by chance.
        return task is not None and (task.standing.status < COMPLETED or id in self._being_moved)

    def post(self, command: cmd.Command) -> None:
        """Has a command decided that nobody waits for."""
        if not self._stopping:
            self._queue.append((command, None))
            self._wake.set()

    def post_frame(self, frame: cmd.ReceiveFrame) -> asyncio.Future[None]:
        """As post; the future is done when the frame has been dealt with, so that a sender can be held back.

        It is kept, and its session with it, while the store is full.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._stopping:
            future.set_result(None)
        else:
            self._queue.append((frame, future))
            self._wake.set()
        return future

    def now(self) -> Now:
        return self._clock.now()

    @property
    def changed(self) -> int:
        """The number of the last batch; see Record.changed."""
        return changed_number(self.opened.term, self._batch_number)

    @property
    def finished_tasks(self) -> tuple[int, int]:
        """How many finished tasks the store has: those with status ERROR, and the others."""
        failed = self._state.failed_tasks
        return failed, self._state.finished_tasks - failed

    @property
    def queued(self) -> int:
        """How many commands wait for the next batch."""
        return len(self._queue)

    # For the app.

    async def recover(self) -> None:
        """Opens the store and takes up where the last leader stopped.

        Raises:
            StoreError: see Store.open.
        """
        self.opened = await self._store.open()
        now = self._clock.now()
        self.started_ms, self.started_mono = now.wall_ms, now.mono
        state = State(self._settings, fence=self.opened.term << TERM_SHIFT, next_seq=self.opened.next_seq)
        callback_lease = now.mono + self._settings.callback_lease
        for member in await self._store.members():
            apply(state, ch.CallbackJoined(member.id, member.address, callback_lease, member.joined_ms))
        for queue in await self._store.queues():
            # Without tokens: a rate holds over a restart too.
            apply(state, ch.QueueConfigured(queue.name, queue.settings, 0.0, now.mono))
        state.joined.clear()
        state.configured.clear()
        self._loader = Loader(self._store, state)
        count = await self._loader.recover()
        # In a batch of its own: what is moved before the first pages come would be passed over by them.
        self._queue.append((cmd.TakeBackOrphans(), None))
        for change in take_up(state, now).changes:
            apply(state, change)
        expect(state, now.mono + self._settings.lease)
        state.tally = Tally()
        self._state = state
        self._looked_mono = now.mono
        _log.info("store opened", extra={"term": self.opened.term, "unfinished": count})

    async def run(self) -> None:
        """Runs until `stop`, and then until the queue is empty.

        Raises:
            StoreError: when the store can no longer be trusted; the leader must end.
        """
        while True:
            await self._wait()
            if self._stopping and not self._queue:
                return
            try:
                await self._step()
            except _Abandoned:
                # Nobody was told of what is in this batch: workers report again, callers know that it may not be there.
                _log.warning("stopped while the store takes nothing; the last batch is dropped")
                return
            except StoreError as error:
                self._stopping = True
                for _, future in (*self._in_hand, *self._queue):
                    if future is not None and not future.done():
                        future.set_exception(error)
                raise

    def stop(self) -> None:
        """Takes no more commands and ends `run` when those that were taken are durable, or can't be made so."""
        self._stopping = True
        self._stop_asked.set()
        self._wake.set()

    # The loop.

    async def _wait(self) -> None:
        self._expected_mono = self._looked_mono
        if self._queue:
            await self._gather()
            return
        self._wake.clear()
        if self._stopping:
            return
        if self._loader.hungry:
            await asyncio.sleep(0)
            return
        mono, wall_ms = next_deadlines(self._state)
        now = self._clock.now()
        token = next_token(self._state, now.mono)
        waits = [at - now.mono for at in (mono, token) if at is not None]
        if mono is not None:
            waits.append(LEASE_WAIT_SECONDS)
        if wall_ms is not None:
            waits.append(min((wall_ms - now.wall_ms) / 1000, WALL_WAIT_SECONDS))
        try:
            async with asyncio.timeout(max(min(waits), 0.0) if waits else None):
                await self._wake.wait()
        except TimeoutError:
            # Waiting input is processed before anything expires.
            await asyncio.sleep(0)
        self._expected_mono = now.mono + (min(waits) if waits else float("inf"))

    async def _gather(self) -> None:
        """Lets what the network is bringing in join this batch: a commit costs the same for one command as for many.

        One caller at a time is not held up: only where several wait already is it likely that more are under way.
        """
        gathered = 0
        while GATHER_COMMANDS_MIN <= len(self._queue) < GATHER_COMMANDS_MAX and len(self._queue) > gathered:
            gathered = len(self._queue)
            await asyncio.sleep(GATHER_SECONDS)
        if not gathered:
            await asyncio.sleep(0)

    def _extend_after_stall(self, now: Now) -> list[Effect]:
        """Before anything else of a batch: what waits in the network counts for whoever sent it."""
        late = now.mono - max(self._expected_mono, self._looked_mono)
        if late <= STALL_SECONDS:
            return []
        _log.warning("loop was held up", extra={"seconds": round(late, 1)})
        return self._decide(cmd.ExtendLeases(late), now).effects

    async def _step(self) -> None:
        items = self._in_hand = self._take()
        state = self._state
        # What comes due while the store is read is left for the next batch.
        due_ms = self._clock.now().wall_ms
        if self._loader.hungry:
            await self._loader.page_in()
        visiting = await self._loader.visit([what for what, _ in items], due_ms)
        now = self._clock.now()
        effects = self._extend_after_stall(now)
        replies: list[tuple[asyncio.Future[Any], Any]] = []
        reads: list[tuple[_Read, asyncio.Future[Any]]] = []
        dealt_with: list[asyncio.Future[Any]] = []
        for what, future in items:
            if callable(what):
                if future is not None:
                    reads.append((what, future))
                continue
            decision = self._decide(what, now)
            effects += decision.effects
            if future is None:
                pass
            elif isinstance(what, cmd.ReceiveFrame):
                dealt_with.append(future)
            else:
                replies.append((future, decision.answer))
        mono, wall_ms = next_deadlines(state)
        if (mono is not None and mono <= now.mono) or (wall_ms is not None and wall_ms <= due_ms):
            effects += self._decide(cmd.Tick(due_ms), now).effects
            trim(state, due_ms)
        effects += self._decide(cmd.Dispatch(), now).effects
        changed, removed = await self._commit([*(future for future, _ in replies), *(future for _, future in reads)])
        if state.tally:
            tally, state.tally = state.tally, Tally()
            self._counts.applied(tally)
            log_news(tally)
        if effects:
            self._outbox.deliver(effects)
        for future, answer in replies:
            if not future.done():
                future.set_result(answer)
        for future in dealt_with:
            if not future.done():
                future.set_result(None)
        for question, future in reads:
            _answer(question, state, future)
        progressed, state.progressed = state.progressed, {}
        self.subscriptions.publish([*changed, *progressed.values()], self.changed, removed)
        forget(state, [task.spec.id for task in changed])
        forget(state, visiting)
        self._looked_mono = self._clock.now().mono
        if self._looked_mono - now.mono > STALL_SECONDS:
            # Frames may have waited in the network for as long as this batch took.
            self._queue.insert(0, (cmd.ExtendLeases(self._looked_mono - now.mono), None))

    def _decide(self, command: cmd.Command, now: Now) -> Decision:
        state = self._state
        decision = decide(state, command, now)
        for change in decision.changes:
            apply(state, change)
        return decision

    async def _commit(self, waiting: list[asyncio.Future[Any]]) -> tuple[list[Task], Sequence[str]]:
        """Makes the batch durable and answers the tasks that it changed, and the ids of those that it removed.

        `waiting` are told when the store does not take it.
        """
        state = self._state
        submitted, moved = state.submitted, state.moved
        changed = [*submitted.values(), *moved.values()]
        others = (state.joined, state.gone, state.configured, state.purged, state.forgotten_before)
        if not changed and not any(others):
            return changed, ()
        self._batch_number += 1
        number = changed_number(self.opened.term, self._batch_number)
        for task in changed:
            task.changed = number
        configured, defaults = state.configured, QueueSettings()
        purged, forgotten_before = state.purged, state.forgotten_before
        batch = Batch(
            [new_task(task) for task in submitted.values()],
            [moved_task(task) for task in moved.values()],
            [MemberRecord(member.id, member.address, member.joined_ms) for member in state.joined.values()],
            tuple(state.gone),
            queues=[QueueRecord(name, settings) for name, settings in configured.items() if settings != defaults],
            queues_gone=[name for name, settings in configured.items() if settings == defaults],
            deletes=[DeletedTask(seq, id, number) for seq, id in purged.items()],
            tombstones_before=forgotten_before,
        )
        self._being_moved = moved
        state.submitted, state.moved, state.joined, state.gone, state.configured = {}, {}, {}, {}, {}
        state.purged, state.forgotten_before = {}, 0
        started = self._clock.now().mono
        await self._commit_until_taken(batch, waiting)
        self._being_moved = {}
        self._counts.committed(len(changed), self._clock.now().mono - started, changed[-1].spec if changed else None)
        return changed, tuple(purged.values())

    async def _commit_until_taken(self, batch: Batch, waiting: list[asyncio.Future[Any]]) -> None:
        while True:
            try:
                await self._store.commit(batch)
            except StoreBlockedError as error:
                full = isinstance(error, StoreFullError)
                if self.blocked is None:
                    _log.error(FULL if full else LOCKED, extra={"reason": str(error)})
                self.blocked = error
                # Whoever waits is told now; the batch stays and is made durable when the store takes it.
                for future in waiting:
                    if not future.done():
                        future.set_exception(NotTakenError(full=full, taken=True))
                self._refuse_queued(full)
                try:
                    async with asyncio.timeout(BLOCKED_RETRY_SECONDS):
                        await self._stop_asked.wait()
                except TimeoutError:
                    continue
                raise _Abandoned from None
            else:
                if self.blocked is not None:
                    self.blocked = None
                    _log.info("store takes batches again")
                return

    def _refuse_queued(self, full: bool) -> None:
        """Refuses all but the frames of sessions, which are kept alive: their workers are held back one frame each."""
        kept: list[_Item] = []
        for what, future in self._queue:
            if future is None or isinstance(what, cmd.ReceiveFrame):
                kept.append((what, future))
            elif not future.done():
                future.set_exception(NotTakenError(full=full))
        self._queue = kept

    def _take(self) -> list[_Item]:
        queue, tasks = self._queue, 0
        for place, (what, _) in enumerate(queue):
            if isinstance(what, cmd.Submit):
                tasks += len(what.specs)
            elif isinstance(what, cmd.ReceiveFrame):
                tasks += len(what.reports)
            if tasks >= BATCH_TASKS_MAX or place + 1 >= BATCH_COMMANDS_MAX:
                self._queue = queue[place + 1 :]
                return queue[: place + 1]
        self._queue = []
        return queue

    async def _enqueue(self, what: cmd.Command | _Read) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append((what, future))
        self._wake.set()
        return await future

    def _check_serving(self) -> None:
        if self._stopping:
            self.turned_away += 1
            raise NotServingError("the leader is stopping")
        if self.blocked is not None:
            raise NotTakenError(full=isinstance(self.blocked, StoreFullError))


def _answer(question: _Read, state: State, future: asyncio.Future[Any]) -> None:
    if future.done():
        return
    try:
        future.set_result(question(state))
    except Exception as error:  # noqa: BLE001 - whoever asked gets it; the loop goes on
        future.set_exception(error)
