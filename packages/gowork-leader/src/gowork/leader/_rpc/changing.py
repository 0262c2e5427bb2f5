"""The call of scheduler.v1.SchedulerService that changes a pending task."""

from __future__ import annotations

import grpc

from gowork.leader._access.rights import pending_max
from gowork.leader._core import commands as cmd
from gowork.leader._engine.loop import Engine
from gowork.leader._rpc.boundary import refusing
from gowork.leader._rpc.validation import Violations, check_update
from gowork.leader._wire.edits import Edits
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.status import invalid

#: The fields of UpdateTaskRequest that change something; Edits has the same names.
_FIELDS = ("queue", "priority", "run_at_ms", "delay_ms", "expires_at_ms", "expires_in_ms")

_Context = grpc.aio.ServicerContext[object, object]


class Changing:
    """Changes pending tasks."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def UpdateTask(self, request: pb.UpdateTaskRequest, context: _Context) -> pb.UpdateTaskResponse:
        async with refusing(context):
            violations: Violations = []
            check_update(request, violations)
            if violations:
                raise invalid(violations)
            # mypy does not know that a name of _FIELDS is one.
            edits = Edits(**{name: getattr(request, name) for name in _FIELDS if request.HasField(name)})  # type: ignore[arg-type]
            await self._engine.ask(cmd.UpdateTask(request.id, edits.apply, edits.moves_start, pending_max()))
        return pb.UpdateTaskResponse()
