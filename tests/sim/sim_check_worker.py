"""Checks one process of a worker: what it holds, starts and reports, frame by frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim_tasks import VERSIONS, versions_for
from sim_violation import Violation

from gowork.leader._core.model import Outcome
from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._runner.completion import AttemptReport

if TYPE_CHECKING:
    from sim_world import World

#: The reconnect grace, and how long a supervisor may take to tell its runners, in seconds.
GRACE_SECONDS = 1.0
_TELL_SECONDS = 0.05
#: Outcomes that an attempt may have which never started.
_UNSTARTED = {tasks.ATTEMPT_OUTCOME_INTERRUPTED, tasks.ATTEMPT_OUTCOME_CANCELLED, tasks.ATTEMPT_OUTCOME_FAILED}
#: Outcomes that only a handler can have.
_OF_HANDLERS = {tasks.ATTEMPT_OUTCOME_COMPLETED, tasks.ATTEMPT_OUTCOME_SNOOZED}


class WorkerChecks:
    """Knows what a worker was granted, and what its runners really did."""

    def __init__(self, world: World, instance: str, slots: int, version: str, *, lends: bool) -> None:
        self._world, self._trace, self._instance = world, world.trace, instance
        self._slots, self._version, self._lends = slots, version, lends
        #: {fence: id} of all grants, and of those that are neither acknowledged nor released; the released fences.
        self._granted: dict[int, str] = {}
        self._owed: dict[int, str] = {}
        self._released: dict[int, None] = {}
        #: {fence: id} of the tasks that run now, {fence: outcome} of those that have ended, and all that were started.
        self._running: dict[int, str] = {}
        self._came_to: dict[int, int] = {}
        self._started: dict[int, None] = {}
        #: The fences of tasks that ran when their runner died.
        self._died: dict[int, None] = {}
        #: {fence: when it was cancelled or released, in the world's seconds}
        self._cancelled: dict[int, float] = {}
        #: {fence: the bytes of its first report}
        self._reported: dict[int, bytes] = {}
        #: When the stream was lost, in the world's seconds; None while there is one.
        self._lost_at: float | None = 0.0

    def has_known(self, fence: int) -> bool:
        """Whether this process was ever granted the fence."""
        return fence in self._granted

    # Its runners.

    def started(self, fence: int, id: str, runner: str, *, is_behind: bool) -> None:
        """Checks the start of a task; `is_behind` says that its runner has heard nothing for a while."""
        world = self._world
        self._trace.note("worker", self._instance, "starts", id, fence, "in", runner)
        if fence in self._started:
            raise Violation("one start for each fence", id, fence)
        if fence not in self._granted:
            raise Violation("nothing is started that was not granted", id, fence)
        self._started[fence] = None
        self._running[fence] = id
        if self._lost_at is not None and not is_behind and world.stood_still_at < self._lost_at:
            away = world.loop.now - self._lost_at
            if away > GRACE_SECONDS / 0.9 + _TELL_SECONDS:
                raise Violation("nothing is started while cut off", id, "after", round(away, 3), "s")
        if not is_behind and world.loop.now - self._cancelled.get(fence, world.loop.now) > _TELL_SECONDS:
            raise Violation("what was cancelled does not start", id, fence)
        if len(self._running) > self._slots and not self._lends:
            raise Violation("no more run than there are slots", self._instance, len(self._running))
        world.checks.work.started(fence, id)

    def finished(self, fence: int, report: AttemptReport) -> None:
        """Notes that a runner has ended a task and will report it."""
        del self._running[fence]
        self._came_to[fence] = report.outcome
        self._world.checks.work.stopped(fence, kept=fence not in self._released)

    def runner_died(self, fence: int) -> None:
        """Notes that a runner has died while it ran this task."""
        self._running.pop(fence, None)
        self._died[fence] = None
        self._world.checks.work.stopped(fence, kept=False)

    # What it hears and says.

    def reads(self, response: session.ConnectResponse) -> None:
        """Takes a frame of the leader."""
        if response.HasField("welcome"):
            self._lost_at = None
        for grant in response.grants:
            self._world.checks.work.received(grant.fence, grant.id, self._instance)
            self._granted[grant.fence] = self._owed[grant.fence] = grant.id
            within = versions_for(tasks.Task.FromString(grant.task))
            self._trace.seen["worker: is granted what asks for its version"] += len(within) < len(VERSIONS)
            if self._version not in within:
                raise Violation("a task runs only within its range", grant.id, "on", self._instance, self._version)
        for fence in response.cancelled:
            self._cancelled.setdefault(fence, self._world.loop.now)
        for fence in response.acknowledged:
            self._owed.pop(fence, None)
        for fence in response.released:
            self._cancelled.setdefault(fence, self._world.loop.now)
            if fence not in self._reported:
                self._released[fence] = None
                self._trace.seen["worker: what it holds is released"] += fence in self._granted
                self._trace.seen["worker: what it runs is released"] += fence in self._running
            self._owed.pop(fence, None)

    def greets(self, hello: session.Hello) -> None:
        """Checks that a Hello lists all that the process holds."""
        held = {held.fence: held.id for held in hello.held}
        if held != self._owed:
            differing = [fence for fence in {**held, **self._owed} if held.get(fence) != self._owed.get(fence)]
            raise Violation("a hello lists all that is held", self._instance, differing[:5])

    def reports(self, report: session.Report) -> None:
        """Checks a report, which may be sent again."""
        fence, outcome = report.fence, report.outcome
        data = report.SerializeToString()
        if self._reported.setdefault(fence, data) != data:
            raise Violation("nothing of a fence is reported twice", report.id, fence)
        if fence in self._released:
            raise Violation("a released fence is never reported", report.id, fence)
        if fence not in self._owed:
            raise Violation("nothing is reported that is not owed", report.id, fence)
        name = Outcome(outcome).name
        if fence in self._running:
            raise Violation("nothing is reported while it runs", report.id, fence, name)
        came_to = self._came_to.get(fence)
        if came_to is None:
            allowed = outcome not in _OF_HANDLERS if fence in self._died else outcome in _UNSTARTED
        else:
            # Its runner may have died before it sent the report.
            allowed = outcome == came_to or outcome not in _OF_HANDLERS
        if not allowed:
            raise Violation("a report says what the attempt came to", report.id, fence, name)
        self._world.checks.work.reported(self._instance, report)

    def lost_stream(self) -> None:
        """Notes that the process sees the end of its stream."""
        if self._lost_at is None:
            self._lost_at = self._world.loop.now

    def ended(self) -> None:
        """Notes that the process is gone with all that it held."""
        self._world.checks.work.died(list(self._granted))
