"""Calls of scheduler.v1.SchedulerService that change tasks: submits, cancels, and reports of callback workers."""

from __future__ import annotations

import grpc

from gowork.leader._access.rights import pending_max
from gowork.leader._core import commands as cmd
from gowork.leader._core.model import Spec
from gowork.leader._engine.asked import RefusedError
from gowork.leader._engine.loop import Engine
from gowork.leader._rpc.admission import Admission
from gowork.leader._rpc.boundary import refusing
from gowork.leader._rpc.mapping import completion_from, progress_from
from gowork.leader._rpc.submits import Submits
from gowork.leader._rpc.validation import (
    Violations,
    check_completion,
    check_fraction,
    check_id,
    check_trace,
    require_id,
)
from gowork.leader._wire.specs import trace_from
from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.status import FieldViolation, invalid

#: After how many violations the rest of a batch is not checked.
_VIOLATIONS_MAX = 20
_Context = grpc.aio.ServicerContext[object, object]


class Scheduling:
    """Answers submits, cancels, and the reports and progress of callback workers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._admission = Admission()
        self._submits = Submits()

    async def ScheduleTask(self, request: pb.ScheduleTaskRequest, context: _Context) -> pb.ScheduleTaskResponse:
        async with refusing(context):
            if not request.HasField("task"):
                raise invalid([FieldViolation("task", "is missing")])
            size = request.ByteSize()
            violations: Violations = []
            spec = self._submits.spec(request.task, b"", violations, "task.")
            if spec is None:
                raise invalid(violations)
            with self._admission.taking(size):
                try:
                    answer = await self._engine.ask(cmd.Submit((spec,), pending_max()))
                except RefusedError as error:
                    raise RefusedError(_named_alone(error.refused)) from None
        return pb.ScheduleTaskResponse(holder_id=answer.held[0][1]) if answer.held else pb.ScheduleTaskResponse()

    async def ScheduleTasks(self, request: pb.ScheduleTasksRequest, context: _Context) -> pb.ScheduleTasksResponse:
        async with refusing(context):
            with self._admission.taking(_check_size(request)):
                answer = await self._engine.ask(cmd.Submit(self._specs(request), pending_max()))
        return pb.ScheduleTasksResponse(
            created=answer.created, existing=answer.existing, holder_ids=dict(answer.held) if answer.held else None
        )

    def _specs(self, request: pb.ScheduleTasksRequest) -> list[Spec]:
        """Reads the tasks of a batch.

        Raises:
            Refusal: INVALID_ARGUMENT: something in it is wrong.
        """
        violations: Violations = []
        if request.traceparent or request.tracestate:
            check_trace(request.traceparent, request.tracestate, "", violations)
        trace, specs, read = trace_from(request), list[Spec](), self._submits.spec
        for place, task in enumerate(request.tasks):
            before = len(violations)
            # The path is made only for tasks at fault, because most batches have none.
            spec = read(task, trace, violations)
            if spec is not None:
                specs.append(spec)
                continue
            violations[before:] = [
                FieldViolation(f"tasks[{place}].{violation.field}", violation.description)
                for violation in violations[before:]
            ]
            if len(violations) >= _VIOLATIONS_MAX:
                break
        if violations:
            raise invalid(violations)
        return specs

    async def CancelTask(self, request: pb.CancelTaskRequest, context: _Context) -> pb.CancelTaskResponse:
        async with refusing(context):
            require_id(request.id)
            await self._engine.ask(cmd.Cancel(request.id))
        return pb.CancelTaskResponse()

    async def TaskComplete(self, request: pb.TaskCompleteRequest, context: _Context) -> pb.TaskCompleteResponse:
        async with refusing(context):
            violations: Violations = []
            check_completion(request, violations)
            if violations:
                raise invalid(violations)
            await self._engine.ask(completion_from(request))
        return pb.TaskCompleteResponse()

    async def TaskProgress(self, request: pb.TaskProgressRequest, context: _Context) -> pb.TaskProgressResponse:
        async with refusing(context):
            violations: Violations = []
            check_id(request.id, "id", violations)
            check_fraction(request.fraction, violations)
            if violations:
                raise invalid(violations)
            await self._engine.ask(progress_from(request))
        return pb.TaskProgressResponse()


def _named_alone(refused: cmd.Refused) -> cmd.Refused:
    """Returns the refusal of a submit of one task, with field paths as ScheduleTask has them."""
    inner, outer = "tasks[0].", "task."
    violations = tuple((field.replace(inner, outer), description) for field, description in refused.violations)
    return cmd.Refused(refused.code, refused.message.replace(inner, outer), violations)


def _check_size(request: pb.ScheduleTasksRequest) -> int:
    """Checks how large a batch is. Returns how many bytes it has."""
    tasks, size = request.tasks, request.ByteSize()
    if not tasks:
        raise invalid([FieldViolation("tasks", f"is empty; 1 to {limits.BATCH_TASKS_MAX} are needed")])
    if len(tasks) > limits.BATCH_TASKS_MAX:
        raise invalid(
            [FieldViolation("tasks", f"has {len(tasks)} tasks; the limit is {limits.BATCH_TASKS_MAX} in one call")]
        )
    if size > limits.BATCH_BYTES_MAX:
        raise invalid([FieldViolation("tasks", f"has {size} bytes; the limit is {limits.BATCH_BYTES_MAX} in one call")])
    return size
