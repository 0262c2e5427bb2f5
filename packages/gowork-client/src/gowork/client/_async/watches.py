"""The asyncio client's watch: a stream of changes that goes on when its call breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, Self

import grpc

from gowork.client._async.cancelling import being_cancelled
from gowork.client._async.connection import Connection
from gowork.client._calls import CallSettings
from gowork.client._models import TaskInfo
from gowork.client._responses import task_info
from gowork.client._watches import WatchState
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler


class AsyncWatch:
    """Yields the latest states of tasks as they change. States in between may be skipped.

        async with client.watch(handler="resize") as changes:
            async for task in changes:
                print(task.id, task.status)

    When it has been entered, the leader watches: tasks that are scheduled afterwards are seen. A stream that breaks is
    opened again, and goes on where it was; states that came just before may come again.
    """

    def __init__(
        self,
        connection: Connection,
        settings: CallSettings,
        request: scheduler.WatchTasksRequest,
        on_removed: Callable[[str], object] | None = None,
    ) -> None:
        self._connection = connection
        self._state = WatchState(settings, request, on_removed)
        self._task_info = partial(task_info, encryption=settings.encryption)
        self._call: Any = None
        self._closed = False
        self._tasks: Iterator[TaskInfo] = iter(())

    async def __aenter__(self) -> Self:
        await self._advance()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __aiter__(self) -> AsyncIterator[TaskInfo]:
        return self

    async def __anext__(self) -> TaskInfo:
        while (task := next(self._tasks, None)) is None:
            if not await self._advance():
                raise StopAsyncIteration
        return task

    @property
    def token(self) -> str:
        """The token with which another AsyncWatch goes on after the latest response.

        Some tasks of that response may not have been yielded yet.
        """
        return self._state.request.token

    def close(self) -> None:
        """Ends the iteration."""
        self._closed = True
        if self._call is not None:
            self._call.cancel()

    async def _advance(self) -> bool:
        """Waits for the next response. Returns False when the watch is closed."""
        while not self._closed:
            if self._call is None:
                self._call = self._connection.scheduler.WatchTasks(self._state.request, timeout=self._state.timeout())
            try:
                response: Any = await self._call.read()
            except grpc.RpcError as error:
                pause = self._state.pause_after(error)
            except asyncio.CancelledError:
                if self._closed and not being_cancelled():
                    return False
                self.close()
                raise
            else:
                if response is not grpc.aio.EOF:
                    self._state.take(response)
                    self._tasks = map(self._task_info, response.tasks)
                    return True
                pause = self._state.pause_after(None)
            self._call = None
            await asyncio.sleep(pause)
        return False
