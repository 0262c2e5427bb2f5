"""ExplainTask of scheduler.v1.SchedulerService: why a task waits."""

from __future__ import annotations

from typing import Any

import grpc

from gowork.leader._core.explain import Explanation, Reason, explain
from gowork.leader._core.model import Standing, Status, WaitCode
from gowork.leader._core.state import State
from gowork.leader._engine.blocked import why_nothing_starts
from gowork.leader._engine.loop import Engine
from gowork.leader._rpc.boundary import refusing, unknown_tasks
from gowork.leader._rpc.validation import require_id
from gowork.leader.store.codec import restore
from gowork.leader.store.protocol import Store
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb

_Context = grpc.aio.ServicerContext[Any, Any]


class Explaining:
    """Explains single tasks."""

    def __init__(self, engine: Engine, store: Store) -> None:
        self._engine = engine
        self._store = store

    async def ExplainTask(self, request: pb.ExplainTaskRequest, context: _Context) -> pb.ExplainTaskResponse:
        async with refusing(context):
            require_id(request.id)
            standing, explanation = await self.explained(request.id, verbose=request.verbose)
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

    async def explained(self, id: str, *, verbose: bool = False) -> tuple[Standing, Explanation]:
        """Returns a task's standing, and why it waits now.

        Raises:
            Refusal: NOT_FOUND: no task has the id.
        """
        now = self._engine.now()

        def look(state: State) -> tuple[Standing, Explanation] | None:
            task = state.tasks.get(id)
            return None if task is None else (task.standing, explain(state, task, now, verbose=verbose))

        blocked = self._engine.blocked
        if blocked is not None:
            # Memory is ahead of the store, and only what is durable counts.
            await self._engine.confirm()
        elif (found := await self._engine.read(look)) is not None:
            return found
        records = await self._store.load([id])
        if not records:
            raise unknown_tasks([id])
        task = restore(records[0])
        if blocked is not None and task.standing.status is Status.PENDING:
            return task.standing, Explanation((Reason(WaitCode.STORE_FULL, *why_nothing_starts(blocked)),))
        return task.standing, await self._engine.read(lambda state: explain(state, task, now, verbose=verbose))
