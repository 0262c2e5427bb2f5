"""The blocking client's watch: a stream of changes that goes on when its call breaks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, Self

import grpc

from gowork.client._calls import CallSettings
from gowork.client._models import TaskInfo
from gowork.client._responses import task_info
from gowork.client._sync.connection import Connection
from gowork.client._watches import WatchState
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler


class Watch:
    """Yields the latest states of tasks as they change. States in between may be skipped.

        with client.watch(handler="resize") as changes:
            for task in changes:
                print(task.id, task.status)

    When it has been made, the leader watches: tasks that are scheduled afterwards are seen. A stream that breaks is
    opened again, and goes on where it was; states that came just before may come again. Another thread may call
    `close` to end the iteration.
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
        self._closed = threading.Event()
        self._call: Any = None
        self._tasks: Iterator[TaskInfo] = iter(())
        self._advance()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[TaskInfo]:
        return self

    def __next__(self) -> TaskInfo:
        while (task := next(self._tasks, None)) is None:
            if not self._advance():
                raise StopIteration
        return task

    @property
    def token(self) -> str:
        """The token with which another Watch goes on after the latest response.

        Some tasks of that response may not have been yielded yet.
        """
        return self._state.request.token

    def close(self) -> None:
        """Ends the iteration."""
        self._closed.set()
        if self._call is not None:
            self._call.cancel()

    def _advance(self) -> bool:
        """Waits for the next response. Returns False when the watch is closed."""
        while not self._closed.is_set():
            if self._call is None:
                self._call = self._connection.scheduler.WatchTasks(self._state.request, timeout=self._state.timeout())
                if self._closed.is_set():
                    self._call.cancel()
            try:
                response: scheduler.WatchTasksResponse | None = next(self._call, None)
            except grpc.RpcError as error:
                if self._closed.is_set():
                    return False
                pause = self._state.pause_after(error)
            else:
                if response is not None:
                    self._state.take(response)
                    self._tasks = map(self._task_info, response.tasks)
                    return True
                pause = self._state.pause_after(None)
            self._call = None
            self._closed.wait(pause)
        return False
