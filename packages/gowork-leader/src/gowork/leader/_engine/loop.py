"""The engine: the one loop that owns the state.

It takes all that has queued up, has it stepped through as one batch, and waits for more or for what comes due.
Invariant ONE-BATCH: the next batch is decided after this one is durable.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, TypeVar, cast

from gowork.leader._core import commands as cmd
from gowork.leader._core.clock import next_deadlines, next_token
from gowork.leader._core.model import COMPLETED, Now
from gowork.leader._core.state import Settings, State
from gowork.leader._engine import seams
from gowork.leader._engine.asked import Caller, Item, Read, RefusedError
from gowork.leader._engine.blocked import Abandoned, NotServingError, NotTakenError, Writer, refuse
from gowork.leader._engine.clock import Clock, SystemClock
from gowork.leader._engine.counts import Counts
from gowork.leader._engine.loading import Loader
from gowork.leader._engine.recovery import recover
from gowork.leader._engine.step import STALL_SECONDS, Delivery, Stepper
from gowork.leader._engine.subscriptions import Subscriptions
from gowork.leader.store.protocol import Opened, Store, StoreBlockedError, StoreError

_log = logging.getLogger(__name__)

A = TypeVar("A")
T = TypeVar("T")

#: Commands of one batch; a single one may carry 10,000 tasks.
BATCH_COMMANDS_MAX = 4096
#: Tasks that a batch's submits and reports carry, after which it is full.
BATCH_TASKS_MAX = 20_000
#: A batch is held open while this many commands wait for it, and more come within each span of this many seconds.
GATHER_COMMANDS_MIN = 4
GATHER_COMMANDS_MAX = 256
GATHER_SECONDS = 0.001
#: The longest wait while a lease runs, in seconds: how long the loop was held up is told from what it is late by, and a
#: leader that is stopped while it waits would count that as waiting.
LEASE_WAIT_SECONDS = 1.0
#: The longest wait for something that is due by the wall clock, which may be stepped, in seconds.
WALL_WAIT_SECONDS = 5.0
#: Why nothing is taken, unless `stop` is told otherwise.
STOPPING = "the leader is stopping"


class Engine:
    """Runs the core over a store."""

    def __init__(
        self,
        store: Store,
        delivery: Delivery,
        counts: Counts,
        settings: Settings | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._store = seams.checked(store)
        self._is_checked = seams.ON
        self._delivery = delivery
        self._counts = counts
        self._settings = settings or Settings()
        self._clock = clock or SystemClock()
        self._queue: list[Item] = []
        #: The batch that is being decided and made durable.
        self._in_hand: list[Item] = []
        self._wake = asyncio.Event()
        self._stop_asked = asyncio.Event()
        self._stopping = False
        #: Why it takes no more, for later callers.
        self._stopped_because = STOPPING
        #: When the last batch was through, and when the loop is to look at the clock next if nothing comes.
        self._looked_mono = 0.0
        self._expected_mono = 0.0
        self.subscriptions = Subscriptions()
        self.opened = Opened(0, "", 1)
        self.started_ms = 0
        self.started_mono = 0.0
        self._writer = Writer(self._store, self._stop_asked, self._refuse)
        self._lead(State(self._settings, fence=0, next_seq=1))

    # For the RPC layer.

    async def ask(self, command: cmd.Command[A]) -> A:
        """Has a command decided and answers when that is durable.

        A cancelled caller does not cancel a command that has been taken.

        Raises:
            RefusedError: when it is refused.
            NotServingError: when nothing is taken now.
        """
        self._check_serving()
        answer: A | cmd.Refused = await self._enqueue(cast(cmd.AnyCommand, command))
        if isinstance(answer, cmd.Refused):
            raise RefusedError(answer)
        return answer

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
        return task is not None and (task.standing.status < COMPLETED or id in self._stepper.being_moved)

    def post(self, command: cmd.AnyCommand) -> None:
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

    def wall_ns(self) -> int:
        """The time for traces, in wall-clock nanoseconds."""
        return self._clock.wall_ns()

    @property
    def changed(self) -> int:
        """The number of the last batch; see Record.changed."""
        return self._stepper.changed

    @property
    def blocked(self) -> StoreBlockedError | None:
        """Why the store takes nothing at the moment; None when it does."""
        return self._writer.blocked

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
        state, unfinished = await recover(self._store, self.opened, self._settings, now)
        # In a batch of its own, because the first pages would pass over tasks that are moved before they come.
        self._queue.append((cmd.TakeBackOrphans(), None))
        self._lead(state)
        self._looked_mono = now.mono
        _log.info("store opened", extra={"term": self.opened.term, "unfinished": unfinished})

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
            except Abandoned:
                # Nobody was told of what is in this batch: workers report again, callers know that it may not be there.
                _log.warning("stopped while the store takes nothing; the last batch is dropped")
                return
            except StoreError as error:
                self._stopping = True
                for _, future in (*self._in_hand, *self._queue):
                    if future is not None and not future.done():
                        future.set_exception(error)
                raise

    def stop(self, because: str = STOPPING) -> None:
        """Takes no more commands and ends `run` when those that were taken are durable, or can't be made so.

        Args:
            because: what whoever asks from now on is told.
        """
        self._stopped_because = because
        self._stopping = True
        self._stop_asked.set()
        self._wake.set()

    # The loop.

    def _lead(self, state: State) -> None:
        """From here on everything that is asked is asked of this state."""
        self._state = state
        self._stepper = Stepper(
            state,
            self.opened.term,
            Loader(self._store, state),
            self._writer,
            self._delivery,
            self._counts,
            self.subscriptions,
            self._clock,
            is_checked=self._is_checked,
        )

    async def _wait(self) -> None:
        self._expected_mono = self._looked_mono
        if self._queue:
            await self._gather()
            return
        self._wake.clear()
        if self._stopping:
            return
        if self._stepper.loader.hungry:
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

    async def _step(self) -> None:
        self._in_hand = self._take()
        decided = await self._stepper.step(self._in_hand, max(self._expected_mono, self._looked_mono))
        self._looked_mono = self._clock.now().mono
        took = self._looked_mono - decided.mono
        if took > STALL_SECONDS:
            # Frames may have waited in the network for as long as this batch took.
            self._queue.insert(0, (cmd.ExtendLeases(took), None))

    def _refuse(self, blocked: StoreBlockedError) -> None:
        """Whoever waits is told now; the batch in hand stays and is made durable when the store takes it."""
        refuse(self._in_hand, blocked, taken=True)
        self._queue = refuse(self._queue, blocked)

    def _take(self) -> list[Item]:
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

    async def _enqueue(self, what: cmd.AnyCommand | Read) -> Any:
        caller: Caller = asyncio.get_running_loop().create_future()
        self._queue.append((what, caller))
        self._wake.set()
        return await caller

    def _check_serving(self) -> None:
        if self._stopping:
            raise NotServingError(self._stopped_because)
        if self.blocked is not None:
            raise NotTakenError(self.blocked)
