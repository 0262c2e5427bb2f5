"""The part of scheduler.v1.SchedulerService that is about queues, and about why tasks wait in them."""

from __future__ import annotations

from typing import Any

import grpc

from gowork.leader._core import commands as cmd
from gowork.leader._core.explain import STORE_FULL, Explanation, explain
from gowork.leader._core.model import QueueSettings, Standing, Status
from gowork.leader._core.state import State
from gowork.leader._engine.loop import Engine
from gowork.leader._rpc.boundary import refusal_from, refusing, unknown_tasks
from gowork.leader._rpc.mapping import queue_message
from gowork.leader._rpc.validation import Violations, check_id, check_queue, check_queue_settings
from gowork.leader.store.codec import restore
from gowork.leader.store.protocol import Store
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.status import invalid

_Context = grpc.aio.ServicerContext[Any, Any]


class QueueMethods:
    """Mixed into the service."""

    _engine: Engine
    _store: Store

    async def ExplainTask(self, request: pb.ExplainTaskRequest, context: _Context) -> pb.ExplainTaskResponse:
        async with refusing(context):
            violations: Violations = []
            check_id(request.id, "id", violations)
            if violations:
                raise invalid(violations)
            standing, explanation = await self._explained(request.id, verbose=request.verbose)
            response = pb.ExplainTaskResponse(
                id=request.id,
                status=int(standing.status),  # type: ignore[arg-type]
                ahead=explanation.ahead,
            )
            for reason in explanation.reasons:
                response.reasons.add(
                    code=int(reason.code),
                    message=reason.message,
                    advice=reason.advice,
                    until_ms=reason.until_ms,
                )
            for verdict in explanation.verdicts:
                code = int(verdict.code) if verdict.code is not None else 0
                response.workers.add(worker=verdict.worker, code=code, message=verdict.message)
        return response

    async def ListQueues(self, request: pb.ListQueuesRequest, context: _Context) -> pb.ListQueuesResponse:
        async with refusing(context):
            return pb.ListQueuesResponse(queues=await self._engine.read(_every_queue))

    async def PauseQueue(self, request: pb.PauseQueueRequest, context: _Context) -> pb.PauseQueueResponse:
        async with refusing(context):
            _require_queue(request.name)
            await self._set(cmd.PauseQueue(request.name, True))
        return pb.PauseQueueResponse()

    async def ResumeQueue(self, request: pb.ResumeQueueRequest, context: _Context) -> pb.ResumeQueueResponse:
        async with refusing(context):
            _require_queue(request.name)
            await self._set(cmd.PauseQueue(request.name, False))
        return pb.ResumeQueueResponse()

    async def ConfigureQueue(self, request: pb.ConfigureQueueRequest, context: _Context) -> pb.ConfigureQueueResponse:
        async with refusing(context):
            violations: Violations = []
            check_queue_settings(request, violations)
            if violations:
                raise invalid(violations)
            # All of them have presence: a zero that is set lifts a limit.
            wanted = {field.name: value for field, value in request.ListFields()}
            settings = await self._set(cmd.ConfigureQueue(**wanted))

            def look(state: State) -> pb.Queue:
                queue = state.queues.get(request.name)
                return queue_message(request.name, settings, queue)

            return pb.ConfigureQueueResponse(queue=await self._engine.read(look))

    async def _explained(self, id: str, *, verbose: bool = False) -> tuple[Standing, Explanation]:
        """A task's standing and why it waits, as of now.

        Raises:
            Refusal: NOT_FOUND.
        """
        now = self._engine.now()

        def look(state: State) -> tuple[Standing, Explanation] | None:
            task = state.tasks.get(id)
            return None if task is None else (task.standing, explain(state, task, now, verbose=verbose))

        found = None if self._engine.blocked is not None else await self._engine.read(look)
        if found is not None:
            return found
        records = await self._store.load([id])
        if not records:
            raise unknown_tasks([id])
        task = restore(records[0])
        if task.standing.status is Status.PENDING and self._engine.blocked is not None:
            # Memory is ahead of the store: what is durable is what holds.
            return task.standing, Explanation((STORE_FULL,))
        return task.standing, await self._engine.read(lambda state: explain(state, task, now, verbose=verbose))

    async def _set(self, command: cmd.PauseQueue | cmd.ConfigureQueue) -> QueueSettings:
        answer = await self._engine.ask(command)
        if isinstance(answer, cmd.Refused):
            raise refusal_from(answer)
        settings: QueueSettings = answer
        return settings


def _every_queue(state: State) -> list[pb.Queue]:
    queues = sorted(state.queues, key=lambda queue: queue.name)
    return [queue_message(queue.name, queue.settings, queue) for queue in queues]


def _require_queue(name: str) -> None:
    violations: Violations = []
    check_queue(name, violations)
    if violations:
        raise invalid(violations)
