"""The part of a client that is about groups, and the handle of a group.

The asyncio form of this module is written by hand; the blocking form is generated from it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any, Unpack, cast

from gowork.client import _arguments as arguments
from gowork.client import _responses as responses
from gowork.client._async.calls import Calls
from gowork.client._async.connection import Connection
from gowork.client._async.handles import AsyncTaskHandle
from gowork.client._async.streams import stepped
from gowork.client._group_models import GroupState
from gowork.client._handles import completed
from gowork.client._ids import new_task_id
from gowork.client._models import NewTask, TaskOptions
from gowork.client._waits import IDS_MAX, end_of
from gowork.client.errors import FailedPrecondition, InvalidArgument, TaskFailed
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler

if TYPE_CHECKING:
    from gowork.client._async.client import AsyncClient
    from gowork.client._change_models import CancelledTasks


class AsyncGroupHandle(AsyncTaskHandle[Any]):
    """A group: the handle of its task, and what concerns its children.

    `result()` is what its handler returns. That of a group without a handler is a dict with the numbers `children`,
    `completed`, `failed` and `cancelled`.
    """

    __slots__ = ()

    async def add(
        self, payload: object = "", *, part: str | None = None, **options: Unpack[TaskOptions]
    ) -> AsyncTaskHandle[Any]:
        """Schedules a child.

        Args:
            payload: as for schedule.
            part: the part of its id behind that of the group and a slash, without a slash; None for a new UUIDv7.
            options: as for schedule.

        Raises:
            FailedPrecondition: when the group is sealed, and has all of its children.
            InvalidArgument, AlreadyExists, CallError: as for schedule.
        """
        part = new_task_id() if part is None else arguments.text(part, "part")
        if not part or "/" in part:
            raise InvalidArgument.of("part", f"is {part!r}; a text without a slash is needed")
        return await self._client.schedule(payload, id=f"{self.id}/{part}", **cast("Any", options))

    async def seal(self, children: int | None = None) -> GroupState:
        """Seals the group; see AsyncGroups.seal."""
        return await self._client.groups.seal(self.id, children)

    async def state(self) -> GroupState:
        """Returns how far the group is; see AsyncGroups.get."""
        return await self._client.groups.get(self.id)

    async def cancel(self) -> None:
        """Cancels the group and its children; see AsyncGroups.cancel."""
        await self._client.groups.cancel(self.id)

    async def children(self) -> AsyncIterator[AsyncTaskHandle[Any]]:
        """Yields a handle for each child that is there, in the order in which they were scheduled."""
        prefix, begun = f"{self.id}/", (await self.state()).created_at
        async for task in self._client.tasks(id_prefix=prefix):
            # Older tasks are no children, whatever their ids.
            if "/" not in task.id[len(prefix) :] and not (begun and task.created_at and task.created_at < begun):
                yield self._client.handle(task.id)

    def as_completed(self, timeout: float | None = None) -> AsyncIterator[AsyncTaskHandle[Any]]:
        """Yields a handle for each child that is there, as it finishes.

        Args:
            timeout: how long to wait for all, in seconds; None for as long as it takes.

        Raises:
            TaskNotFinished, CallError: as for wait.
        """
        return self._client.as_completed(self.children(), timeout)

    async def results(
        self, type: Any = None, *, timeout: float | None = None, return_exceptions: bool = False
    ) -> AsyncIterator[Any]:
        """Yields the results of the children that are there, in the order in which they were scheduled.

        It waits for those that have not finished. The children are kept as long as the group has not ended, and from
        then on as long as any finished task.

        Args:
            type: the type to decode each result to, as for TaskHandle.result.
            timeout: how long to wait for all, in seconds; None for as long as it takes.
            return_exceptions: whether a child that did not complete yields the error in place of a result.

        Raises:
            TaskFailed: when a child did not complete; TaskCancelled, a kind of it, when it was cancelled.
            TaskNotFinished, CallError: as for wait.
        """
        end = end_of(timeout)
        chunk: list[AsyncTaskHandle[Any]] = []
        async for child in self.children():
            chunk.append(child)
            if len(chunk) == IDS_MAX:
                async for result in self._values(chunk, type, end, return_exceptions=return_exceptions):
                    yield result
                chunk = []
        async for result in self._values(chunk, type, end, return_exceptions=return_exceptions):
            yield result

    async def _values(
        self, children: list[AsyncTaskHandle[Any]], type: Any, end: float | None, *, return_exceptions: bool
    ) -> AsyncIterator[Any]:
        timeout = None if end is None else max(0.0, end - time.monotonic())
        for task in await self._client.wait(children, timeout):
            try:
                yield completed(task).value(type)
            except TaskFailed as error:
                if not return_exceptions:
                    raise
                yield error


class AsyncGroups:
    """Makes groups, and tells how far they are. `AsyncClient.groups` has it.

    A group is a task that runs after its children; docs/groups.md says more. Leaders older than 0.2.0 have no groups:
    each call raises LeaderTooOld there.
    """

    def __init__(self, client: AsyncClient, connection: Connection, calls: Calls) -> None:
        self._client = client
        self._connection = connection
        self._calls = calls

    async def open(
        self,
        payload: object = "",
        *,
        id: str | None = None,
        children: int | None = None,
        **options: Unpack[TaskOptions],
    ) -> AsyncGroupHandle:
        """Schedules the task of a group, and returns its handle.

        It runs when its children have ended; without a handler it completes then. Children are the tasks that
        `AsyncGroupHandle.add` schedules, and all others that are scheduled later and whose ids are the group's, a
        slash, and one part more.

        Args:
            payload: what its handler works on, as for schedule, or a NewTask with options of its own.
            id: as for schedule.
            children: how many children it will have; None to say so later by `seal`. It waits until then.
            options: as for schedule. `after_rule` says how the children must have ended.

        Raises:
            InvalidArgument, AlreadyExists, CallError: as for schedule.
        """
        options["group"] = True if children is None else children
        if isinstance(payload, NewTask) and id is not None:
            payload = dataclasses.replace(payload, id=id)
        handle = await self._client.schedule(payload, id=id, **cast("Any", options))
        return AsyncGroupHandle(self._client, handle.id, None, "" if handle.is_new else handle.id)

    async def run(
        self,
        payloads: Iterable[object] | AsyncIterable[object],
        *,
        id: str | None = None,
        then: NewTask | None = None,
        **options: Unpack[TaskOptions],
    ) -> AsyncGroupHandle:
        """Schedules a group and all of its children, and seals it.

        The payloads are taken as they are sent, so that there may be millions. A call that was broken off is repeated
        with the same id and the same payloads: what was scheduled before is not scheduled again.

        Args:
            payloads: those of the children, each as for schedule_many. Their ids are ID/0, ID/1 and so on.
            id: that of the group; None for a new UUIDv7.
            then: what runs when the children have ended: a NewTask with a handler. Its `after_rule` says how they must
                have ended. If its key `unique` is taken, nothing is scheduled. None: nothing runs, and the group has
                completed when all children have.
            options: the handler of the children and how to run them; see TaskOptions.

        Raises:
            InvalidArgument: when a field is at fault, or a NewTask has an id that is not one of a child.
            AlreadyExists, FailedPrecondition, CallError: as for schedule_many. The group stays open then.
        """
        group = await self.open(NewTask() if then is None else then, id=id)
        if not group.is_new:
            # The task that has the unique key of `then`.
            return group
        children = 0

        async def numbered() -> AsyncIterator[NewTask]:
            nonlocal children
            async for payload in stepped(payloads, "payloads"):
                yield _child(group.id, children, payload)
                children += 1

        async for _ in self._client.schedule_many(numbered(), **cast("Any", options)):
            pass
        await self.seal(group.id, children)
        return group

    def handle(self, id: str) -> AsyncGroupHandle:
        """Returns the handle of a group. It makes no call."""
        return AsyncGroupHandle(self._client, arguments.text(id, "id"))

    async def get(self, id: str) -> GroupState:
        """Returns how far a group is, also when it has ended, as long as its task is kept.

        Raises:
            NotFound: when no group has the id.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        request = arguments.message(scheduler.GetGroupRequest, id=id)
        return responses.group((await self._calls.call(self._connection.scheduler.GetGroup, request)).group)

    async def list(self) -> AsyncIterator[GroupState]:
        """Yields the groups that have not ended, by id, fetched page by page as it is iterated.

        A group that was cancelled because of its children is among them as long as a retry of a child has it wait
        again.

        Raises:
            CallError: when the leader refused, or could not be reached.
        """
        request = scheduler.ListGroupsRequest(page_size=1000)
        while True:
            response = await self._calls.call(self._connection.scheduler.ListGroups, request)
            for group in response.groups:
                yield responses.group(group)
            request.page_token = response.next_page_token
            if not request.page_token:
                return

    async def seal(self, id: str, children: int | None = None) -> GroupState:
        """Says how many children a group has. It takes no more, and ends when these have ended.

        Args:
            id: that of the group.
            children: how many; None for as many as are there. The same once more changes nothing.

        Raises:
            NotFound: when no group has the id.
            FailedPrecondition: when it is sealed with another number, or has ended with another one.
            InvalidArgument: when more children are there.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        request = arguments.message(scheduler.SealGroupRequest, id=id, children=children)
        return responses.group((await self._calls.call(self._connection.scheduler.SealGroup, request)).group)

    async def cancel(self, id: str) -> CancelledTasks:
        """Cancels a group and its unfinished children, and theirs if they are groups. Returns how many children.

        Children that are scheduled meanwhile are not cancelled. It may be repeated.

        Raises:
            NotFound: when no group has the id.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        await self.get(id)
        try:
            # The group first, or its handler would run because its children are cancelled.
            await self._client.cancel(id)
        except FailedPrecondition:
            # It has ended already.
            pass
        return await self._client.cancel_many("status != COMPLETED", id_prefix=f"{id}/")


def _child(group: str, number: int, payload: object) -> NewTask:
    task = payload if isinstance(payload, NewTask) else NewTask(payload)
    if task.id is None:
        return dataclasses.replace(task, id=f"{group}/{number}")
    parent, _, part = task.id.rpartition("/")
    if parent != group or not part:
        raise InvalidArgument.of(
            f"tasks[{number}].id", f"is {task.id!r}, which is no child of group {group!r}; leave it out"
        )
    return task
