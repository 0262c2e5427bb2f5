"""Plants bugs from outside of leader and worker, to show that the simulator's checkers find them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from msgspec.structs import replace
from sim_plants_log import LogPlants

from gowork.leader._core import attempts, callbacks, dispatch, sessions, state, step, ticking
from gowork.leader._core import commands as cmd
from gowork.leader._core.clock import ripe_ids
from gowork.leader._core.decision import Decision
from gowork.leader._core.dependents import Dependent, Verdict
from gowork.leader._core.kinds import TICKS
from gowork.leader._core.lanes import Lane
from gowork.leader._core.model import Outcome, Standing, Status, Task
from gowork.leader._core.pending import Pending
from gowork.leader._core.schedules import Definition, Ticks, ticks_of
from gowork.leader._core.unique import Keys
from gowork.leader._engine import loading, recovery
from gowork.leader._engine.loop import Engine
from gowork.proto.completions import reports_of
from gowork.worker._desk import desk
from gowork.worker._desk.instructions import Tell
from gowork.worker._desk.pause import Pause
from gowork.worker._desk.runner import Runner
from gowork.worker._desk.solo import Solo
from gowork.worker._desk.unacknowledged import Unacknowledged
from gowork.worker._desk.work import Work
from gowork.worker._runner import messages


@dataclass
class Plants(LogPlants):
    """Which bugs are planted."""

    accept_stale_fence: bool = False
    effect_before_commit: bool = False
    acknowledge_undurable_duplicate: bool = False
    forget_leases_on_recovery: bool = False
    worker_drops_reports: bool = False
    worker_reports_what_was_released: bool = False
    worker_reports_whatever_comes: bool = False
    worker_starts_while_cut_off: bool = False
    worker_keeps_slots_of_isolated_runners: bool = False
    worker_forgets_lent_slots: bool = False
    worker_forgets_cancels: bool = False
    worker_lists_what_runs_alone: bool = False
    count_interrupted_attempts: bool = False
    accept_reports_of_others: bool = False
    forget_keys_on_recovery: bool = False
    forget_pauses_on_recovery: bool = False
    forget_drains_on_recovery: bool = False
    fill_rates_on_recovery: bool = False
    lose_count_of_resting: bool = False
    grant_before_due: bool = False
    grant_expired: bool = False
    grant_low_before_high: bool = False
    lose_follow_ups: bool = False
    give_callback_workers_more: bool = False
    leave_what_was_not_dialled: bool = False
    leave_what_idle_members_forgot: bool = False
    grant_whatever_the_version: bool = False
    free_before_the_rule_holds: bool = False
    forget_dependents_on_recovery: bool = False
    give_keys_twice: bool = False
    make_ticks_twice: bool = False
    forget_ticks_on_recovery: bool = False
    lose_ticks: bool = False

    def into_engine(self, engine: Engine) -> None:
        """Plants the bugs that live in one engine."""
        if self.acknowledge_undurable_duplicate:
            ask = engine.ask

            async def hasty(command: cmd.AnyCommand) -> Any:
                known = engine._state.tasks
                if isinstance(command, cmd.Submit) and all(spec.id in known for spec in command.specs):
                    return cmd.Submitted(0, len(command.specs))
                return await ask(command)

            engine.ask = hasty  # type: ignore[assignment,method-assign]  # it is planted

    def after_recovery(self, engine: Engine) -> None:
        """Plants the bugs that come with a start, after the checkers have seen what was recovered."""
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
        if self.forget_drains_on_recovery:
            for worker in engine._state.workers.values():
                worker.drain_ms = None
        if self.forget_ticks_on_recovery:
            for name, ticks in list(engine._state.facts.of(TICKS).items()):
                engine._state.facts.put(TICKS, name, replace(ticks, last_ms=ticks.last_ms - 20_000))
        for queue in engine._state.queues:
            if self.forget_keys_on_recovery:
                queue.keys, queue.held_back = defaultdict(int), {}
            if self.forget_pauses_on_recovery:
                queue.settings = replace(queue.settings, paused=False)
            if self.fill_rates_on_recovery:
                queue.tokens = queue.burst

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Plants the bugs that live in modules and classes."""
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
        if self.grant_whatever_the_version:
            yield state, "has_version", lambda policy, wanted: True
        if self.give_callback_workers_more:
            yield state.Callback, "free", True
        if self.free_before_the_rule_holds:
            yield Dependent, "verdict", Verdict.RUN
        if self.forget_dependents_on_recovery:
            yield loading, "link", lambda *args: None
        if self.give_keys_twice:
            yield Keys, "take", lambda keys, key, id: ""
        if self.make_ticks_twice:
            yield ticking, "ticks_of", _ticks_from_the_last
        if self.lose_ticks:
            yield Ticks, "with_run", lambda ticks, run, **of: ticks
        yield from self._patches_of_workers()
        yield from self.patches_of_the_log()

    def _patches_of_workers(self) -> Iterator[tuple[Any, str, Any]]:
        if self.worker_drops_reports:
            yield Unacknowledged, "take", _take_and_forget
        if self.worker_reports_what_was_released:
            yield Work, "release", Work.cancel
        if self.worker_reports_whatever_comes:
            yield Work, "reported", _keep_whatever_comes
        if self.worker_starts_while_cut_off:
            yield Pause, "cut_off", lambda pause, now: None
        if self.worker_keeps_slots_of_isolated_runners:
            yield Pause, "brief", _take_slots_of_all
        if self.worker_forgets_lent_slots:
            yield Solo, "lender_ended", lambda solo, lender: None
        if self.worker_forgets_cancels:
            yield Solo, "take_back", lambda solo, task: False
        if self.worker_lists_what_runs_alone:
            yield desk, "listed", _list_what_runs


_EARLY_MS = 20_000
_take, _brief, _listed = Unacknowledged.take, Pause.brief, desk.listed
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
    """Does nothing, so that the holders that were loaded have no lease."""


def _add_uncounted(lane: Lane, task: Task, *, room: bool) -> None:
    _add(lane, task, room=room)
    if not task.in_window:
        lane.stored = 0


def _decide_early(state: Any, command: cmd.AnyCommand, now: Any) -> Decision:
    if isinstance(command, cmd.Tick):
        command = cmd.Tick(command.due_ms + _EARLY_MS)
    return _decide(state, command, now)


def _ticks_from_the_last(definition: Definition, after_ms: int) -> Iterator[int]:
    return ticks_of(definition, after_ms - 1)


def _take_and_forget(unacknowledged: Unacknowledged, bytes_max: int) -> Any:
    taken = _take(unacknowledged, bytes_max)
    reports, completions = taken
    unacknowledged.acknowledge(report.fence for report in reports)
    unacknowledged.acknowledge(fence for columns in completions for fence in columns.fences)
    return taken


def _keep_whatever_comes(
    work: Work, runner: Runner, reports: Any, size: int, now: float, completions: Any = ()
) -> None:
    reports = [*reports, *(report for columns in completions for report in reports_of(columns))]
    for report in reports:
        task = runner.tasks.pop(report.fence, None)
        work.held.pop(report.fence, None)
        if task is not None and task.lender is not None:
            work.solo.finished(task)
    work._keep(reports, size)


def _take_slots_of_all(pause: Pause, runner: Runner) -> None:
    _brief(pause, runner)
    if pause.is_on and runner.alone:
        pause._instruct(Tell(runner.id, messages.Slots(0)))


def _list_what_runs(held: Any, running: Any, reports: Any) -> Any:
    return _listed([each for each in held if each.fence in running], running, reports)
