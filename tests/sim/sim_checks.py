"""The named checkers of what must hold in every history. A checker raises Violation at once when its rule is broken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from msgspec.structs import replace
from sim_check_links import LinkChecks
from sim_check_queues import QueueChecks
from sim_check_removals import RemovalChecks
from sim_check_ticks import TickChecks
from sim_check_work import WorkChecks
from sim_tasks import HANDLERS, task_for
from sim_trace import Trace
from sim_violation import Violation

from gowork.leader._core import effects as ef
from gowork.leader._core.kinds import MEMBERS, WORKER_DRAINS
from gowork.leader._core.model import BLOCKED_MS, FailureKind, Now, Outcome, RetryPolicy, Spec, Standing, Status
from gowork.leader._core.state import State
from gowork.leader._wire.specs import stored_spec
from gowork.leader.store.protocol import Batch
from gowork.proto.limits import ATTEMPTS_KEPT

#: Outcomes that use up an attempt.
COUNTED = (Outcome.COMPLETED, Outcome.FAILED, Outcome.TIMED_OUT)
_POLICIES = {handler.name: handler.retry or RetryPolicy() for handler in (*HANDLERS, *HANDLERS[:1])}
_POLICIES[""] = _POLICIES[HANDLERS[0].name]


class Checks:
    """Checks every commit, effect, answer and run."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        #: What the store has: {id: (spec, standing)}, {seq: id}, {id: seq}, and {callback worker: address}.
        self.durable: dict[str, tuple[Spec, Standing]] = {}
        self._ids: dict[int, str] = {}
        self._seqs: dict[str, int] = {}
        self._members: dict[str, str] = {}
        #: The instances of workers with sessions that are drained.
        self._draining: set[str] = set()
        self.queues = QueueChecks(trace)
        self.work = WorkChecks(trace, self.durable)
        self.removals = RemovalChecks(trace, self.durable)
        self.links = LinkChecks(trace, self.durable)
        self.ticks = TickChecks(trace)
        self._unfinished = 0
        #: {fence: id} of all grants that are or were durable.
        self._fence_ids: dict[int, str] = {}
        #: {callback worker: the number of tasks that it holds}
        self._dialled: Counter[str] = Counter()
        #: {id: the number of counted attempts that no longer count, because somebody asked to run the task again}
        self._forgiven: dict[str, int] = {}
        #: The ids of tasks whose submit was answered, without those that were removed since.
        self._acknowledged: dict[str, None] = {}
        #: {id: the fence of the latest grant that left the leader}, and the highest of these fences.
        self._granted: dict[str, int] = {}
        self._fence_max = 0
        #: {id of a follow-up: id of the task that scheduled it}, of the completions in the current batch.
        self._scheduled: dict[str, str] = {}

    # The disk.

    def committed(self, batch: Batch, decided: Sequence[Now], wall_ms_lately: int) -> None:
        """Checks a batch that the store has made durable.

        Args:
            batch: what was written.
            decided: the times that the leader read while the batch was made; the last is when it was decided.
            wall_ms_lately: the latest time that its wall clock has shown lately.
        """
        now = decided[-1]
        self._trace.note("disk", "batch with", len(batch.inserts), "new,", len(batch.moves), "moved")
        self._scheduled.clear()
        self.queues.configured(batch, now.mono)
        due_ms = max(read.wall_ms for read in decided)
        self.links.begin(batch)
        changed = {new.record.id for new in batch.inserts if new.record.standing.edit is not None}
        for deleted in batch.deletes:
            if deleted.id in changed:
                self._replaced(deleted.id, deleted.seq)
            else:
                self._removed(deleted.id, deleted.seq, wall_ms_lately)
        inserted: list[str] = []
        for new in batch.inserts:
            record = new.record
            if record.id in self.durable:
                raise Violation("idempotent submit", record.id, "was written twice")
            spec = stored_spec(record.body, record.standing.created_ms)
            self._ids[record.seq] = record.id
            self._seqs[record.id] = record.seq
            self._unfinished += 1
            inserted.append(record.id)
            if record.id not in changed:
                self.ticks.inserted(record.id)
            self._moved(record.id, record.seq, spec, None, record.standing, due_ms)
        for move in batch.moves:
            id = self._ids[move.seq]
            spec, before = self.durable[id]
            self._moved(id, move.seq, spec, before, move.standing, due_ms)
        for member, tasks in self._dialled.items():
            if tasks > 1:
                raise Violation("a callback worker has one task at a time", member, tasks)
        for id in inserted:
            if "+" in id and id not in self._scheduled and id not in changed:
                raise Violation("follow-ups come with their completion", id, "came without it")
        for id, parent in self._scheduled.items():
            is_held = bool(task_for(id).unique_key)
            if id not in self.durable and not is_held and not any(deleted.id == id for deleted in batch.deletes):
                raise Violation("follow-ups come with their completion", id, "is missing, and", parent, "completed")
        for kind, key in batch.facts_gone:
            if kind == MEMBERS.name:
                self._members.pop(key, None)
            elif kind == WORKER_DRAINS.name:
                self._draining.discard(key)
        for fact in batch.facts:
            if fact.kind == MEMBERS.name:
                self._members[fact.key] = MEMBERS.decode(fact.value).address
            elif fact.kind == WORKER_DRAINS.name:
                self._draining.add(fact.key)
        self.queues.decided(now)
        self.links.end()
        self.ticks.committed(batch, due_ms)
        self.removals.counted(self.queues.state)

    def _replaced(self, id: str, seq: int) -> None:
        """Takes a task away that has another record in the same batch."""
        spec, standing = self.durable.pop(id)
        self._unfinished -= 1
        self.queues.moved(seq, spec, standing, replace(standing, status=Status.CANCELLED))
        del self._ids[seq]

    def _removed(self, id: str, seq: int, wall_ms: int) -> None:
        spec, standing = self.durable.pop(id)
        self.removals.removed(id, standing, wall_ms)
        self.work.removed(id)
        self._trace.note("disk", id, "removed, was", standing.status.name)
        if standing.status < Status.COMPLETED:
            # The task has finished in the same batch.
            self._unfinished -= 1
            if standing.status is Status.RUNNING and not standing.instance:
                self._dialled[standing.worker] -= 1
            self.queues.moved(seq, spec, standing, replace(standing, status=Status.CANCELLED))
        self._acknowledged.pop(id, None)
        self._forgiven.pop(id, None)
        del self._ids[seq]

    def _moved(self, id: str, seq: int, spec: Spec, before: Standing | None, after: Standing, due_ms: int) -> None:
        self.durable[id] = (spec, after)
        status = after.status
        self._trace.note("disk", id, status.name, after.fence, "used", after.attempts_used, "by", after.instance)
        origin = "new" if before is None else before.status.name
        self._trace.seen[f"task: {origin} to {status.name}"] += 1
        self.removals.moved(id, before, after)
        self.links.moved(id, spec, before, after)
        if before is not None and before.status >= Status.COMPLETED:
            self._unfinished += 1
            self._forgiven[id] = _counted(before)
        self.queues.moved(seq, spec, before, after)
        if before is not None and before.status is Status.RUNNING and not before.instance:
            self._dialled[before.worker] -= 1
        if status >= Status.COMPLETED:
            self._unfinished -= 1
            self._finished(id, after)
        elif status is Status.RUNNING:
            self._runs(id, spec, before, after, due_ms)
        elif before is not None and not after.not_before_ms and _not_before_ms(spec, before) > due_ms:
            raise Violation("nothing is granted before its time", id, "came due at", due_ms)
        elif origin in ("ERROR", "CANCELLED") and not after.not_before_ms and spec.run_at_ms > due_ms:
            raise Violation("nothing is granted before its time", id, "may run, being retried at", due_ms)
        self._check_attempts(id, spec, before, after)

    def _runs(self, id: str, spec: Spec, before: Standing | None, after: Standing, due_ms: int) -> None:
        self._fence_ids[after.fence] = id
        if before is not None and after.fence < before.fence:
            raise Violation("fences only grow", id)
        is_new = before is None or before.status >= Status.COMPLETED
        not_before_ms = spec.run_at_ms if before is None or is_new else _not_before_ms(spec, before)
        if not_before_ms > due_ms:
            raise Violation("nothing is granted before its time", id, not_before_ms - due_ms, "ms too early")
        if not after.instance:
            self._dialled[after.worker] += 1

    def _finished(self, id: str, after: Standing) -> None:
        if after.failure is not None:
            self._trace.seen[f"failure: {after.failure.kind.name}"] += 1
        if after.status is Status.COMPLETED:
            report = self.work.completed(id, after)
            if report is not None and report.follow_ups:
                self._trace.seen["task: completes with follow-ups"] += 1
                self._scheduled.update({spec.id: id for spec in report.follow_ups})
        elif after.status is Status.ERROR and after.failure is None:
            raise Violation("a failed task says why", id)

    def _check_attempts(self, id: str, spec: Spec, before: Standing | None, after: Standing) -> None:
        attempts = after.attempts
        if attempts and attempts[-1].waits:
            # None of those before it count any more.
            self._forgiven[id] = _counted(after)
            if before is None:
                self._scheduled.update({task.id: id for task in self.work.waiting(id, after).follow_ups})
        if len(attempts) < ATTEMPTS_KEPT:
            if not after.attempts_used and id in self.removals.run_again:
                self._forgiven[id] = _counted(after)
            counted = _counted(after) - self._forgiven.get(id, 0)
            if counted != after.attempts_used:
                raise Violation(
                    "only blameworthy attempts count", f"{id}: {counted} did, {after.attempts_used} are used"
                )
        if not attempts or (before is not None and len(attempts) == len(before.attempts)):
            return
        last = attempts[-1]
        self._trace.seen[f"attempt: {last.ended_as.name}"] += 1
        if "did not reach" in last.reason:
            self.work.unreached(id, last.fence)
        if last.outcome in (Outcome.FAILED, Outcome.TIMED_OUT) and last.fence == after.fence:
            policy = spec.retry or _POLICIES[spec.lane.handler]
            dialled = not after.instance and spec.retry is None
            left = after.attempts_used < (1 if dialled else policy.max_attempts)
            final = after.failure is not None and after.failure.kind in (FailureKind.REJECTED, FailureKind.EXPIRED)
            if after.status is Status.PENDING and not left:
                raise Violation("no more attempts than allowed", id, after.attempts_used)
            if after.status is Status.ERROR and left and not final:
                raise Violation("no fewer attempts than allowed", id, after.attempts_used)

    # What leaves the leader.

    def answered(self, ids: Sequence[str]) -> None:
        """Checks the answer to a submit."""
        for id in ids:
            if id in self.durable:
                self._acknowledged[id] = None
            elif not self.removals.may_be_gone(id):
                raise Violation("no reply ahead of its commit", id, "was acknowledged")

    def cancel_answered(self, id: str) -> None:
        """Checks the answer to a cancel."""
        entry = self.durable.get(id)
        if id in self.removals.run_again or (entry is None and self.removals.may_be_gone(id)):
            return
        if entry is None or entry[1].status is Status.PENDING:
            raise Violation("no reply ahead of its commit", id, "was said to be cancelled")
        if entry[1].status is Status.RUNNING and not entry[1].cancel_requested:
            raise Violation("no reply ahead of its commit", id, "was said to be asked to stop")

    def granted(self, effect: ef.GrantTasks, room: int) -> None:
        """Checks grants that leave the leader; `room` is the credit that the worker has left."""
        if len(effect.grants) > room:
            raise Violation("credit is never exceeded", len(effect.grants), "grants for a credit of", room)
        for grant in effect.grants:
            id = grant.spec.id
            self._let_out(id, grant.fence)
            instance = self.durable[id][1].instance
            if not instance:
                raise Violation("one live grant for each fence", id, "is held by a callback worker")
            if instance in self._draining:
                raise Violation("a drained worker is granted nothing", id, "was granted to", instance)

    def dialled(self, effect: ef.StartWork | ef.StopWork) -> None:
        """Checks a call to a callback worker."""
        if isinstance(effect, ef.StartWork) and effect.delay:
            # The worker did not take the task, and is dialled again under the same fence.
            self._trace.seen["effect: StartWork, again"] += 1
            if self._granted.get(effect.spec.id) != effect.fence:
                raise Violation("one live grant for each fence", effect.spec.id, "is dialled again under", effect.fence)
        elif isinstance(effect, ef.StartWork):
            self._let_out(effect.spec.id, effect.fence)
        elif not self._is_limited(effect.fence):
            self.told(ef.CancelTasks(0, [effect.fence]))

    def _is_limited(self, fence: int) -> bool:
        """Whether the task under this fence has a time limit and was not cancelled, so that StopWork may enforce it."""
        standing, id = self._runs_under(fence), self._fence_ids.get(fence, "")
        if standing is None or standing.cancel_requested or not self.durable[id][0].time_limit_ms:
            return False
        self._trace.seen["effect: StopWork, past the time limit"] += 1
        return True

    def _let_out(self, id: str, fence: int) -> None:
        entry = self.durable.get(id)
        if entry is None or entry[1].status is not Status.RUNNING or entry[1].fence != fence:
            raise Violation("no reply ahead of its commit", id, "was granted under", fence)
        if fence <= self._fence_max and fence in self._granted.values():
            raise Violation("one live grant for each fence", fence)
        if fence <= self._granted.get(id, 0):
            raise Violation("fences only grow", id)
        self._granted[id] = fence
        self._fence_max = max(self._fence_max, fence)

    def told(self, effect: ef.Effect) -> None:
        """Checks any other effect that leaves for a worker."""
        match effect:
            case ef.Acknowledge():
                refused = set(effect.refused)
                for fence in effect.fences:
                    if fence in refused:
                        self._trace.seen["report: refused"] += 1
                    elif self._runs_under(fence) is not None:
                        raise Violation("no reply ahead of its commit", "the report under", fence, "was acknowledged")
            case ef.CancelTasks():
                for fence in effect.fences:
                    standing = self._runs_under(fence)
                    if standing is not None and not standing.cancel_requested:
                        raise Violation("no reply ahead of its commit", "what runs under", fence, "was to stop")
            case _:
                self._trace.seen[f"effect: {type(effect).__name__}"] += 1

    def _runs_under(self, fence: int) -> Standing | None:
        id = self._fence_ids.get(fence)
        entry = self.durable.get(id) if id is not None else None
        standing = None if entry is None else entry[1]
        return standing if standing and standing.status is Status.RUNNING and standing.fence == fence else None

    def recovered(self, state: State, members: Mapping[str, str], mono: float) -> None:
        """Checks that a leader that has started knows what the store knows, and nothing else."""
        expected = {id: standing for id, (_, standing) in self.durable.items() if standing.status is Status.RUNNING}
        found = {id: task.standing for id, task in state.tasks.items()}
        if found != expected:
            differing = [id for id in {**expected, **found} if expected.get(id) != found.get(id)]
            raise Violation("recovery gives back the state", *differing[:5])
        if members != self._members or list(state.callbacks) != list(members):
            raise Violation("recovery gives back the state", members, "are members, not", self._members)
        draining = {worker.instance for worker in state.workers.values() if worker.drain_ms is not None}
        if draining != self._draining:
            raise Violation("recovery gives back the state", draining, "drain, not", self._draining)
        self.queues.recovered(state, mono)
        self.removals.counted(state)

    # The end.

    def all_ended(self) -> bool:
        """Whether every task has ended."""
        return not self._unfinished

    def ended(self) -> None:
        """Checks, some time after the last fault, that every acknowledged task is there and every task has ended."""
        for id in self._acknowledged:
            if id not in self.durable:
                raise Violation("acknowledged tasks are never lost", id)
        for id, (_, standing) in self.durable.items():
            if standing.status < Status.COMPLETED:
                raise Violation("every task ends", id, "is", standing.status.name)


def _not_before_ms(spec: Spec, standing: Standing) -> int:
    """When a pending task may start; its own time, if it waits for others."""
    return spec.run_at_ms if standing.not_before_ms == BLOCKED_MS else standing.not_before_ms


def _counted(standing: Standing) -> int:
    return sum(attempt.outcome in COUNTED for attempt in standing.attempts)


__all__ = ["Checks", "Violation"]
