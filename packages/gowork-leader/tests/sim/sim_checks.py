"""The named checkers: what must hold in every history. Each raises Violation at the moment at which it is broken."""

from __future__ import annotations

from collections.abc import Callable

from gowork.leader.core.effects import GrantTasks
from gowork.leader.core.model import LaneKey, Outcome, Spec, Standing, Status
from gowork.leader.core.state import State
from gowork.leader.store.codec import spec_of
from gowork.leader.store.protocol import Batch
from gowork.proto.scheduler.v1 import scheduler_pb2

#: Outcomes that use up an attempt.
COUNTED = (Outcome.COMPLETED, Outcome.FAILED, Outcome.TIMED_OUT)
ATTEMPTS_KEPT = 20


class Violation(AssertionError):
    """A checker's finding: its name and what it saw."""

    def __init__(self, checker: str, what: str) -> None:
        super().__init__(f"{checker}: {what}")
        self.checker = checker


class Checks:
    """Looks at every commit, effect, answer and execution."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        #: What the store has: {id: (spec, standing)}, and {seq: id}.
        self.durable: dict[str, tuple[Spec, Standing]] = {}
        self._ids: dict[int, str] = {}
        self._seqs: dict[str, int] = {}
        #: Submits that were answered.
        self.acknowledged: dict[str, None] = {}
        #: {id: fence of its latest grant that was let out}
        self._granted: dict[str, int] = {}
        self._fence_max = 0
        self._completed: dict[str, int] = {}
        #: {fence: a worker got this grant}
        self._received: dict[int, str] = {}
        #: {fence: id} of what runs now.
        self._running: dict[int, str] = {}
        #: Fences whose reports workers have sent, with the outcome.
        self._reported: dict[int, Outcome] = {}
        #: Fences that a worker has run to an end and not told yet.
        self._ended: dict[int, str] = {}

    # The disk.

    def committed(self, batch: Batch) -> None:
        """The store has made this batch durable."""
        for new in batch.inserts:
            record = new.record
            if record.id in self.durable:
                raise Violation("idempotent submit", f"{record.id} was written twice")
            spec = spec_of(scheduler_pb2.Task.FromString(record.body), record.body)
            self._ids[record.seq] = record.id
            self._seqs[record.id] = record.seq
            self.durable[record.id] = (spec, record.standing)
            self._moved(record.id, spec, None, record.standing)
        for move in batch.moves:
            id = self._ids[move.seq]
            spec, before = self.durable[id]
            self.durable[id] = (spec, move.standing)
            self._moved(id, spec, before, move.standing)

    def _moved(self, id: str, spec: Spec, before: Standing | None, after: Standing) -> None:
        self._note(f"disk    {id} {after.status.name} fence={after.fence & 0xFFFF} used={after.attempts_used}")
        if before is not None and before.status >= Status.COMPLETED:
            raise Violation("finished stays finished", f"{id} went from {before.status.name} to {after.status.name}")
        if after.status is Status.COMPLETED:
            self._completed[id] = self._completed.get(id, 0) + 1
            if self._completed[id] > 1:
                raise Violation("one accepted completion", id)
            if self._granted.get(id) != after.fence or self._reported.get(after.fence) is not Outcome.COMPLETED:
                raise Violation("no stale report is accepted", f"{id} completed under fence {after.fence}")
        if after.status is Status.RUNNING and before is not None and after.fence < before.fence:
            raise Violation("fences only grow", id)
        if len(after.attempts) < ATTEMPTS_KEPT:
            counted = sum(attempt.outcome in COUNTED for attempt in after.attempts)
            if counted != after.attempts_used:
                raise Violation(
                    "only blameworthy attempts count", f"{id}: {counted} did, {after.attempts_used} are used"
                )
        if after.attempts and (before is None or len(after.attempts) > len(before.attempts)):
            last = after.attempts[-1]
            if "did not reach" in last.reason and last.fence in self._ended:
                raise Violation("no report is dropped", f"{id} had ended under fence {last.fence}, and was run again")

    # What leaves the leader.

    def answered(self, ids: list[str]) -> None:
        """A submit was answered."""
        for id in ids:
            if id not in self.durable:
                raise Violation("no reply ahead of its commit", f"{id} was acknowledged")
            self.acknowledged[id] = None

    def granted(self, effect: GrantTasks, state: State, room: int) -> None:
        """Grants were let out; `room` is what the worker had asked for beyond what it had."""
        if len(effect.grants) > room:
            raise Violation("credit is never exceeded", f"{len(effect.grants)} grants for a credit of {room}")
        for fence, _, _, spec in effect.grants:
            entry = self.durable.get(spec.id)
            if entry is None or entry[1].status is not Status.RUNNING or entry[1].fence != fence:
                raise Violation("no reply ahead of its commit", f"{spec.id} was granted under {fence}")
            if fence <= self._fence_max and fence in self._granted.values():
                raise Violation("one live grant for each fence", str(fence))
            if fence <= self._granted.get(spec.id, 0):
                raise Violation("fences only grow", spec.id)
            self._granted[spec.id] = fence
        self._fence_max = max([self._fence_max, *(grant[0] for grant in effect.grants)])
        for lane in dict.fromkeys(spec.lane for _, _, _, spec in effect.grants):
            # Whatever memory holds of the lane: what rests in the store counts too.
            waiting = [
                self._seqs[id]
                for id, (spec, standing) in self.durable.items()
                if spec.lane == lane and standing.status is Status.PENDING and not standing.not_before_ms
            ]
            given = [self._seqs[spec.id] for _, _, _, spec in effect.grants if spec.lane == lane]
            if waiting and given and min(waiting) < max(given):
                raise Violation("first come, first served", f"{min(waiting)} waits and {max(given)} was granted")

    def recovered(self, state: State) -> None:
        """A leader has started: it must know what the store knows, and nothing else."""
        expected: dict[str, Standing] = {}
        lanes: dict[LaneKey, int] = {}
        delayed = 0
        for id, (spec, standing) in self.durable.items():
            if standing.status is Status.RUNNING:
                expected[id] = standing
            elif standing.status is Status.PENDING and standing.not_before_ms:
                delayed += 1
            elif standing.status is Status.PENDING:
                lanes[spec.lane] = lanes.get(spec.lane, 0) + 1
        found = {id: task.standing for id, task in state.tasks.items()}
        if found != expected:
            differing = [id for id in {**expected, **found} if expected.get(id) != found.get(id)]
            raise Violation("recovery gives back the state", ", ".join(differing[:5]))
        counted = {lane.key: len(lane) for lane in state.queues.every_lane()}
        if (counted, state.queues.delayed) != (lanes, delayed):
            raise Violation("recovery gives back the state", f"{counted} wait, and {state.queues.delayed} are delayed")

    # What workers do.

    def received(self, fence: int, id: str, worker: str) -> None:
        self._received[fence] = worker
        self._note(f"grant   {id} fence={fence & 0xFFFF} at {worker}")

    def started(self, fence: int, id: str) -> None:
        for other, running in self._running.items():
            if running == id:
                attempts = self.durable[id][1].attempts
                # A worker that is cut off may also be the one that starts later, from its buffer.
                if not any(attempt.fence in (other, fence) and attempt.outcome is Outcome.LOST for attempt in attempts):
                    raise Violation("no task runs twice at once", f"{id} runs under {other} and {fence}")
        self._running[fence] = id

    def stopped(self, fence: int, *, kept: bool) -> None:
        """An execution is over; `kept` when its worker has a report of it to tell."""
        id = self._running.pop(fence, None)
        if id is not None and kept:
            self._ended[fence] = id

    def reported(self, fence: int, outcome: Outcome) -> None:
        self._reported[fence] = outcome

    def died(self, fences: list[int]) -> None:
        """A worker is gone with all that it held."""
        for fence in fences:
            self._running.pop(fence, None)
            self._ended.pop(fence, None)

    # The end.

    def ended(self) -> None:
        """Faults have stopped and time has passed: every acknowledged task is there, and has ended."""
        for id in self.acknowledged:
            if id not in self.durable:
                raise Violation("acknowledged tasks are never lost", id)
            if self.durable[id][1].status < Status.COMPLETED:
                raise Violation("every task ends", f"{id} is {self.durable[id][1].status.name}")
