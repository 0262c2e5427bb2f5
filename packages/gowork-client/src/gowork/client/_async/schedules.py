"""The part of a client that is about schedules.

The asyncio form of this module is written by hand; the blocking form is generated from it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Unpack

from gowork.base.schedule_times import At, Cron, Every
from gowork.client import _arguments as arguments
from gowork.client import _responses as responses
from gowork.client import _schedule_requests as requests
from gowork.client._async.calls import Calls
from gowork.client._async.connection import Connection
from gowork.client._calls import CallSettings
from gowork.client._ids import new_task_id
from gowork.client._models import Duration, Moment, NewTask
from gowork.client._schedule_models import (
    AddedSchedule,
    Backfill,
    Schedule,
    ScheduleOptions,
    ScheduleOverlap,
)
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler

if TYPE_CHECKING:
    from gowork.client._async.operations import AsyncOperations

_log = logging.getLogger("gowork.client")


class AsyncSchedules:
    """Adds schedules, looks at them, pauses and removes them. `AsyncClient.schedules` has it.

    A schedule makes a task at each of its ticks. docs/schedules.md says exactly when that is. Leaders older than 0.2.0
    have no schedules: each call raises LeaderTooOld there.
    """

    def __init__(
        self,
        client: AsyncOperations,
        connection: Connection,
        calls: Calls,
        settings: CallSettings,
        *,
        check_payloads: bool,
    ) -> None:
        self._client = client
        self._connection = connection
        self._calls = calls
        self._settings = settings
        self._checks_all = check_payloads

    async def add(
        self,
        name: str,
        when: Cron | Every | At,
        payload: object = "",
        *,
        overlap: ScheduleOverlap | str | None = None,
        catch_up_window: Duration | None = None,
        jitter: Duration | None = None,
        start_at: Moment | None = None,
        end_at: Moment | None = None,
        paused: bool = False,
        pause_reason: str = "",
        replace: bool = False,
        **options: Unpack[ScheduleOptions],
    ) -> AddedSchedule:
        """Adds a schedule, and returns it as it is then. The same schedule again changes nothing.

        Args:
            name: 1 to 128 bytes, printable, without a slash. The task of a tick has the id NAME/TIME.
            when: when it ticks, as in Cron("0 3 * * *", tz="Europe/Berlin"), Every(600) or At(moment).
            payload: that of each tick's task, as for schedule, or a NewTask with options of its own. A client that
                encrypts payloads takes none.
            overlap: what happens at a tick while the task of an earlier run has not finished; None for SKIP.
            catch_up_window: how old a tick may be that is made late because no leader was there, 10 s or more; None for
                an hour.
            jitter: by up to how much the start of a task may be later than its tick, at most a day.
            start_at: no tick is before this time.
            end_at: no tick is at this time or later.
            paused: whether a new schedule begins paused. A replaced one stays as it was.
            pause_reason: why, for people.
            replace: whether a schedule of this name that differs is replaced. Its runs, counts and pause stay.
            options: the handler and how to run the tasks; see ScheduleOptions.

        Raises:
            InvalidArgument: when a field is at fault, or the schedule has no tick any more.
            AlreadyExists: when there is another schedule of this name, and `replace` is False.
            ResourceExhausted: when there are too many schedules.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        encoder = requests.schedule_encoder(payload, options, self._settings.encryption)
        task = encoder.task(payload)
        request = requests.add_request(
            name,
            when,
            task,
            overlap=overlap,
            catch_up_window=catch_up_window,
            jitter=jitter,
            start_at=start_at,
            end_at=end_at,
            paused=paused,
            pause_reason=pause_reason,
            replace=replace,
        )
        if self._checks_all and task.handler:
            item = payload.payload if isinstance(payload, NewTask) else payload
            warning = await self._client.check_payload(item, handler=task.handler, plugin_version=task.plugin_version)
            if warning:
                extra = {"handler": task.handler, "reason": warning}
                _log.warning("a schedule is added all the same: %s", warning, extra=extra)
        await self._calls.fit(lambda leader: leader.check(request.schedule.task, self._settings.address))
        response = await self._calls.call(self._connection.scheduler.AddSchedule, request)
        return AddedSchedule(responses.schedule(response.schedule), response.created, response.replaced)

    async def get(self, name: str) -> Schedule:
        """Returns a schedule in full, with its next ticks and its last runs.

        Raises:
            NotFound: when there is none of this name.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        request = arguments.message(scheduler.GetScheduleRequest, name=name)
        return responses.schedule((await self._calls.call(self._connection.scheduler.GetSchedule, request)).schedule)

    async def pause(self, name: str, reason: str = "") -> None:
        """Pauses a schedule: no task is made at its ticks, which are counted as skipped.

        The pause holds until `resume`, also when the schedule is replaced. A paused schedule stays as it is.

        Args:
            name: its name.
            reason: why, for people; at most 1 KiB.

        Raises:
            NotFound: when there is none of this name.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        request = arguments.message(scheduler.PauseScheduleRequest, name=name, reason=reason)
        await self._calls.call(self._connection.scheduler.PauseSchedule, request)

    async def resume(self, name: str, *, catch_up: bool = False) -> int:
        """Ends a pause, and returns how many ticks came meanwhile and were skipped.

        It returns 0 for a schedule that is not paused. So it does when a leader went away after it had ended the pause,
        and the call was repeated.

        Args:
            name: its name.
            catch_up: whether the tasks of these ticks are made after all, if they are no older than the catch-up
                window. Only older ones are skipped then.

        Raises:
            NotFound: when there is none of this name.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        request = arguments.message(scheduler.ResumeScheduleRequest, name=name, catch_up=catch_up)
        return (await self._calls.call(self._connection.scheduler.ResumeSchedule, request)).skipped_ticks

    async def trigger(self, name: str, request_id: str | None = None) -> str:
        """Makes the task of a schedule now, whatever its times, pause and overlap policy say. Returns the task's id.

        Args:
            name: its name.
            request_id: names this call, so that repeating it makes no second task: 1 to 64 bytes, printable, without a
                slash. None for a new one.

        Raises:
            NotFound: when there is none of this name.
            ResourceExhausted: when there is no room for the task.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        # Named here, so that a call that is made again makes no second task.
        request_id = new_task_id() if request_id is None else request_id
        request = arguments.message(scheduler.TriggerScheduleRequest, name=name, request_id=request_id)
        return (await self._calls.call(self._connection.scheduler.TriggerSchedule, request)).task_id

    async def remove(self, name: str) -> None:
        """Removes a schedule. The tasks that it has made stay.

        Raises:
            NotFound: when there is none of this name.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        request = arguments.message(scheduler.RemoveScheduleRequest, name=name)
        await self._calls.call(self._connection.scheduler.RemoveSchedule, request)

    async def backfill(self, name: str, start: Moment, end: Moment) -> Backfill:
        """Makes the tasks of past ticks, at most 1,000, all at once. A tick that has a task already is left alone.

        Args:
            name: the schedule's name.
            start: the ticks from this time on.
            end: the ticks before this time, which may not be to come.

        Raises:
            InvalidArgument: when there are more ticks, or `end` is to come, or not after `start`.
            NotFound: when there is no schedule of this name.
            ResourceExhausted: when there is no room for the tasks.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        request = requests.backfill_request(name, start, end)
        response = await self._calls.call(self._connection.scheduler.BackfillSchedule, request)
        return Backfill(tuple(response.task_ids), response.existing)

    # It is the last one, because its name hides the type's in what follows.
    async def list(self) -> list[Schedule]:
        """Returns all schedules, in the order of their names, without payloads and the status of their runs.

        Raises:
            CallError: when the leader refused, or could not be reached.
        """
        request = scheduler.ListSchedulesRequest(page_size=1000)
        found = []
        while True:
            response = await self._calls.call(self._connection.scheduler.ListSchedules, request)
            found += [responses.schedule(message) for message in response.schedules]
            request.page_token = response.next_page_token
            if not request.page_token:
                return found
