"""scheduler.v1.SchedulerService over the engine."""

from __future__ import annotations

import grpc

from gowork.leader._core import commands as cmd
from gowork.leader._core.model import FINISHED, Progress, Spec, Standing, Status
from gowork.leader._core.queries import members
from gowork.leader._core.state import State
from gowork.leader._engine.counts import Counts
from gowork.leader._engine.loop import Engine
from gowork.leader._rpc.activity import ActivityMethods, ActivityView
from gowork.leader._rpc.admission import Admission
from gowork.leader._rpc.backups import Backups
from gowork.leader._rpc.boundary import refusal_from, refusing, unknown_tasks
from gowork.leader._rpc.filters import parse_filter
from gowork.leader._rpc.following import FollowingMethods
from gowork.leader._rpc.keeping import KeepingMethods
from gowork.leader._rpc.known_fields import known_fields
from gowork.leader._rpc.mapping import (
    completion_from,
    fit,
    member_stats,
    progress_from,
    record_message,
    spec_from,
    task_message,
    trace_from,
)
from gowork.leader._rpc.queues import QueueMethods
from gowork.leader._rpc.tokens import make_token, read_token
from gowork.leader._rpc.validation import (
    Violations,
    check_completion,
    check_fraction,
    check_id,
    check_page_size,
    check_task,
    check_trace,
    check_view,
)
from gowork.leader.store.codec import restore
from gowork.leader.store.protocol import Query, Store
from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.scheduler.v1 import scheduler_pb2_grpc
from gowork.proto.status import FieldViolation, Refusal, invalid

#: Most violations that are gathered before a batch is given up.
_VIOLATIONS_MAX = 20
_KNOWN_FIELDS = known_fields()
_Context = grpc.aio.ServicerContext[object, object]


class SchedulerService(
    FollowingMethods, QueueMethods, KeepingMethods, ActivityMethods, scheduler_pb2_grpc.SchedulerServiceServicer
):
    """The client's side of the leader."""

    def __init__(self, engine: Engine, store: Store, backups: Backups, counts: Counts, version: str) -> None:
        self._engine = engine
        self._store = store
        self._backups = backups
        self._activity = ActivityView(engine, counts, version)
        self._version = version
        self._admission = Admission()

    async def ScheduleTask(self, request: pb.ScheduleTaskRequest, context: _Context) -> pb.ScheduleTaskResponse:
        async with refusing(context):
            if not request.HasField("task"):
                raise invalid([FieldViolation("task", "is missing")])
            violations: Violations = []
            check_task(request.task, "task.", violations)
            if violations:
                raise invalid(violations)
            with self._admission.taking(request.ByteSize()):
                await self._ask(cmd.Submit((spec_from(request.task),)), {"tasks[0].": "task."})
        return pb.ScheduleTaskResponse()

    async def ScheduleTasks(self, request: pb.ScheduleTasksRequest, context: _Context) -> pb.ScheduleTasksResponse:
        async with refusing(context):
            with self._admission.taking(_check_batch(request)):
                trace = trace_from(request)
                answer = await self._ask(cmd.Submit([spec_from(task, trace) for task in request.tasks]))
        return pb.ScheduleTasksResponse(created=answer.created, existing=answer.existing)

    async def CancelTask(self, request: pb.CancelTaskRequest, context: _Context) -> pb.CancelTaskResponse:
        async with refusing(context):
            _require_id(request.id)
            await self._ask(cmd.Cancel(request.id))
        return pb.CancelTaskResponse()

    async def TaskComplete(self, request: pb.TaskCompleteRequest, context: _Context) -> pb.TaskCompleteResponse:
        async with refusing(context):
            violations: Violations = []
            check_completion(request, violations)
            if violations:
                raise invalid(violations)
            await self._ask(completion_from(request))
        return pb.TaskCompleteResponse()

    async def TaskProgress(self, request: pb.TaskProgressRequest, context: _Context) -> pb.TaskProgressResponse:
        async with refusing(context):
            violations: Violations = []
            check_id(request.id, "id", violations)
            check_fraction(request.fraction, violations)
            if violations:
                raise invalid(violations)
            await self._ask(progress_from(request))
        return pb.TaskProgressResponse()

    async def GetTask(self, request: pb.GetTaskRequest, context: _Context) -> pb.GetTaskResponse:
        async with refusing(context):
            _require_id(request.id)

            def look(state: State) -> tuple[Spec, Standing, Progress | None] | None:
                task = state.tasks.get(request.id)
                return None if task is None else (task.spec, task.standing, task.progress)

            found = await self._engine.read(look)
            if found is None:
                records = await self._store.load([request.id])
                if not records:
                    raise unknown_tasks([request.id])
                task = restore(records[0])
                found = task.spec, task.standing, None
            spec, standing, progress = found
            message = task_message(spec, standing, pb.TASK_VIEW_FULL, progress)
            if standing.status is Status.PENDING:
                _, explanation = await self._explained(request.id)
                message.waiting_reason = explanation.reasons[0].message if explanation.reasons else ""
        return pb.GetTaskResponse(task=message)

    async def GetTasks(self, request: pb.GetTasksRequest, context: _Context) -> pb.GetTasksResponse:
        async with refusing(context):
            await self._engine.read(_barrier)
            fitting: list[pb.Task] = []
            complete, left = True, limits.PAGE_BYTES_MAX
            for statuses in (frozenset(Status) - FINISHED, FINISHED):
                if not complete:
                    break
                # One more than may be answered tells whether there is more.
                limit = limits.PAGE_ITEMS_MAX - len(fitting) + 1
                query = Query(statuses, newest_first=statuses is FINISHED)
                records = await self._store.page(query, None, limit, left)
                messages = [record_message(record, pb.TASK_VIEW_FULL) for record in records]
                more, complete = fit(messages[: limit - 1], left)
                # A page that the store ended at its bytes may not be the last one.
                if complete and records:
                    complete = not await self._store.page(query, records[len(more) - 1].seq, 1, left)
                fitting += more
                left -= sum(message.ByteSize() + 5 for message in more)
            if not complete:
                context.set_trailing_metadata((("gowork-truncated", "true"),))
        return pb.GetTasksResponse(tasks=fitting)

    async def ListTasks(self, request: pb.ListTasksRequest, context: _Context) -> pb.ListTasksResponse:
        async with refusing(context):
            violations: Violations = []
            check_page_size(request.page_size, violations)
            check_view(request.view, violations)
            if violations:
                raise invalid(violations)
            query = parse_filter(request.filter, newest_first=request.newest_first)
            scope = (self._engine.opened.identity, "tasks", request.filter, str(request.newest_first))
            after = read_token(request.page_token, "page_token", *scope) if request.page_token else None
            await self._engine.read(_barrier)
            limit = request.page_size or limits.PAGE_ITEMS_DEFAULT
            records = await self._store.page(query, after, limit, limits.PAGE_BYTES_MAX)
            messages = [record_message(record, request.view) for record in records]
            fitting, _ = fit(messages, limits.PAGE_BYTES_MAX)
            # A task is never larger than a page may be, so that each page has at least one.
            fitting = fitting or messages[:1]
            last = records[len(fitting) - 1].seq if fitting else 0
            more = bool(fitting) and bool(await self._store.page(query, last, 1, 1))
        return pb.ListTasksResponse(tasks=fitting, next_page_token=make_token(last, *scope) if more else "")

    async def Stats(self, request: pb.StatsRequest, context: _Context) -> pb.StatsResponse:
        async with refusing(context):
            views = await self._engine.read(members)
            counts = await self._store.counts()
            response = pb.StatsResponse(
                version=self._version, term=self._engine.opened.term, started_at_ms=self._engine.started_ms
            )
            for (queue, handler, status), tasks in sorted(counts.items()):
                response.queues.add(queue=queue, handler=handler, status=int(status), tasks=tasks)
            response.members.extend(member_stats(views))
        return response

    async def GetLeader(self, request: pb.GetLeaderRequest, context: _Context) -> pb.GetLeaderResponse:
        return pb.GetLeaderResponse(version=self._version, request_fields=_KNOWN_FIELDS)

    async def _ask(self, command: cmd.Command, rename: dict[str, str] | None = None) -> cmd.Submitted:
        answer = await self._engine.ask(command)
        if isinstance(answer, cmd.Refused):
            refusal = refusal_from(answer)
            for inner, outer in (rename or {}).items():
                violations = [FieldViolation(v.field.replace(inner, outer), v.description) for v in refusal.violations]
                refusal = Refusal(
                    refusal.code, refusal.reason, refusal.message.replace(inner, outer), violations, refusal.metadata
                )
            raise refusal
        submitted: cmd.Submitted = answer
        return submitted


def _barrier(state: State) -> None:
    """Asks nothing: the answer comes when everything before is durable."""


def _check_batch(request: pb.ScheduleTasksRequest) -> int:
    """Answers how many bytes it has."""
    tasks, size = request.tasks, request.ByteSize()
    if not tasks:
        raise invalid([FieldViolation("tasks", f"is empty; 1 to {limits.BATCH_TASKS_MAX} are needed")])
    if len(tasks) > limits.BATCH_TASKS_MAX:
        raise invalid(
            [FieldViolation("tasks", f"has {len(tasks)} tasks; the limit is {limits.BATCH_TASKS_MAX} in one call")]
        )
    if size > limits.BATCH_BYTES_MAX:
        raise invalid([FieldViolation("tasks", f"has {size} bytes; the limit is {limits.BATCH_BYTES_MAX} in one call")])
    violations: Violations = []
    if request.traceparent or request.tracestate:
        check_trace(request.traceparent, request.tracestate, "", violations)
    for place, task in enumerate(tasks):
        before = len(violations)
        # The path is made only where there is something to say: most batches have no fault.
        check_task(task, "", violations)
        if len(violations) > before:
            violations[before:] = [
                FieldViolation(f"tasks[{place}].{violation.field}", violation.description)
                for violation in violations[before:]
            ]
            if len(violations) >= _VIOLATIONS_MAX:
                break
    if violations:
        raise invalid(violations)
    return size


def _require_id(id: str) -> None:
    violations: Violations = []
    check_id(id, "id", violations)
    if violations:
        raise invalid(violations)
