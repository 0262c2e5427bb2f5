"""How the asyncio client waits for many tasks: by calls that stream what has finished, several side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from typing import TypeVar

import grpc

from gowork.base import running
from gowork.client import _arguments as arguments
from gowork.client._waits import CALLS_MAX, AwaitedT, Wait
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler

ItemT = TypeVar("ItemT")

#: Answers that readers hold ready, in messages of at most 3 MiB.
_ANSWERS_MAX = 16

WaitMethod = Callable[..., "grpc.aio.UnaryStreamCall[scheduler.WaitTasksRequest, scheduler.WaitTasksResponse]"]
#: The tasks that have finished, as they come.
WaitStream = AsyncIterator[list[AwaitedT]]


async def finished(method: WaitMethod, wait: Wait[AwaitedT]) -> WaitStream[AwaitedT]:
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
    stream: Callable[[list[AwaitedT]], WaitStream[AwaitedT]],
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


async def _awaited(answers: WaitStream[AwaitedT]) -> list[AwaitedT] | None:
    """The next answer; None when there are no more. What comes of it is not waited for: that is the caller's work."""
    with running.waiting():
        return await anext(answers, None)


def stepped(items: Iterable[ItemT] | AsyncIterable[ItemT], name: str) -> AsyncIterator[ItemT]:
    """An iterator over either kind of iterable.

    Args:
        items: to go through.
        name: what the caller's argument is called.

    Raises:
        InvalidArgument: for what is no iterable of several.
    """
    return aiter(items) if isinstance(items, AsyncIterable) else _stepped(arguments.many(items, name))


async def _stepped(items: Iterable[ItemT]) -> AsyncIterator[ItemT]:
    for item in items:
        yield item


async def _take(source: AsyncIterator[ItemT], count: int) -> list[ItemT]:
    items: list[ItemT] = []
    async for item in source:
        items.append(item)
        if len(items) == count:
            break
    return items
