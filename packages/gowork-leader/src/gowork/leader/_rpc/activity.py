"""Activity of scheduler.v1.SchedulerService, which viewers ask once a second: what the queues hold, wait for and did.

All of it is in memory, except the failures, which have an index. So the number of finished tasks makes no difference.
"""

from __future__ import annotations

import heapq
from typing import Any

import grpc

from gowork.leader._core.explain import waiting_by_reason
from gowork.leader._core.model import Now, QueueSettings, WaitCode
from gowork.leader._core.queries import QueueDepth, members, queue_depths
from gowork.leader._core.state import State
from gowork.leader._engine.counts import OTHER, START_SECONDS, Counts, QueueCounts
from gowork.leader._engine.loop import Engine
from gowork.leader._rpc.boundary import refusing
from gowork.leader._rpc.mapping import fit, member_stats, queue_message, record_message
from gowork.leader._rpc.validation import Violations, check_failures_max
from gowork.leader.store.protocol import Store
from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.status import invalid

#: An answer that took longer than CHEAP_SECONDS to make is given again, for SHARED_TIMES as long as it took.
CHEAP_SECONDS = 0.005
SHARED_TIMES = 10
_Context = grpc.aio.ServicerContext[Any, Any]


class Overview:
    """Answers what goes on, and what failed last."""

    def __init__(self, engine: Engine, store: Store, counts: Counts, version: str) -> None:
        self._engine = engine
        self._store = store
        self._activity = ActivityView(engine, counts, version)

    async def Activity(self, request: pb.ActivityRequest, context: _Context) -> pb.ActivityResponse:
        async with refusing(context):
            violations: Violations = []
            check_failures_max(request.failures_max, violations)
            if violations:
                raise invalid(violations)
            response = await self._engine.read(self._activity.look)
            if request.failures_max:
                # The answer may be shared with other callers.
                shared, response = response, pb.ActivityResponse()
                response.CopyFrom(shared)
                records = await self._store.last_failed(request.failures_max, limits.PAGE_BYTES_MAX)
                messages = [record_message(record, pb.TASK_VIEW_BASIC) for record in records]
                fitting, _ = fit(messages, limits.PAGE_BYTES_MAX)
                response.failures.extend(fitting)
        return response


class ActivityView:
    """The cluster's activity as the state shows it, made again only as often as the leader can afford.

    It looks at every lane, for 3 µs each, on the engine's loop. With 20,000 lanes and a few viewers, a look a second
    for each viewer would take a good part of the leader's time.
    """

    def __init__(self, engine: Engine, counts: Counts, version: str) -> None:
        self._engine = engine
        self._counts = counts
        self._version = version
        self._answer = pb.ActivityResponse()
        #: Until when the answer is given again, in monotonic seconds.
        self._shared_until_mono = 0.0

    def look(self, state: State) -> pb.ActivityResponse:
        """Returns what goes on. Callers must not change the answer."""
        began = self._engine.now()
        if began.mono >= self._shared_until_mono:
            self._answer = self._worked_out(state, began)
            now_mono = self._engine.now().mono
            took = now_mono - began.mono
            self._shared_until_mono = now_mono + took * SHARED_TIMES if took > CHEAP_SECONDS else 0.0
        return self._answer

    def _worked_out(self, state: State, now: Now) -> pb.ActivityResponse:
        engine = self._engine
        failed, others = engine.finished_tasks
        response = pb.ActivityResponse(
            start_bounds=START_SECONDS,
            members=member_stats(members(state)),
            finished_tasks=failed + others,
            failed_tasks=failed,
            version=self._version,
            term=engine.opened.term,
            now_ms=now.wall_ms,
            uptime_ms=int((now.mono - engine.started_mono) * 1000),
        )
        _add_queues(response, state, self._counts, now)
        if OTHER in self._counts.queues:
            _fill_counts(response.other_counts, self._counts.queues[OTHER])
        return response


def _add_queues(response: pb.ActivityResponse, state: State, counts: Counts, now: Now) -> None:
    depths = {depth.name: depth for depth in queue_depths(state)}
    counts.drop_idle(depths)
    counted = {name: row for name, row in counts.queues.items() if name != OTHER}
    for name in counted.keys() - depths.keys():
        # The queue has no tasks left.
        depths[name] = QueueDepth(name, 0, 0, 0, 0)
    waiting: dict[str, list[tuple[WaitCode | None, int]]] = {}
    for (name, reason), tasks in waiting_by_reason(state, now).items():
        waiting.setdefault(name, []).append((_CODES.get(reason), tasks))
    response.queues_total = len(depths)
    answered = heapq.nlargest(limits.ACTIVITY_QUEUES_MAX, depths.values(), key=_unfinished)
    for depth in sorted(answered, key=lambda depth: depth.name):
        queue = state.queues.get(depth.name)
        message = response.queues.add(
            queue=queue_message(depth.name, queue.settings if queue is not None else QueueSettings(), queue),
            oldest_waiting_ms=max(1, now.wall_ms - depth.oldest_ms) if depth.oldest_ms else 0,
        )
        for code, tasks in waiting.get(depth.name, ()):
            message.waiting.add(code=0 if code is None else int(code), tasks=tasks)
        if depth.name in counted:
            _fill_counts(message.counts, counted[depth.name])


def _unfinished(depth: QueueDepth) -> int:
    return depth.waiting + depth.delayed + depth.running


def _fill_counts(message: pb.QueueCounts, row: QueueCounts) -> None:
    message.submitted = sum(tasks for (_, outcome), tasks in row.submitted.items() if outcome == "accepted")
    by_status = dict.fromkeys(("completed", "cancelled", "error"), 0)
    for (_, status), tasks in row.finished.items():
        by_status[status] += tasks
    message.completed, message.cancelled, message.failed = by_status.values()
    message.start_counts.extend(row.start_seconds.counts)


#: {a reason of `waiting_by_reason`: its code}. `next`, the reason of tasks that are about to be granted, has no code.
_CODES = {code.name.lower(): code for code in WaitCode}
