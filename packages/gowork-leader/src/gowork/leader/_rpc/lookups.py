"""Calls of scheduler.v1.SchedulerService that only ask: for tasks, lists of tasks, and counts of the cluster."""

from __future__ import annotations

import grpc

from gowork.leader._core.model import FINISHED, Progress, Spec, Standing, Status
from gowork.leader._core.queries import members
from gowork.leader._core.state import State
from gowork.leader._engine.loop import Engine
from gowork.leader._rpc.boundary import refusing, unknown_tasks
from gowork.leader._rpc.explaining import Explaining
from gowork.leader._rpc.filters import parse_filter
from gowork.leader._rpc.known_fields import known_fields
from gowork.leader._rpc.mapping import fit, member_stats, record_message, task_message
from gowork.leader._rpc.tokens import make_token, read_token
from gowork.leader._rpc.validation import Violations, check_page_size, check_view, require_id
from gowork.leader.store.codec import restore
from gowork.leader.store.protocol import Query, Store
from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.status import invalid

_KNOWN_FIELDS = known_fields()
_Context = grpc.aio.ServicerContext[object, object]


class Lookups:
    """Answers look-ups from the state and the store."""

    def __init__(self, engine: Engine, store: Store, explaining: Explaining, version: str, name: str) -> None:
        """`explaining` says why a pending task waits. `name` is that of this leader."""
        self._engine = engine
        self._store = store
        self._explaining = explaining
        self._version = version
        self._name = name

    async def GetTask(self, request: pb.GetTaskRequest, context: _Context) -> pb.GetTaskResponse:
        async with refusing(context):
            require_id(request.id)

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
                _, explanation = await self._explaining.explained(request.id)
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
                # One more than the answer may have, to see whether there are more.
                limit = limits.PAGE_ITEMS_MAX - len(fitting) + 1
                query = Query(statuses, newest_first=statuses is FINISHED)
                listed = {task.id for task in fitting}
                # A task may end between the two readings; it stays as the first one found it.
                records = [
                    record for record in await self._store.page(query, None, limit, left) if record.id not in listed
                ]
                messages = [record_message(record, pb.TASK_VIEW_FULL) for record in records]
                more, complete = fit(messages[: limit - 1], left)
                # The store may have ended the page at its bytes, so ask whether there is a task after it.
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
            # Each page has at least one task, because no task is larger than a page may be.
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
        return pb.GetLeaderResponse(version=self._version, request_fields=_KNOWN_FIELDS, name=self._name)


def _barrier(state: State) -> None:
    """A question whose answer comes when all that was asked before is durable. It asks nothing else."""
