"""One step of the engine: it loads, decides, applies and commits a batch, and then lets its answers and effects out.

Invariants: ONE-BATCH (the next batch is decided after this one is durable), BARRIER (nothing leaves before the commit
of the batch that it came from; that includes answers to reads), STILL-LEADS (what writes nothing leaves only after the
log has confirmed, later than the last question came, that this leader leads).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Protocol

from gowork.leader._core import commands as cmd
from gowork.leader._core.apply import forget
from gowork.leader._core.clock import next_deadlines, trim
from gowork.leader._core.effects import Effect
from gowork.leader._core.model import Fact, Now, Task
from gowork.leader._core.pending import Pending
from gowork.leader._core.state import State
from gowork.leader._core.step import carry_out, take
from gowork.leader._engine.asked import Caller, Item, Read
from gowork.leader._engine.blocked import Writer
from gowork.leader._engine.clock import Clock
from gowork.leader._engine.counts import Counts
from gowork.leader._engine.loading import Loader
from gowork.leader._engine.news import log_news
from gowork.leader._engine.seams import check_held
from gowork.leader._engine.subscriptions import Subscriptions
from gowork.leader.store.codec import moved_task, new_task
from gowork.leader.store.protocol import Batch, DeletedTask, changed_number

_log = logging.getLogger(__name__)

#: When the loop was held up for longer than this, in seconds, it extends all leases by that time.
STALL_SECONDS = 1.0


class Delivery(Protocol):
    """Carries effects to those that they concern. It must not block."""

    def deliver(self, effects: Sequence[Effect]) -> None: ...


class Stepper:
    """Takes a state from one batch to the next."""

    def __init__(
        self,
        state: State,
        term: int,
        loader: Loader,
        writer: Writer,
        delivery: Delivery,
        counts: Counts,
        subscriptions: Subscriptions,
        clock: Clock,
        *,
        is_checked: bool = False,
    ) -> None:
        """Args:
        is_checked: whether HELD is checked after each step; see seams.
        """
        self._state = state
        self._term = term
        self.loader = loader
        self._writer = writer
        self._delivery = delivery
        self._counts = counts
        self._subscriptions = subscriptions
        self._clock = clock
        self._is_checked = is_checked
        self._batch_number = 0
        #: {id: task} of older tasks that the current batch has changed, until it is durable.
        self.being_moved: dict[str, Task] = {}

    @property
    def changed(self) -> int:
        """The number of the last batch; see Record.changed."""
        return changed_number(self._term, self._batch_number)

    async def step(self, items: Sequence[Item], expected_mono: float) -> Now:
        """Goes through one batch, from its commands to its answers.

        Args:
            items: what was asked, in order.
            expected_mono: when this step was to begin at the latest, in monotonic seconds.

        Returns:
            The time at which the batch was decided.

        Raises:
            Abandoned: the batch is not taken, and the engine is to stop.
            StoreError, LogError: the leader must stop.
        """
        state = self._state
        # Timers that come due while the store is read are left for the next batch.
        due_ms = self._clock.now().wall_ms
        if self.loader.hungry:
            await self.loader.page_in()
        visiting = await self.loader.visit([what for what, _ in items], due_ms)
        now = self._clock.now()
        self._extend_after_stall(now, expected_mono)
        reads: list[tuple[Read, Caller]] = []
        for what, caller in items:
            if not callable(what):
                carry_out(state, what, now, caller)
            elif caller is not None:
                reads.append((what, caller))
        mono, wall_ms = next_deadlines(state)
        if (
            (mono is not None and mono <= now.mono)
            or (wall_ms is not None and wall_ms <= due_ms)
            or state.dependents.in_hand
            or state.dependents.stopping
        ):
            carry_out(state, cmd.Tick(due_ms), now)
            trim(state, due_ms)
        carry_out(state, cmd.Dispatch(), now)
        pending = take(state)
        changed = [*pending.submitted.values(), *pending.moved.values()]
        if self._is_checked:
            check_held(state, changed)
        if pending.is_written:
            await self._commit(pending, changed)
        elif reads or pending.lets_out:
            await self._writer.confirm()
        self._let_out(pending, changed, reads)
        forget(state, [task.spec.id for task in changed])
        forget(state, visiting)
        return now

    def _extend_after_stall(self, now: Now, expected_mono: float) -> None:
        """Extends the leases before all else, because frames that waited in the network count for their senders."""
        late = now.mono - expected_mono
        if late > STALL_SECONDS:
            _log.warning("loop was held up", extra={"seconds": round(late, 1)})
            carry_out(self._state, cmd.ExtendLeases(late), now)

    async def _commit(self, pending: Pending, changed: Sequence[Task]) -> None:
        """Makes the batch durable. `changed` are the tasks that it writes."""
        self._batch_number += 1
        number = self.changed
        for task in changed:
            task.changed = number
        batch = _batch(pending, number)
        self.being_moved = pending.moved
        started = self._clock.now().mono
        await self._writer.write(batch)
        self.being_moved = {}
        self._counts.committed(len(changed), self._clock.now().mono - started, changed[-1].spec if changed else None)

    def _let_out(self, pending: Pending, changed: Sequence[Task], reads: Iterable[tuple[Read, Caller]]) -> None:
        """Tells callers, workers and watchers what is durable now."""
        if pending.tally:
            self._counts.applied(pending.tally)
            log_news(pending.tally)
        if pending.effects:
            self._delivery.deliver(pending.effects)
        for caller, answer in pending.answers:
            if not caller.done():
                caller.set_result(answer)
        self._subscriptions.publish(
            [*changed, *pending.progressed.values()],
            self.changed,
            tuple(pending.removed.values()) if pending.removed else (),
        )
        # At last, so that who subscribes in a question is told of later batches alone.
        for question, caller in reads:
            _answer(question, self._state, caller)


def _batch(pending: Pending, number: int) -> Batch:
    """Returns what the store is to write."""
    return Batch(
        [new_task(task) for task in pending.submitted.values()],
        [moved_task(task) for task in pending.moved.values()],
        [
            *(DeletedTask(seq, id, number) for seq, id in pending.removed.items()),
            *(DeletedTask(seq, id, number) for id, seq in pending.replaced.items()),
        ],
        facts=[Fact(*key, value) for key, value in pending.facts.items() if value is not None],
        facts_gone=[key for key, value in pending.facts.items() if value is None],
        tombstones_before=pending.forgotten_before,
    )


def _answer(question: Read, state: State, caller: Caller) -> None:
    if caller.done():
        return
    try:
        caller.set_result(question(state))
    except Exception as error:  # noqa: BLE001 - the caller gets the error, and the loop goes on
        caller.set_exception(error)
