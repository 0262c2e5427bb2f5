"""One step of the engine: a batch is loaded, decided, applied and committed, and then let out.

Invariants: ONE-BATCH (the next batch is decided after this one is durable), BARRIER (nothing leaves before the commit
of the batch that it came from, reads included).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from gowork.leader._core import commands as cmd
from gowork.leader._core.apply import apply, forget
from gowork.leader._core.clock import next_deadlines, trim
from gowork.leader._core.decide import decide
from gowork.leader._core.decision import Decision
from gowork.leader._core.effects import Effect
from gowork.leader._core.model import Now, QueueSettings, Task
from gowork.leader._core.state import State
from gowork.leader._core.tally import Tally
from gowork.leader._engine.blocked import Writer
from gowork.leader._engine.clock import Clock
from gowork.leader._engine.counts import Counts
from gowork.leader._engine.loading import Loader
from gowork.leader._engine.news import log_news
from gowork.leader._engine.subscriptions import Subscriptions
from gowork.leader.store.codec import moved_task, new_task
from gowork.leader.store.protocol import Batch, DeletedTask, MemberRecord, QueueRecord, changed_number

_log = logging.getLogger(__name__)

#: A loop that was held up for longer than this extends all leases by as much, in seconds.
STALL_SECONDS = 1.0

#: A question about the state; it must copy what it keeps.
Read = Callable[[State], Any]
#: What was asked, and who waits for the answer; None: nobody does.
Item = tuple[cmd.Command | Read, asyncio.Future[Any] | None]


class Outbox(Protocol):
    """Takes effects to those they concern; must not block."""

    def deliver(self, effects: Sequence[Effect]) -> None: ...


class Stepper:
    """Takes a state from one batch to the next."""

    def __init__(
        self,
        state: State,
        term: int,
        loader: Loader,
        writer: Writer,
        outbox: Outbox,
        counts: Counts,
        subscriptions: Subscriptions,
        clock: Clock,
    ) -> None:
        self._state = state
        self._term = term
        self.loader = loader
        self._writer = writer
        self._outbox = outbox
        self._counts = counts
        self._subscriptions = subscriptions
        self._clock = clock
        self._batch_number = 0
        #: {id: task}: what the batch in hand has changed of older tasks, until it is durable.
        self.being_moved: dict[str, Task] = {}

    @property
    def changed(self) -> int:
        """The number of the last batch; see Record.changed."""
        return changed_number(self._term, self._batch_number)

    async def step(self, items: Sequence[Item], expected_mono: float) -> Now:
        """Goes through one batch, from what was asked to what is told.

        Args:
            items: what was asked, in order.
            expected_mono: when this step was to begin at the latest.

        Returns:
            When it was decided.

        Raises:
            Abandoned: when the store does not take it and the engine is to stop.
            StoreError: when the store can no longer be trusted.
        """
        state = self._state
        # What comes due while the store is read is left for the next batch.
        due_ms = self._clock.now().wall_ms
        if self.loader.hungry:
            await self.loader.page_in()
        visiting = await self.loader.visit([what for what, _ in items], due_ms)
        now = self._clock.now()
        effects = self._extend_after_stall(now, expected_mono)
        replies: list[tuple[asyncio.Future[Any], Any]] = []
        reads: list[tuple[Read, asyncio.Future[Any]]] = []
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
        self._subscriptions.publish([*changed, *progressed.values()], self.changed, removed)
        forget(state, [task.spec.id for task in changed])
        forget(state, visiting)
        return now

    def _extend_after_stall(self, now: Now, expected_mono: float) -> list[Effect]:
        """Before anything else of a batch: what waits in the network counts for whoever sent it."""
        late = now.mono - expected_mono
        if late <= STALL_SECONDS:
            return []
        _log.warning("loop was held up", extra={"seconds": round(late, 1)})
        return self._decide(cmd.ExtendLeases(late), now).effects

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
        number = self.changed
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
        self.being_moved = moved
        state.submitted, state.moved, state.joined, state.gone, state.configured = {}, {}, {}, {}, {}
        state.purged, state.forgotten_before = {}, 0
        started = self._clock.now().mono
        await self._writer.write(batch, waiting)
        self.being_moved = {}
        self._counts.committed(len(changed), self._clock.now().mono - started, changed[-1].spec if changed else None)
        return changed, tuple(purged.values())


def _answer(question: Read, state: State, future: asyncio.Future[Any]) -> None:
    if future.done():
        return
    try:
        future.set_result(question(state))
    except Exception as error:  # noqa: BLE001 - whoever asked gets it; the loop goes on
        future.set_exception(error)
