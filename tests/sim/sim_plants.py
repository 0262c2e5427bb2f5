"""Planted bugs, to show that the simulator bites. Each is put in from outside; nothing in the leader knows of them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from msgspec.structs import replace

from gowork.leader._core import attempts, callbacks, dispatch, sessions, state, step
from gowork.leader._core import commands as cmd
from gowork.leader._core.clock import ripe_ids
from gowork.leader._core.decision import Decision
from gowork.leader._core.lanes import Lane
from gowork.leader._core.model import Outcome, Standing, Status, Task
from gowork.leader._core.pending import Pending
from gowork.leader._engine import loading, recovery
from gowork.leader._engine.loop import Engine


@dataclass
class Plants:
    """Which bugs are in."""

    accept_stale_fence: bool = False
    effect_before_commit: bool = False
    acknowledge_undurable_duplicate: bool = False
    forget_leases_on_recovery: bool = False
    worker_drops_reports: bool = False
    count_interrupted_attempts: bool = False
    accept_reports_of_others: bool = False
    forget_keys_on_recovery: bool = False
    forget_pauses_on_recovery: bool = False
    fill_rates_on_recovery: bool = False
    lose_count_of_resting: bool = False
    grant_before_due: bool = False
    grant_expired: bool = False
    grant_low_before_high: bool = False
    lose_follow_ups: bool = False
    give_callback_workers_more: bool = False
    leave_what_was_not_dialled: bool = False
    leave_what_idle_members_forgot: bool = False

    def into_engine(self, engine: Engine) -> None:
        """Puts those in that live in one engine."""
        if self.acknowledge_undurable_duplicate:
            ask = engine.ask

            async def hasty(command: cmd.AnyCommand) -> Any:
                known = engine._state.tasks
                if isinstance(command, cmd.Submit) and all(spec.id in known for spec in command.specs):
                    return cmd.Submitted(0, len(command.specs))
                return await ask(command)

            engine.ask = hasty  # type: ignore[method-assign]

    def after_recovery(self, engine: Engine) -> None:
        """Puts those in that come with a start, behind the look at what was recovered."""
        if self.effect_before_commit:
            commit = engine._stepper._commit

            async def early(pending: Pending, changed: Sequence[Task]) -> None:
                engine._delivery.deliver(pending.effects)
                pending.effects = []
                await commit(pending, changed)

            engine._stepper._commit = early  # type: ignore[method-assign]
        if self.leave_what_was_not_dialled:
            for callback in engine._state.callbacks.values():
                if callback.held is not None:
                    callback.held.adopted = False
                    callback.held.since_mono = math.inf
        for queue in engine._state.queues:
            if self.forget_keys_on_recovery:
                queue.keys, queue.held_back = defaultdict(int), {}
            if self.forget_pauses_on_recovery:
                queue.settings = replace(queue.settings, paused=False)
            if self.fill_rates_on_recovery:
                queue.tokens = queue.burst

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Puts those in that live in modules and classes."""
        with ExitStack() as stack:
            for target, name, bug in self._patches():
                stack.enter_context(mock.patch.object(target, name, bug, create=True))
            yield

    def _patches(self) -> Iterator[tuple[Any, str, Any]]:
        if self.accept_stale_fence:
            yield sessions, "_holds", _holds_whatever_runs
        if self.accept_reports_of_others:
            yield sessions, "_holds", _holds_under_this_fence
        if self.count_interrupted_attempts:
            yield sessions, "settle", _settle_counting_all
        if self.lose_follow_ups:
            yield sessions, "new_tasks", lambda *args: ([], [])
        if self.forget_leases_on_recovery:
            yield recovery, "expect", _expect_nobody
        if self.lose_count_of_resting:
            yield Lane, "add", _add_uncounted
        if self.grant_before_due:
            yield step, "decide", _decide_early
            yield loading, "ripe_ids", lambda state, due_ms: ripe_ids(state, due_ms + _EARLY_MS)
        if self.grant_expired:
            yield dispatch, "has_expired", lambda spec, now: False
        if self.grant_low_before_high:
            yield dispatch, "sorted", lambda items, reverse: sorted(items)
        if self.leave_what_idle_members_forgot:
            yield callbacks, "IDLE_BEATS_MIN", math.inf
        if self.give_callback_workers_more:
            yield state.Callback, "free", True


_EARLY_MS = 20_000
_decide, _add = step.decide, Lane.add


def _holds_whatever_runs(task: Task, instance: str, fence: int) -> bool:
    return task.standing.status is Status.RUNNING


def _holds_under_this_fence(task: Task, instance: str, fence: int) -> bool:
    return task.standing.status is Status.RUNNING and task.standing.fence == fence


def _settle_counting_all(standing: Standing, report: cmd.Report, *args: Any) -> Standing:
    settled = attempts.settle(standing, report, *args)
    if report.outcome is Outcome.INTERRUPTED:
        return replace(settled, attempts_used=settled.attempts_used + 1)
    return settled


def _expect_nobody(state: Any, lease_mono: float) -> None:
    """Leaves the holders that were loaded without a lease."""


def _add_uncounted(lane: Lane, task: Task, *, room: bool) -> None:
    _add(lane, task, room=room)
    if not task.in_window:
        lane.stored = 0


def _decide_early(state: Any, command: cmd.AnyCommand, now: Any) -> Decision:
    if isinstance(command, cmd.Tick):
        command = cmd.Tick(command.due_ms + _EARLY_MS)
    return _decide(state, command, now)
