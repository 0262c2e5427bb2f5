"""Calls of scheduler.v1.SchedulerService on finished tasks and on the store: retries, removals and backups."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Literal

import grpc

from gowork.leader._access.rights import pending_max
from gowork.leader._core import commands as cmd
from gowork.leader._engine.loop import Engine
from gowork.leader._rpc.backups import Backups
from gowork.leader._rpc.boundary import refusing
from gowork.leader._rpc.filters import parse_filter
from gowork.leader._rpc.validation import Violations, check_purge, check_retry_task
from gowork.leader._wire.edits import Edits
from gowork.leader.store.protocol import Store
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.status import invalid

#: How many tasks one batch removes, and how many batches one call makes.
PURGE_TASKS_MAX = 1_000
PURGE_BATCHES_MAX = 100

#: The fields of RetryTaskRequest that change the task; Edits has the same names.
_EDITED: tuple[Literal["payload", "data", "handler"], ...] = ("payload", "data", "handler")

_Context = grpc.aio.ServicerContext[Any, Any]


class Keeping:
    """Has finished tasks run again or removed, and sends copies of the store."""

    def __init__(self, engine: Engine, store: Store) -> None:
        self._engine = engine
        self._store = store
        self._backups = Backups(store)

    async def RetryTask(self, request: pb.RetryTaskRequest, context: _Context) -> pb.RetryTaskResponse:
        async with refusing(context):
            violations: Violations = []
            check_retry_task(request, violations)
            if violations:
                raise invalid(violations)
            given = {name: getattr(request, name) for name in _EDITED if request.HasField(name)}
            edit = Edits(**given, payload_form=int(request.payload_form)).apply if given else None
            await self._engine.ask(cmd.RetryTask(request.id, pending_max(), edit))
        return pb.RetryTaskResponse()

    async def PurgeTasks(self, request: pb.PurgeTasksRequest, context: _Context) -> pb.PurgeTasksResponse:
        async with refusing(context):
            violations: Violations = []
            check_purge(request, violations)
            if violations:
                raise invalid(violations)
            if request.ids:
                purged = await self._engine.ask(cmd.Purge(list(request.ids), strict=True))
                return pb.PurgeTasksResponse(purged=purged.tasks)
            return await self._purge_selected(request)

    async def _purge_selected(self, request: pb.PurgeTasksRequest) -> pb.PurgeTasksResponse:
        query, before_ms = parse_filter(request.filter), request.finished_before_ms or None
        # The time is passed on, because a selected task may run and finish again before the core removes it.
        finished_by_ms = before_ms - 1 if before_ms is not None else 0
        purged = 0
        for _ in range(PURGE_BATCHES_MAX):
            # Some may have to be kept, and must not hide those behind them.
            most = PURGE_TASKS_MAX + self._engine.kept_tasks
            selected = await self._store.select_finished(query, before_ms, most)
            leaving = [task.id for task in selected if not self._engine.keeps(task.id, task.seq)][:PURGE_TASKS_MAX]
            if leaving:
                purged += (await self._engine.ask(cmd.Purge(leaving, finished_by_ms))).tasks
            if len(leaving) < PURGE_TASKS_MAX:
                return pb.PurgeTasksResponse(purged=purged)
        return pb.PurgeTasksResponse(purged=purged, more=True)

    async def BackupStore(
        self, request: pb.BackupStoreRequest, context: _Context
    ) -> AsyncIterator[pb.BackupStoreResponse]:
        async with refusing(context), aclosing(self._backups.read_copy()) as parts:
            async for data, total_bytes in parts:
                with self._backups.reading(context):
                    yield pb.BackupStoreResponse(data=data, total_bytes=total_bytes)
