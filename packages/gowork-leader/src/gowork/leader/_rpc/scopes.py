"""Holds callers who are bound to queues and handlers to their tasks.

Every other caller's call passes untouched. Calls that concern all queues and handlers never get here: `Access` denies
them. Sessions check their workers' handlers themselves, in their first frame.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc

from gowork.leader._access.rights import CALLER, Identity
from gowork.leader._core.groups import parent_of
from gowork.leader._core.kinds import SCHEDULES, UNIQUE_KEYS
from gowork.leader._core.model import LaneKey
from gowork.leader._core.state import State
from gowork.leader._engine.loop import Engine
from gowork.leader._rpc.boundary import refusing
from gowork.leader._rpc.filters import parse_filter
from gowork.leader._rpc.services import SERVICES, Method
from gowork.leader._wire.specs import DEFAULT_QUEUE
from gowork.leader.store.codec import restore
from gowork.leader.store.protocol import Store
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.status import Refusal

_TASKS = "scheduler.v1.SchedulerService/"
_OF_ONE_TASK = (
    "CancelTask",
    "GetTask",
    "WaitTask",
    "ExplainTask",
    "TaskComplete",
    "TaskProgress",
    "SealGroup",
    "GetGroup",
)
_OF_ONE_SCHEDULE = (
    "GetSchedule",
    "PauseSchedule",
    "ResumeSchedule",
    "RemoveSchedule",
)
_MAKES_RUNS = ("TriggerSchedule", "BackfillSchedule")
#: How many tasks are looked up at once; each may have 2 MB.
_LOOK_TASKS = 16

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
#: Checks a request of a caller who is bound.
_Check: TypeAlias = "Callable[[Any, Identity], Awaitable[None]]"


class Scopes:
    """Checks the calls of one term."""

    def __init__(self, engine: Engine, store: Store) -> None:
        self._engine = engine
        self._store = store
        one, several = self._check_task, self._check_tasks
        #: {call: what checks it}
        self._checks: dict[str, _Check] = {
            **{f"{_TASKS}{name}": one for name in _OF_ONE_TASK},
            f"{_TASKS}ScheduleTask": self._check_new,
            f"{_TASKS}ScheduleTasks": self._check_new,
            f"{_TASKS}WaitTasks": several,
            **{f"{_TASKS}{name}": _check_filter for name in ("ListTasks", "CancelTasks", "RetryTasks")},
            f"{_TASKS}WatchTasks": _check_watch,
            f"{_TASKS}PurgeTasks": self._check_purge,
            f"{_TASKS}UpdateTask": self._check_update,
            f"{_TASKS}RetryTask": self._check_retry,
            f"{_TASKS}AddSchedule": self._check_added,
            **{f"{_TASKS}{name}": self._check_schedule for name in _OF_ONE_SCHEDULE},
            **{f"{_TASKS}{name}": self._check_runs for name in _MAKES_RUNS},
            **{f"{_TASKS}{name}": _check_queue for name in ("PauseQueue", "ResumeQueue", "ConfigureQueue")},
        }

    def around(self, methods: Mapping[str, Method]) -> dict[str, Method]:
        """Returns the methods with the checks before them: {call: method}."""
        activity = f"{_TASKS}Activity"
        return {
            call: self._activity(method)
            if call == activity
            else self._checked(call, method, self._checks[call])
            if call in self._checks
            else method
            for call, method in methods.items()
        }

    def _checked(self, call: str, method: Method, check: _Check) -> Method:
        service, _, name = call.partition("/")

        async def judge(request: Any, context: _Context, caller: Identity) -> None:
            async with refusing(context):
                await check(request, caller)

        async def unary(request: Any, context: _Context, caller: Identity) -> Any:
            await judge(request, context, caller)
            return await method(request, context)

        async def stream(request: Any, context: _Context, caller: Identity) -> AsyncIterator[Any]:
            await judge(request, context, caller)
            async with aclosing(method(request, context)) as answers:
                async for answer in answers:
                    yield answer

        bound = stream if SERVICES[service][name] else unary

        def answer(request: Any, context: _Context) -> Any:
            caller = CALLER.get()
            if caller is None or not caller.is_bound:
                return method(request, context)
            return bound(request, context, caller)

        return answer

    def _activity(self, method: Method) -> Method:
        """Leaves other callers' failed tasks out."""

        async def answer(request: pb.ActivityRequest, context: _Context) -> pb.ActivityResponse:
            caller = CALLER.get()
            response: pb.ActivityResponse = await method(request, context)
            if caller is None or not caller.is_bound or not response.failures:
                return response
            kept = [task for task in response.failures if caller.may_lane(task.queue or DEFAULT_QUEUE, task.handler)]
            del response.failures[:]
            response.failures.extend(kept)
            return response

        return answer

    async def _check_task(self, request: Any, caller: Identity) -> None:
        await self._check_ids([request.id], caller)

    async def _check_update(self, request: pb.UpdateTaskRequest, caller: Identity) -> None:
        await self._check_ids([request.id], caller)
        if request.HasField("queue") and not caller.may_queue(request.queue or DEFAULT_QUEUE):
            raise _denied(caller, f"queue {request.queue or DEFAULT_QUEUE!r}")

    async def _check_retry(self, request: pb.RetryTaskRequest, caller: Identity) -> None:
        await self._check_ids([request.id], caller)
        if request.HasField("handler") and not caller.may_handler(request.handler):
            raise _denied(caller, f"handler {request.handler!r}")

    async def _check_tasks(self, request: Any, caller: Identity) -> None:
        await self._check_ids(request.ids, caller)

    async def _check_purge(self, request: pb.PurgeTasksRequest, caller: Identity) -> None:
        if request.ids:
            await self._check_ids(request.ids, caller)
        else:
            await _check_filter(request, caller)

    async def _check_added(self, request: pb.AddScheduleRequest, caller: Identity) -> None:
        _check_lane(request.schedule.task, caller)
        # One that it replaces must be the caller's, too.
        await self._check_schedule(request.schedule, caller)

    async def _check_schedule(self, request: Any, caller: Identity) -> None:
        """Raises Refusal for a schedule whose tasks are not the caller's. Unknown names are the method's affair."""
        name = request.name

        def look(state: State) -> LaneKey | None:
            schedule = state.facts.of(SCHEDULES).get(name)
            return None if schedule is None else schedule.definition.template.lane

        lane = await self._engine.read(look)
        if lane is not None and not caller.may_lane(lane.queue, lane.handler):
            raise _denied(caller, f"schedule {name!r}")

    async def _check_runs(self, request: Any, caller: Identity) -> None:
        await self._check_schedule(request, caller)
        name = request.name

        def look(state: State) -> str:
            schedule = state.facts.of(SCHEDULES).get(name)
            return "" if schedule is None else schedule.definition.template.unique_key

        if key := await self._engine.read(look):
            await self._check_keys([key], caller)

    async def _check_ids(self, ids: Iterable[str], caller: Identity) -> None:
        """Raises Refusal for a task that is not the caller's. Ids that no task has are the method's affair."""
        lanes = await self._lanes(ids)
        for id, lane in lanes.items():
            if not caller.may_lane(lane.queue, lane.handler):
                raise _denied(caller, f"task {id!r}")

    async def _check_new(self, request: Any, caller: Identity) -> None:
        tasks = [request.task] if isinstance(request, pb.ScheduleTaskRequest) else request.tasks
        for task in tasks:
            _check_lane(task, caller)
        keys = [task.unique_key for task in tasks if task.unique_key]
        if keys:
            await self._check_keys(keys, caller)
        upstream = dict.fromkeys(id for task in tasks for id in task.after)
        parents = [parent for task in tasks if (parent := parent_of(task.id))]
        if parents:

            def groups(state: State) -> list[str]:
                return [parent for parent in parents if parent in state.dependents.groups]

            upstream |= dict.fromkeys(await self._engine.read(groups))
        if upstream:
            await self._check_ids(upstream, caller)

    async def _check_keys(self, keys: Iterable[str], caller: Identity) -> None:
        """Raises Refusal for a unique key that another caller's task has, because the answer would name that task."""

        def look(state: State) -> dict[str, str]:
            taken = state.facts.of(UNIQUE_KEYS)
            return {taken[key].id: key for key in keys if key in taken}

        holders = await self._engine.read(look)
        for id, lane in (await self._lanes(holders)).items():
            if not caller.may_lane(lane.queue, lane.handler):
                raise _denied(caller, f"the unique_key {holders[id]!r}, which a task of others has")

    async def _lanes(self, ids: Iterable[str]) -> dict[str, LaneKey]:
        """Returns the lanes of those of these tasks that there are."""
        wanted = list(ids)

        def look(state: State) -> dict[str, LaneKey]:
            return {id: task.spec.lane for id in wanted if (task := state.tasks.get(id)) is not None}

        lanes = await self._engine.read(look)
        stored = [id for id in wanted if id not in lanes]
        for place in range(0, len(stored), _LOOK_TASKS):
            records = await self._store.load(stored[place : place + _LOOK_TASKS])
            lanes |= {record.id: restore(record).spec.lane for record in records}
        return lanes


def _check_lane(task: pb.Task, caller: Identity) -> None:
    queue = task.queue or DEFAULT_QUEUE
    if not caller.may_lane(queue, task.handler):
        raise _denied(caller, f"tasks of queue {queue!r} for handler {task.handler!r}")


async def _check_filter(request: Any, caller: Identity) -> None:
    query = parse_filter(request.filter)
    chosen = {column: str(value) for column, value, equal in query.terms if equal}
    for column, is_bound, may in (
        ("queue", caller.queues is not None, caller.may_queue),
        ("handler", caller.handlers is not None, caller.may_handler),
    ):
        if is_bound and column not in chosen:
            raise _denied(caller, f'all {column}s; name one in the filter, as in {column} = "NAME"')
        if is_bound and not may(chosen[column]):
            raise _denied(caller, f"{column} {chosen[column]!r}")


async def _check_watch(request: pb.WatchTasksRequest, caller: Identity) -> None:
    await _check_filter(request, caller)
    if request.token:
        # Of removed tasks only the ids are known, so that those of others can't be left out.
        message = "who is bound to queues or handlers can't go on from a token; list the tasks again"
        raise Refusal(grpc.StatusCode.OUT_OF_RANGE, "TOKEN_TOO_OLD", message)


async def _check_queue(request: Any, caller: Identity) -> None:
    if caller.handlers is not None:
        raise _denied(caller, "a whole queue, because it is bound to handlers")
    if not caller.may_queue(request.name):
        raise _denied(caller, f"queue {request.name!r}")


def _denied(caller: Identity, what: str) -> Refusal:
    """Returns the refusal of a call that has to do with something outside the caller's bounds."""
    return Refusal(grpc.StatusCode.PERMISSION_DENIED, "OUT_OF_BOUNDS", f"{caller.words} may not have to do with {what}")
