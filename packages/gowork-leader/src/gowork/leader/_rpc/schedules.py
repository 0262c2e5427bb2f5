"""Calls of scheduler.v1.SchedulerService about schedules."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from itertools import islice, takewhile
from typing import Any

import grpc

from gowork.leader._access.rights import CALLER, Identity, caller_name, pending_max
from gowork.leader._core import commands as cmd
from gowork.leader._core.declared import why_not
from gowork.leader._core.kinds import SCHEDULES, TICKS
from gowork.leader._core.model import Status
from gowork.leader._core.schedules import Definition, Schedule, Ticks, ticks_of
from gowork.leader._core.state import State
from gowork.leader._engine.loop import Engine
from gowork.leader._rpc.boundary import refusing
from gowork.leader._rpc.schedule_messages import (
    check_reason,
    check_request_id,
    check_schedule_name,
    check_span,
    definition_from,
    manual_request_id,
    schedule_message,
)
from gowork.leader._rpc.tokens import make_id_token, read_id_token
from gowork.leader._rpc.validation import Violations, check_page_size
from gowork.leader.store.protocol import Store
from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.status import FieldViolation, Refusal, invalid

_Context = grpc.aio.ServicerContext[Any, Any]
#: What a schedule is, how far it has come, whether it is orphaned, and why declarations of it do not hold.
_Found = tuple[Schedule, Ticks, bool, str]


class Schedules:
    """Answers the calls about schedules."""

    def __init__(self, engine: Engine, store: Store) -> None:
        self._engine = engine
        self._store = store

    async def AddSchedule(self, request: pb.AddScheduleRequest, context: _Context) -> pb.AddScheduleResponse:
        async with refusing(context):
            violations: Violations = []
            schedule, now_ms = request.schedule, self._engine.now().wall_ms
            definition = definition_from(schedule, now_ms, violations, "schedule.")
            if definition is None:
                raise invalid(violations)
            command = cmd.AddSchedule(
                schedule.name, definition, request.replace, schedule.paused, schedule.pause_reason, caller_name()
            )
            answer = await self._engine.ask(command)
            message = await self._message(schedule.name)
        return pb.AddScheduleResponse(schedule=message, created=answer.created, replaced=answer.replaced)

    async def GetSchedule(self, request: pb.GetScheduleRequest, context: _Context) -> pb.GetScheduleResponse:
        async with refusing(context):
            _require_name(request.name)
            message = await self._message(request.name)
        return pb.GetScheduleResponse(schedule=message)

    async def ListSchedules(self, request: pb.ListSchedulesRequest, context: _Context) -> pb.ListSchedulesResponse:
        async with refusing(context):
            violations: Violations = []
            check_page_size(request.page_size, violations)
            if violations:
                raise invalid(violations)
            scope = (self._engine.opened.identity, "schedules")
            after = read_id_token(request.page_token, "page_token", *scope) if request.page_token else ""
            number = request.page_size or limits.PAGE_ITEMS_DEFAULT
            # Asked here, because the engine asks its questions for all callers.
            caller = CALLER.get()

            now_ms = self._engine.now().wall_ms

            def look(state: State) -> list[tuple[str, _Found]]:
                schedules = state.facts.of(SCHEDULES)
                names = sorted(name for name in schedules if name > after and _may_see(caller, schedules[name]))
                # One more, to see whether there are more.
                return [(name, _found(state, name, schedules[name], now_ms)) for name in names[: number + 1]]

            found = await self._engine.read(look)
            messages = [
                schedule_message(name, schedule, ticks, now_ms, orphaned=orphaned, ignored=ignored)
                for name, (schedule, ticks, orphaned, ignored) in found[:number]
            ]
            response, size = pb.ListSchedulesResponse(), 0
            for message in messages:
                size += message.ByteSize() + 5
                if size > limits.PAGE_BYTES_MAX and response.schedules:
                    break
                response.schedules.append(message)
            if len(response.schedules) < len(found):
                response.next_page_token = make_id_token(response.schedules[-1].name, *scope)
        return response

    async def PauseSchedule(self, request: pb.PauseScheduleRequest, context: _Context) -> pb.PauseScheduleResponse:
        async with refusing(context):
            violations: Violations = []
            check_schedule_name(request.name, "name", violations)
            check_reason(request.reason, "reason", violations)
            if violations:
                raise invalid(violations)
            await self._engine.ask(cmd.PauseSchedule(request.name, request.reason, caller_name()))
        return pb.PauseScheduleResponse()

    async def ResumeSchedule(self, request: pb.ResumeScheduleRequest, context: _Context) -> pb.ResumeScheduleResponse:
        async with refusing(context):
            _require_name(request.name)
            answer = await self._engine.ask(cmd.ResumeSchedule(request.name, request.catch_up))
        return pb.ResumeScheduleResponse(skipped_ticks=answer.skipped)

    async def TriggerSchedule(
        self, request: pb.TriggerScheduleRequest, context: _Context
    ) -> pb.TriggerScheduleResponse:
        async with refusing(context):
            violations: Violations = []
            check_schedule_name(request.name, "name", violations)
            check_request_id(request.request_id, violations)
            if violations:
                raise invalid(violations)
            request_id = request.request_id or manual_request_id(self._engine.now().wall_ms, secrets.token_hex(4))
            _, ticks, _, _ = await self._find(request.name)
            command = cmd.TriggerSchedule(request.name, request_id, ticks.unfinished, pending_max())
            answer = await self._engine.ask(command)
        return pb.TriggerScheduleResponse(task_id=answer.id, existing=answer.existing)

    async def RemoveSchedule(self, request: pb.RemoveScheduleRequest, context: _Context) -> pb.RemoveScheduleResponse:
        async with refusing(context):
            _require_name(request.name)
            await self._engine.ask(cmd.RemoveSchedule(request.name))
        return pb.RemoveScheduleResponse()

    async def BackfillSchedule(
        self, request: pb.BackfillScheduleRequest, context: _Context
    ) -> pb.BackfillScheduleResponse:
        async with refusing(context):
            violations: Violations = []
            check_schedule_name(request.name, "name", violations)
            check_span(request.from_ms, request.until_ms, self._engine.now().wall_ms, violations)
            if violations:
                raise invalid(violations)
            schedule, *_ = await self._find(request.name)
            definition = schedule.definition
            ticks = _ticks_between(definition, request.from_ms, request.until_ms)
            answer = await self._engine.ask(cmd.BackfillSchedule(request.name, definition, ticks, pending_max()))
        return pb.BackfillScheduleResponse(task_ids=answer.ids, existing=answer.existing)

    async def _find(self, name: str) -> _Found:
        """Returns a schedule, and how far it has come.

        Raises:
            Refusal: NOT_FOUND: there is none of this name.
        """
        now_ms = self._engine.now().wall_ms

        def look(state: State) -> _Found | None:
            schedule = state.facts.of(SCHEDULES).get(name)
            return None if schedule is None else _found(state, name, schedule, now_ms)

        found = await self._engine.read(look)
        if found is None:
            raise Refusal(grpc.StatusCode.NOT_FOUND, "SCHEDULE_UNKNOWN", f"there is no schedule {name!r}")
        return found

    async def _message(self, name: str) -> pb.Schedule:
        """Returns a schedule in full."""
        schedule, ticks, orphaned, ignored = await self._find(name)
        statuses = await self._statuses([run.id for run in ticks.runs])
        now_ms = self._engine.now().wall_ms
        return schedule_message(name, schedule, ticks, now_ms, orphaned=orphaned, ignored=ignored, statuses=statuses)

    async def _statuses(self, ids: Sequence[str]) -> dict[str, Status]:
        """Returns how far these tasks are. Those that have been removed are left out."""

        def look(state: State) -> dict[str, Status]:
            return {id: task.standing.status for id in ids if (task := state.tasks.get(id)) is not None}

        statuses = await self._engine.read(look)
        stored = [id for id in ids if id not in statuses]
        return statuses | {brief.id: brief.status for brief in (await self._store.briefs(stored) if stored else ())}


def _found(state: State, name: str, schedule: Schedule, now_ms: int) -> _Found:
    declarers = state.agenda.declared.get(name, {}).values()
    ignored = next((why for declarer in declarers if (why := why_not(schedule, declarer))), "")
    return schedule, state.facts.of(TICKS)[name], state.agenda.is_orphaned(name, schedule, now_ms), ignored


def _ticks_between(definition: Definition, from_ms: int, until_ms: int) -> tuple[int, ...]:
    """Returns the ticks from a time on and before another one.

    Raises:
        Refusal: INVALID_ARGUMENT: there are more than one call makes.
    """
    most = limits.BACKFILL_TICKS_MAX
    size = len(definition.template.body) + limits.ID_BYTES_MAX
    limit = min(most, max(1, limits.BATCH_BYTES_MAX // size))
    ticks = tuple(islice(takewhile(lambda tick: tick < until_ms, ticks_of(definition, from_ms - 1)), limit + 1))
    if len(ticks) > limit:
        why = "" if limit == most else f", because their tasks may have {limits.BATCH_BYTES_MAX} bytes together"
        message = f"is {until_ms}; there are more than {limit} ticks before it, which is the limit of one call{why}"
        raise invalid([FieldViolation("until_ms", f"{message}; the tick after the limit is at {ticks[-1]}")])
    return ticks


def _may_see(caller: Identity | None, schedule: Schedule) -> bool:
    """Whether a caller may have to do with a schedule's tasks."""
    lane = schedule.definition.template.lane
    return caller is None or caller.may_lane(lane.queue, lane.handler)


def _require_name(name: str) -> None:
    violations: Violations = []
    check_schedule_name(name, "name", violations)
    if violations:
        raise invalid(violations)
