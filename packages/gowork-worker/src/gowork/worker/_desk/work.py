"""All tasks that the worker holds, from their grants to their reports: who runs them, and how they end.

Invariants: OWED (a granted task is held until there is a report of it, and then no more), ONCE (a fence is reported at
most once), RELEASED (a released fence is never reported).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._desk.instructions import (
    SPEAK,
    CancelTasks,
    Instruction,
    Level,
    Note,
    NoteLoss,
    NoteTimedOut,
    StartTasks,
)
from gowork.worker._desk.next_frame import NextFrame
from gowork.worker._desk.recycling import Recycling
from gowork.worker._desk.roster import Roster
from gowork.worker._desk.runner import Runner
from gowork.worker._desk.settlement import settle_dead
from gowork.worker._desk.sharing import share_out
from gowork.worker._desk.solo import Solo
from gowork.worker._desk.stops import Stops
from gowork.worker._desk.tasks import HeldTask
from gowork.worker._runner import endings, messages
from gowork.worker._runner.columns import without
from gowork.worker._runner.messages import StopKind

#: The fewest seconds that a cancelled task has to stop, while its runner has not said how many it has.
_GRACE_MIN = 5.0


class Work:
    """The tasks of one worker, over all its sessions. Times are in seconds, always on the same clock."""

    def __init__(
        self,
        slots: int,
        roster: Roster,
        stops: Stops,
        frame: NextFrame,
        recycling: Recycling,
        instruct: Callable[[Instruction], None],
    ) -> None:
        """Args:
        slots: the worker's slots.
        roster: the runners.
        stops: the tasks that were asked to stop.
        frame: takes reports, progress, and the counts from which the credit follows.
        recycling: says which processes are to be replaced.
        instruct: takes instructions.
        """
        self._roster = roster
        self._stops = stops
        self._frame = frame
        self._recycling = recycling
        self._instruct = instruct
        self.solo = Solo(slots, roster.ordinary, roster.start_alone, self.give, instruct)
        #: {fence: a task without a report}
        self.held: dict[int, HeldTask] = {}
        #: {fence: a task that was granted while no runner was ready}
        self._backlog: dict[int, HeldTask] = {}
        self.is_draining = False
        #: Whether tasks can be isolated, because runners are processes.
        self._isolates = True
        self._default_handler = ""
        #: The handlers whose tasks are isolated.
        self._isolated: frozenset[str] = frozenset()
        #: {handler: the plugins that it needs, and the environment that has it}
        self._needed: dict[str, tuple[tuple[str, ...] | None, str]] = {}
        #: Why checkpoints are not kept, of what was logged already.
        self._warned: set[str] = set()
        #: The longest grace of all handlers, in seconds.
        self._grace_max = _GRACE_MIN

    def learn(self, ready: messages.Ready, *, isolates: bool) -> None:
        """Takes the handlers that there are."""
        self._isolates = isolates
        self._default_handler = ready.default_handler
        # Ordinary runners have the worker's own environment.
        self._isolated = frozenset(
            note.name for note in ready.handlers if note.isolation == "process" or note.environment
        )
        # A runner of another environment imports all of its plugins, so that it can run a task of any.
        self._needed = {
            note.name: (None if note.environment else (note.plugin, *ready.shared), note.environment)
            for note in ready.handlers
        }
        self._grace_max = max([_GRACE_MIN, *(note.grace_ms / 1000 for note in ready.handlers)])

    # From the leader

    def grant(self, grants: Iterable[session.Grant], now: float) -> None:
        """Takes tasks."""
        new = [HeldTask(grant) for grant in grants]
        self._frame.credit.granted(len(new), now)
        held = self.held
        for task in new:
            held[task.fence] = task
        if self.is_draining:
            self.give_back(new, "the worker drains")
        else:
            self._start(new, now)

    def cancel(self, fences: Iterable[int], now: float) -> None:
        """The leader has cancelled these tasks: they must stop."""
        self._cancel([task for fence in fences if (task := self.held.get(fence)) is not None], now)

    def release(self, fences: Iterable[int], now: float) -> None:
        """The leader has released these tasks: they must stop, and are not reported."""
        self._frame.drop(fences)
        released = [task for fence in fences if (task := self.held.get(fence)) is not None]
        for task in released:
            task.released = True
        self._cancel(released, now)

    def _start(self, new: list[HeldTask], now: float) -> None:
        """Shares tasks out among the runners."""
        # Blocked runners get tasks only when all are blocked. The tasks wait there, and are not lost.
        ready = self._roster.answering() or self._roster.taking()
        if not ready:
            self._backlog.update((task.fence, task) for task in new)
            return
        ordinary = [task for task in new if not self._isolate(task, now)]
        for runner, part in share_out(ordinary, ready):
            self.give(runner, part, now)
        if len(ordinary) < len(new):
            self.solo.pump(now)

    def _isolate(self, task: HeldTask, now: float) -> bool:
        """Returns whether a task is isolated. If so, it is queued for a process of its own, or handed back when its
        environment is broken.
        """
        alone = task.grant.alone and self._isolates
        if alone or self._isolated:
            # Only here: to parse every task would cost the supervisor more than all else that it does with one.
            name = tasks.Task.FromString(task.grant.task).handler or self._default_handler
            alone = alone or name in self._isolated
            if alone:
                task.only, task.environment = self._needed.get(name, (None, ""))
                if self._roster.is_broken(task.environment) and not self.solo.has_idle(task):
                    self.solo.try_again(task, now)
                    self._give_back_broken([task], task.environment)
                else:
                    self.solo.put(task)
        return alone

    def _cancel(self, wanted: list[HeldTask], now: float) -> None:
        deadline = now + self._grace_max + 1.0
        by_runner: dict[Runner, list[int]] = {}
        for task in wanted:
            self._stops.wish(task)
            if task.runner is not None:
                by_runner.setdefault(task.runner, []).append(task.fence)
                # In case its runner is blocked and does not say how long the task's grace is.
                self._stops.expect(task, deadline)
            elif self._backlog.pop(task.fence, None) is not None or self.solo.take_back(task):
                self._report_all([endings.cancelled(task.fence, task.id, "the task was cancelled")])
        for runner, fences in by_runner.items():
            self._instruct(CancelTasks(runner.id, fences))

    # From and to runners

    def give(self, runner: Runner, part: list[HeldTask], now: float) -> None:
        """Hands tasks to a runner."""
        held = runner.tasks
        for task in part:
            task.runner = runner
            task.sent_at = now
            held[task.fence] = task
        self._instruct(StartTasks(runner.id, [task.grant for task in part]))

    def start_backlog(self, now: float) -> None:
        """Starts the tasks that have waited for a runner."""
        backlog, self._backlog = self._backlog, {}
        self._start(list(backlog.values()), now)

    def reported(
        self,
        runner: Runner,
        reports: list[session.Report],
        size: int,
        now: float,
        completions: Sequence[session.Completions] = (),
    ) -> None:
        """A runner has reported attempts.

        Args:
            runner: the one.
            reports: how the attempts ended.
            size: how many bytes all reports take together.
            now: the time.
            completions: more reports, by columns.
        """
        count = len(reports)
        for columns in completions:
            fences = list(columns.fences)
            count += len(fences)
            if unwanted := self._over(runner, fences):
                columns = without(columns, unwanted)
                fences = list(columns.fences)
            if fences:
                self._frame.keep_completions(columns, fences)
        if reports:
            if unwanted := self._over(runner, [report.fence for report in reports]):
                dropped = set(unwanted)
                reports = [report for place, report in enumerate(reports) if place not in dropped]
            for columns in completions:
                size -= columns.ByteSize()
            self._keep(reports, size)
        else:
            self._instruct(SPEAK)
        runner.finished += count
        self._frame.credit.finished(count, len(self.held), now)
        if runner.alone and any(report.outcome == tasks.ATTEMPT_OUTCOME_LOST for report in reports):
            # The process lives, but what ended this task would end the next one too.
            self.solo.stop(runner, now)
        if runner.alone and not runner.was_stopped and self._recycling.is_due(runner):
            self.solo.stop(runner, now)
        if self._isolated or runner.alone:
            self.solo.pump(now)

    def _over(self, runner: Runner, fences: list[int]) -> list[int]:
        """Ends reported tasks. Returns the places of those whose reports are dropped: released, or reported already."""
        held, pop, progress = self.held, runner.tasks.pop, self._frame.progress
        unwanted: list[int] = []
        for place, fence in enumerate(fences):
            task = pop(fence, None)
            if task is None or held.pop(fence, None) is None or task.released:
                unwanted.append(place)
            if task is not None and task.lender is not None:
                self.solo.finished(task)
            if progress:
                progress.pop(fence, None)
        if self._stops:
            for fence in fences:
                self._stops.over(fence)
        return unwanted

    def progressed(self, words: Iterable[session.ProgressReport]) -> None:
        """Takes the progress of attempts, and drops that of tasks that are not held or were released."""
        for word in words:
            task = self.held.get(word.fence)
            if task is None or task.released:
                continue
            if not word.is_checkpoint_alone:
                self._frame.progress[word.fence] = word
            elif not self._frame.checkpoints.keep(word):
                self._warn_of_checkpoints("there is no room for more in this worker")
            elif not self._frame.checkpoints.is_heeded:
                self._warn_of_checkpoints("its leader is too old to keep them, or calls this worker")
        self._instruct(SPEAK)

    def _warn_of_checkpoints(self, reason: str) -> None:
        if reason not in self._warned:
            self._warned.add(reason)
            event = "checkpoints are not kept, and the next attempts of their tasks begin without"
            self._instruct(Note(Level.WARNING, event, {"reason": reason}))

    def waits(self, runner: Runner, attempts: int, now: float) -> None:
        """A runner has told that `attempts` of its attempts wait for other tasks."""
        runner.waiting = attempts
        if runner.alone and attempts:
            self.solo.lend(runner)
        self.solo.pump(now)
        self._instruct(SPEAK)

    def returned(self, runner: Runner, fences: Iterable[int], now: float) -> None:
        """A runner gives back tasks that it has not started. Another runner starts them if it has free slots; otherwise
        they are handed back to the leader.
        """
        back = [task for fence in fences if (task := runner.tasks.pop(fence, None)) is not None]
        for task in back:
            self._stops.over(task.fence)
            task.runner = None
        if not back:
            return
        self._frame.credit.waited()
        again: list[HeldTask] = []
        if not self.is_draining:
            others = [other for other in self._roster.taking() if other is not runner]
            room = sum(max(0, other.usable_slots - len(other.tasks)) for other in others)
            again = [task for task in back if task.stop_kind is None][:room]
            for other, part in share_out(again, others) if again else ():
                self.give(other, part, now)
        kept = {task.fence for task in again}
        reports = []
        for task in back:
            if task.fence not in kept:
                reason = "the worker drains" if self.is_draining else "it waited behind long tasks and was handed back"
                if task.stop_kind is StopKind.CANCEL:
                    reports.append(endings.cancelled(task.fence, task.id, reason))
                else:
                    reports.append(endings.interrupted(task.fence, task.id, reason, not_started=True))
        self._report_all(reports)

    def lost(self, runner: Runner, begun: Collection[int], reason: str) -> None:
        """A runner has ended: reports the tasks that it held.

        Args:
            runner: the one that has ended.
            begun: the fences of the tasks that it had started.
            reason: how it ended, in words.
        """
        left = list(runner.tasks.values())
        runner.tasks.clear()
        for task in left:
            self._stops.over(task.fence)
        on_purpose = self._roster.is_closing or runner.ended_on_purpose
        reports = settle_dead(left, begun, reason, on_purpose=on_purpose, ran_one_by_one=runner.alone)
        for task, report in zip(left, reports, strict=True):
            if report.outcome == tasks.ATTEMPT_OUTCOME_LOST:
                self._instruct(NoteLoss(runner.id, task.grant, report))
            elif report.outcome == tasks.ATTEMPT_OUTCOME_TIMED_OUT:
                self._instruct(NoteTimedOut(task.grant, report))
        self._report_all(reports)

    # Back to the leader

    def drain(self, reason: str) -> None:
        """Takes nothing new, and hands back the tasks that no runner has."""
        self.is_draining = True
        backlog, self._backlog = self._backlog, {}
        self.give_back([*backlog.values(), *self.solo.take_back_all()], reason)

    def give_back_of(self, environment: str) -> None:
        """Reports the tasks that wait for a runner of a broken environment as interrupted."""
        self._give_back_broken(self.solo.take_back_of(environment), environment)

    def _give_back_broken(self, given: Iterable[HeldTask], environment: str) -> None:
        self.give_back(given, f"no runner of {environment} gets ready: {self._roster.last_death(environment)}")

    def give_back(self, given: Iterable[HeldTask], reason: str) -> None:
        """Reports tasks as interrupted. Those that no runner has have certainly not started."""
        self._report_all(
            [endings.interrupted(task.fence, task.id, reason, not_started=task.runner is None) for task in given]
        )

    def _report_all(self, reports: list[session.Report]) -> None:
        """Reports tasks whose reports the desk itself has made. They are held no more."""
        kept = []
        for report in reports:
            task = self.held.pop(report.fence, None)
            if task is not None and task.lender is not None:
                self.solo.finished(task)
            if task is not None and not task.released:
                kept.append(report)
            self._frame.progress.pop(report.fence, None)
        self._keep(kept, sum(report.ByteSize() for report in kept))

    def _keep(self, reports: list[session.Report], size: int) -> None:
        """Keeps reports, which take `size` bytes together, until the leader has acknowledged them."""
        if reports:
            self._frame.keep(reports, size)
        self._instruct(SPEAK)
