"""The part of scheduler.v1.SchedulerService that is about what is kept: retries and removals, backups."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from gowork.leader.core import commands as cmd
from gowork.leader.core.model import FINISHED
from gowork.leader.engine.loop import Engine
from gowork.leader.rpc.boundary import refusal_from, refusing
from gowork.leader.rpc.filters import parse_filter
from gowork.leader.rpc.validation import Violations, check_id, check_purge
from gowork.leader.store.protocol import Query, Store
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.rpc.status import Refusal, invalid

#: Tasks that are removed in one batch, what is read to find them, in bytes, and batches of one call.
PURGE_TASKS_MAX = 1_000
PURGE_READ_BYTES = 4 << 20
PURGE_BATCHES_MAX = 100
#: What one message of a backup carries, in bytes.
BACKUP_CHUNK_BYTES = 1 << 20

_Context = grpc.aio.ServicerContext[Any, Any]


class KeepingMethods:
    """Mixed into the service."""

    _engine: Engine
    _store: Store
    #: Only one at a time: a backup makes the store's log grow while it lasts.
    _backing_up = False

    async def RetryTask(self, request: pb.RetryTaskRequest, context: _Context) -> pb.RetryTaskResponse:
        async with refusing(context):
            violations: Violations = []
            check_id(request.id, "id", violations)
            if violations:
                raise invalid(violations)
            answer = await self._engine.ask(cmd.RetryTask(request.id))
            if isinstance(answer, cmd.Refused):
                raise refusal_from(answer)
        return pb.RetryTaskResponse()

    async def PurgeTasks(self, request: pb.PurgeTasksRequest, context: _Context) -> pb.PurgeTasksResponse:
        async with refusing(context):
            violations: Violations = []
            check_purge(request, violations)
            if violations:
                raise invalid(violations)
            if request.ids:
                return pb.PurgeTasksResponse(purged=await self._purge(cmd.Purge(list(request.ids), strict=True)))
            return await self._purge_selected(request)

    async def _purge_selected(self, request: pb.PurgeTasksRequest) -> pb.PurgeTasksResponse:
        query = parse_filter(request.filter)
        statuses = (query.statuses & FINISHED) if query.statuses else FINISHED
        finished_by_ms = request.finished_before_ms or self._engine.now().wall_ms
        purged, after = 0, None
        if not statuses:
            return pb.PurgeTasksResponse()
        selected = Query(statuses, query.terms, query.labels, query.id_prefixes)
        for _ in range(PURGE_BATCHES_MAX):
            records = await self._store.page(selected, after, PURGE_TASKS_MAX, PURGE_READ_BYTES)
            if not records:
                return pb.PurgeTasksResponse(purged=purged)
            after = records[-1].seq
            ids = [record.id for record in records if record.standing.finished_ms <= finished_by_ms]
            if ids:
                purged += await self._purge(cmd.Purge(ids, finished_by_ms))
        return pb.PurgeTasksResponse(purged=purged, more=True)

    async def _purge(self, command: cmd.Purge) -> int:
        answer = await self._engine.ask(command)
        if isinstance(answer, cmd.Refused):
            raise refusal_from(answer)
        return int(answer.tasks)

    async def BackupStore(
        self, request: pb.BackupStoreRequest, context: _Context
    ) -> AsyncIterator[pb.BackupStoreResponse]:
        async with refusing(context):
            if self._backing_up:
                message = "another backup is being taken; try again when it is done"
                raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "BACKUP_RUNNING", message)
            self._backing_up = True
            try:
                with tempfile.TemporaryDirectory(prefix="gowork-backup-") as folder:
                    copy = Path(folder, "gowork.db")
                    await self._store.backup(copy)
                    async for chunk in _chunks(copy):
                        yield chunk
            finally:
                self._backing_up = False


async def _chunks(path: Path) -> AsyncIterator[pb.BackupStoreResponse]:
    with path.open("rb") as file:
        total = os.fstat(file.fileno()).st_size
        while data := await asyncio.to_thread(file.read, BACKUP_CHUNK_BYTES):
            yield pb.BackupStoreResponse(data=data, total_bytes=total)
