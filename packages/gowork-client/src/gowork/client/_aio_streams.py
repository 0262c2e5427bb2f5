"""The asyncio client's streams: waiting for tasks, several calls side by side, and watching them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from gowork.base import running
from gowork.client import _arguments as arguments
from gowork.client._calls import CallSettings
from gowork.client._mapping import task_info
from gowork.client._models import TaskInfo
from gowork.client._waits import CALLS_MAX, AwaitedT, Wait
from gowork.client._watches import WatchState
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler

ItemT = TypeVar("ItemT")

#: Answers that readers hold ready, in messages of at most 3 MiB.
_ANSWERS_MAX = 16

WaitMethod = Callable[..., "grpc.aio.UnaryStreamCall[scheduler.WaitTasksRequest, scheduler.WaitTasksResponse]"]
WatchMethod = Callable[..., "grpc.aio.UnaryStreamCall[scheduler.WatchTasksRequest, scheduler.WatchTasksResponse]"]


async def finished(method: WaitMethod, wait: Wait[AwaitedT]) -> AsyncIterator[list[AwaitedT]]:
    """Waits for the tasks of one Wait, over as many calls as it takes."""
    while wait:
        call = method(wait.request(), timeout=wait.timeout())
        try:
            async for response in call:
                yield wait.take(response.tasks)
        except grpc.RpcError as error:
            pause = wait.pause_after(error)
        else:
            wait.check_ended()
            return
        finally:
            call.cancel()
        await asyncio.sleep(pause)


async def merged(
    source: AsyncIterator[AwaitedT],
    chunk_max: int,
    stream: Callable[[list[AwaitedT]], AsyncIterator[list[AwaitedT]]],
) -> AsyncIterator[AwaitedT]:
    """Waits for any number of tasks, in chunks side by side, and yields them as they finish."""
    chunk = await _take(source, chunk_max)
    if len(chunk) < chunk_max:
        only = stream(chunk)
        while (done := await _awaited(only)) is not None:
            for handle in done:
                yield handle
        return
    answers: asyncio.Queue[list[AwaitedT] | Exception | None] = asyncio.Queue(_ANSWERS_MAX)

    async def read(chunk: list[AwaitedT]) -> None:
        last: Exception | None = None
        try:
            async for done in stream(chunk):
                await answers.put(done)
        except Exception as error:  # noqa: BLE001 - it is raised where the handles are iterated
            last = error
        await answers.put(last)

    # This generator owns its readers and ends them. A TaskGroup can't do it: one that is left over a yield cancels
    # whichever task iterates when a child fails, and turns a generator that is closed early into an error (PEP 789).
    readers: list[asyncio.Task[None]] = []
    left = 0
    try:
        while chunk or left:
            if chunk:
                readers.append(asyncio.create_task(read(chunk), name="gowork-wait"))
                left += 1
            # Answers are handed on between chunks too: the source may be long.
            while left and (left >= CALLS_MAX or not chunk or not answers.empty()):
                with running.waiting():
                    answer = await answers.get()
                if isinstance(answer, Exception):
                    raise answer
                if answer is None:
                    left -= 1
                    continue
                for handle in answer:
                    yield handle
            if chunk:
                chunk = await _take(source, chunk_max)
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


async def _awaited(answers: AsyncIterator[list[AwaitedT]]) -> list[AwaitedT] | None:
    """The next answer; None when there are no more. What comes of it is not waited for: that is the caller's work."""
    with running.waiting():
        return await anext(answers, None)


async def stepped(items: Iterable[ItemT] | AsyncIterable[ItemT], name: str) -> AsyncIterator[ItemT]:
    """The items of either kind of iterable.

    Args:
        items: to go through.
        name: what the caller's argument is called.

    Raises:
        InvalidArgument: for what is no iterable of several.
    """
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in arguments.many(items, name):
            yield item


class AsyncWatch:
    """The latest states of tasks as they change. Steps in between may be left out.

        async with client.watch(handler="resize") as changes:
            async for task in changes:
                print(task.id, task.status)

    Once it is entered, the leader has begun to watch: what is scheduled afterwards is seen. A stream that breaks is
    taken up again where it was.
    """

    def __init__(
        self,
        method: WatchMethod,
        settings: CallSettings,
        request: scheduler.WatchTasksRequest,
        on_removed: Callable[[str], object] | None = None,
    ) -> None:
        self._method = method
        self._state = WatchState(settings, request, on_removed)
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
        """Where to go on, in another watch: after the tasks of the latest response, of which some may not have been
        yielded yet.
        """
        return self._state.request.token

    def close(self) -> None:
        """Ends the iteration."""
        self._closed = True
        if self._call is not None:
            self._call.cancel()

    async def _advance(self) -> bool:
        """Waits for the next response; false when closed."""
        while not self._closed:
            if self._call is None:
                self._call = self._method(self._state.request, timeout=self._state.timeout)
            try:
                response: Any = await self._call.read()
            except grpc.RpcError as error:
                pause = self._state.pause_after(error)
            except asyncio.CancelledError:
                # gRPC raises the same when the call was cancelled as when the caller was.
                if self._closed and not _being_cancelled():
                    return False
                self.close()
                raise
            else:
                if response is not grpc.aio.EOF:
                    self._state.take(response)
                    self._tasks = map(task_info, response.tasks)
                    return True
                pause = self._state.pause_after(None)
            self._call = None
            await asyncio.sleep(pause)
        return False


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _take(source: AsyncIterator[ItemT], count: int) -> list[ItemT]:
    items: list[ItemT] = []
    async for item in source:
        items.append(item)
        if len(items) == count:
            break
    return items
