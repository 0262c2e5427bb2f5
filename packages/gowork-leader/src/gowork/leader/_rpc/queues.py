"""Calls of scheduler.v1.SchedulerService that list, pause and limit queues."""

from __future__ import annotations

from typing import Any

import grpc

from gowork.leader._core import commands as cmd
from gowork.leader._core.state import State
from gowork.leader._engine.loop import Engine
from gowork.leader._rpc.boundary import refusing
from gowork.leader._rpc.mapping import queue_message
from gowork.leader._rpc.validation import Violations, check_queue, check_queue_settings
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.status import invalid

_Context = grpc.aio.ServicerContext[Any, Any]


class QueueControl:
    """Answers the calls of operators on queues."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def ListQueues(self, request: pb.ListQueuesRequest, context: _Context) -> pb.ListQueuesResponse:
        async with refusing(context):
            return pb.ListQueuesResponse(queues=await self._engine.read(_every_queue))

    async def PauseQueue(self, request: pb.PauseQueueRequest, context: _Context) -> pb.PauseQueueResponse:
        async with refusing(context):
            _require_queue(request.name)
            await self._engine.ask(cmd.PauseQueue(request.name, True))
        return pb.PauseQueueResponse()

    async def ResumeQueue(self, request: pb.ResumeQueueRequest, context: _Context) -> pb.ResumeQueueResponse:
        async with refusing(context):
            _require_queue(request.name)
            await self._engine.ask(cmd.PauseQueue(request.name, False))
        return pb.ResumeQueueResponse()

    async def ConfigureQueue(self, request: pb.ConfigureQueueRequest, context: _Context) -> pb.ConfigureQueueResponse:
        async with refusing(context):
            violations: Violations = []
            check_queue_settings(request, violations)
            if violations:
                raise invalid(violations)
            # The fields have presence, so a zero that was set is listed, and lifts a limit.
            wanted = {field.name: value for field, value in request.ListFields()}
            settings = await self._engine.ask(cmd.ConfigureQueue(**wanted))

            def look(state: State) -> pb.Queue:
                queue = state.queues.get(request.name)
                return queue_message(request.name, settings, queue)

            return pb.ConfigureQueueResponse(queue=await self._engine.read(look))


def _every_queue(state: State) -> list[pb.Queue]:
    queues = sorted(state.queues, key=lambda queue: queue.name)
    return [queue_message(queue.name, queue.settings, queue) for queue in queues]


def _require_queue(name: str) -> None:
    violations: Violations = []
    check_queue(name, violations)
    if violations:
        raise invalid(violations)
