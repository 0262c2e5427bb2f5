"""The engine: the one loop that owns the state.

It takes all commands that have queued up, steps through them as one batch, and waits for more or for a deadline.
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
from gowork.leader._replication.journal import Journal, LoneJournal
from gowork.leader.log.protocol import LogError
from gowork.leader.store.protocol import TERM_MAX, TERM_WARNING, Opened, Store, StoreBlockedError, StoreError

_log = logging.getLogger(__name__)

A = TypeVar("A")
T = TypeVar("T")

#: How many commands one batch takes. A single command may carry 10,000 tasks.
BATCH_COMMANDS_MAX = 4096
#: A batch whose submits, reports, and cancels and retries by filter carry this many tasks is full.
BATCH_TASKS_MAX = 20_000
#: A batch is held open while GATHER_COMMANDS_MIN to GATHER_COMMANDS_MAX commands wait for it, and more come in every
#: GATHER_SECONDS.
GATHER_COMMANDS_MIN = 4
GATHER_COMMANDS_MAX = 256
GATHER_SECONDS = 0.001
#: How long heartbeats wait for others, or for a command, in seconds: a step costs the same for one as for many.
HEARTBEAT_SECONDS = 0.05
#: The longest wait while a lease runs, in seconds. The loop notices that it was held up by waking late. If the process
#: is stopped during a longer wait, that time would pass for waiting.
LEASE_WAIT_SECONDS = 1.0
#: The longest wait for a time of the wall clock, in seconds, because that clock may be stepped.
WALL_WAIT_SECONDS = 5.0
#: Why nothing is taken, unless `stop` gets another reason.
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
        *,
        journal: Journal | None = None,
    ) -> None:
        """Makes an engine.

        Args:
            store: is read.
            delivery: carries effects.
            counts: counts what happens.
            settings: spans and bounds.
            clock: tells the time.
            journal: makes batches durable; None: the store does so alone.
        """
        self._store = seams.checked(store)
        self._journal = LoneJournal(self._store) if journal is None else seams.checked_journal(journal, self._store)
        self._is_checked = seams.ON
        self._delivery = delivery
        self._counts = counts
        self._settings = settings or Settings()
        self._clock = clock or SystemClock()
        self._queue: list[Item] = []
        #: The current batch: it is being decided and made durable.
        self._in_hand: list[Item] = []
        self._wake = asyncio.Event()
        #: Whether `_wake` is about to be set, because heartbeats wait.
        self._wakes_late = False
        self._stop_asked = asyncio.Event()
        self._stopping = False
        #: Why it takes no more, for later callers.
        self._stopped_because = STOPPING
        #: In monotonic seconds: when the last batch was through, and when the next step is to begin at the latest.
        self._looked_mono = 0.0
        self._expected_mono = 0.0
        self.subscriptions = Subscriptions()
        self.opened = Opened(0, "", 1)
        self.started_ms = 0
        self.started_mono = 0.0
        self._writer = Writer(self._journal, self._stop_asked, self._refuse)
        self._lead(State(self._settings, fence=0, next_seq=1))

    # For the RPC layer.

    async def ask(self, command: cmd.Command[A]) -> A:
        """Has a command decided, and returns its answer when the decision is durable.

        A cancelled caller does not cancel a command that was taken.

        Raises:
            RefusedError: the command is refused.
            NotServingError: nothing is taken now.
        """
        self._check_serving()
        answer: A | cmd.Refused = await self._enqueue(cast(cmd.AnyCommand, command))
        if isinstance(answer, cmd.Refused):
            raise RefusedError(answer)
        return answer

    async def read(self, question: Callable[[State], T]) -> T:
        """Asks a question about the state, when all that was asked before is durable.

        The question must copy what it keeps.
        """
        self._check_serving()
        answer: T = await self._enqueue(question)
        return answer

    async def confirm(self) -> None:
        """Returns if this term still led at some time after the call. For what is read from the store alone.

        Raises:
            LeadershipLostError: see Journal.confirm.
        """
        await self._journal.confirm()

    def will_tell(self, id: str) -> bool:
        """Whether the subscriptions will tell when this task finishes; then a waiter that is added now misses nothing.

        False says nothing: the task may have finished, or there is none. The answer gives away nothing that is not
        durable.

        Raises:
            NotServingError: nothing is taken now.
        """
        self._check_serving()
        task = self._state.tasks.get(id)
        # A finished task will be told of only if the current batch has finished it. Another is in memory by chance.
        return task is not None and (task.standing.status < COMPLETED or id in self._stepper.being_moved)

    def post(self, command: cmd.AnyCommand) -> None:
        """Has a command decided that nobody waits for."""
        if not self._stopping:
            self._queue.append((command, None))
            self._wake.set()

    def post_frame(self, frame: cmd.ReceiveFrame) -> asyncio.Future[None]:
        """Does as `post`. The future is done when the frame was dealt with, so that its sender can be held back.

        While the store takes nothing, the frame is kept and its session stays alive.
        """
        future = self._post(frame)
        self._wake.set()
        return future

    def post_heartbeat(self, frame: cmd.ReceiveFrame) -> asyncio.Future[None]:
        """Does as `post_frame` with a frame that says nothing, but for up to HEARTBEAT_SECONDS the next batch gathers.

        It is dealt with before anything expires.
        """
        if not self._wakes_late:
            self._wakes_late = True
            asyncio.get_running_loop().call_later(HEARTBEAT_SECONDS, self._wake_late)
        return self._post(frame)

    def now(self) -> Now:
        return self._clock.now()

    def wall_ns(self) -> int:
        """Returns the time for traces, in wall-clock nanoseconds."""
        return self._clock.wall_ns()

    @property
    def changed(self) -> int:
        """The number of the last batch; see Record.changed."""
        return self._stepper.changed

    @property
    def kept_tasks(self) -> int:
        """How many tasks that have ended may be kept, because others come after them that have not ended."""
        return self._state.dependents.kept

    @property
    def released(self) -> int:
        """How often tasks that were kept for others no longer had to be."""
        return self._state.dependents.released

    def keeps(self, id: str, seq: int) -> bool:
        """Whether a task that has ended is kept, because others come after it that have not ended."""
        return self._state.dependents.keeps(id, seq)

    @property
    def blocked(self) -> StoreBlockedError | None:
        """Why nothing is taken now; None when batches are taken."""
        return self._writer.blocked

    @property
    def waits_seconds(self) -> float:
        """See Writer.waits_seconds."""
        return self._writer.waits_seconds

    @property
    def leads(self) -> bool:
        """Whether nothing is known yet that has ended this term. See Journal.leads."""
        return self._journal.leads()

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
        self.opened = await self._journal.open()
        if self.opened.term >= TERM_WARNING:
            _log.warning("terms come to an end", extra={"term": self.opened.term, "left": TERM_MAX - self.opened.term})
        now = self._clock.now()
        self.started_ms, self.started_mono = now.wall_ms, now.mono
        state, unfinished = await recover(self._store, self.opened, self._settings, now)
        # This batch comes before the first pages, which would pass over tasks that move before they are paged in.
        self._queue.append((cmd.TakeBackOrphans(), None))
        self._lead(state)
        self._looked_mono = now.mono
        _log.info("store opened", extra={"term": self.opened.term, "unfinished": unfinished})

    async def run(self) -> None:
        """Runs until `stop`, and then until the queue is empty.

        Raises:
            StoreError: the store can no longer be trusted, so the leader must end.
            LogError: the same of the log. LeadershipLostError: another leader leads.
        """
        while True:
            await self._wait()
            if self._stopping and not self._queue:
                return
            try:
                await self._step()
            except Abandoned:
                # Nobody was told that this batch is durable: workers will report again, and callers were told that
                # their commands may not come about.
                _log.warning("stopped while the store takes nothing; the last batch is dropped")
                return
            except (StoreError, LogError) as error:
                self._stopping = True
                for _, future in (*self._in_hand, *self._queue):
                    if future is not None and not future.done():
                        future.set_exception(error)
                        # Asked for, because some callers have gone, and asyncio would report that nobody was told.
                        future.exception()
                raise

    def stop(self, because: str = STOPPING) -> None:
        """Takes no more commands, and ends `run` when those that were taken are durable or can't be made so.

        Args:
            because: why, for later callers.
        """
        self._stopped_because = because
        self._stopping = True
        self._stop_asked.set()
        self._wake.set()

    async def resign(self) -> None:
        """Lets another leader take over. Call it when `run` has ended."""
        await self._journal.resign()

    async def close(self) -> None:
        """Ends the journal. Call it when `run` has ended."""
        await self._journal.close()

    # The loop.

    def _lead(self, state: State) -> None:
        """Has all commands and questions from now on go to this state."""
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

    def _post(self, frame: cmd.ReceiveFrame) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._stopping:
            future.set_result(None)
        else:
            self._queue.append((frame, future))
        return future

    def _wake_late(self) -> None:
        self._wakes_late = False
        self._wake.set()

    async def _gather(self) -> None:
        """Lets commands that the network is bringing in join this batch: a commit costs the same for one as for many.

        A single caller is not held up. Only when several wait already is it likely that more are under way.
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
        """Tells waiting callers now. The current batch stays, and is made durable when the store takes it."""
        refuse(self._in_hand, blocked, taken=True)
        self._queue = refuse(self._queue, blocked)

    def _take(self) -> list[Item]:
        queue, tasks = self._queue, 0
        for place, (what, _) in enumerate(queue):
            if isinstance(what, cmd.Submit):
                tasks += len(what.specs)
            elif isinstance(what, cmd.ReceiveFrame):
                tasks += len(what.reports)
                for columns in what.completions:
                    tasks += len(columns.ids)
            elif isinstance(what, (cmd.CancelTasks, cmd.RetryTasks)):
                tasks += len(what.tasks)
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
