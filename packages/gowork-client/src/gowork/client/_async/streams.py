"""Waits for many tasks, for the asyncio client: by calls that stream the finished tasks, several at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from typing import TypeVar

import grpc

from gowork.base import running
from gowork.client import _arguments as arguments
from gowork.client._async.cancelling import being_cancelled
from gowork.client._waits import CALLS_MAX, AwaitedT, Wait
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler

ItemT = TypeVar("ItemT")

#: How many responses are read ahead, of at most 3 MiB each.
_ANSWERS_MAX = 16

WaitMethod = Callable[..., "grpc.aio.UnaryStreamCall[scheduler.WaitTasksRequest, scheduler.WaitTasksResponse]"]
#: Yields the handles of tasks that have finished, as the leader reports them.
WaitStream = AsyncIterator[list[AwaitedT]]


async def finished(method: WaitMethod, wait: Wait[AwaitedT]) -> WaitStream[AwaitedT]:
    """Waits for the tasks of one Wait, in as many calls as it takes."""
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
    """Waits for any number of tasks, by one call for each `chunk_max` of them, and yields them as they finish."""
    chunk = await _take(source, chunk_max)
    if len(chunk) < chunk_max:
        only = stream(chunk)
        while (done := await _awaited(only)) is not None:
            for handle in done:
                yield handle
        return
    answers: asyncio.Queue[list[AwaitedT] | BaseException | None] = asyncio.Queue(_ANSWERS_MAX)

    async def read(chunk: list[AwaitedT]) -> None:
        last: BaseException | None = None
        try:
            async for done in stream(chunk):
                await answers.put(done)
        except Exception as error:  # noqa: BLE001 - it is raised where the handles are iterated
            last = error
        except asyncio.CancelledError as error:
            if being_cancelled():
                raise
            # The client was closed. Nobody else would end the iteration.
            last = error
        await answers.put(last)

    # This generator owns its readers and ends them. A TaskGroup cannot: one that is open across a yield cancels the
    # iterating task when a child fails, and makes closing the generator early an error (PEP 789).
    readers: list[asyncio.Task[None]] = []
    left = 0
    try:
        while chunk or left:
            if chunk:
                readers.append(asyncio.create_task(read(chunk), name="gowork-wait"))
                left += 1
            # Responses are yielded between chunks too, because the source may be long.
            while left and (left >= CALLS_MAX or not chunk or not answers.empty()):
                with running.waiting():
                    answer = await answers.get()
                if isinstance(answer, BaseException):
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
    """Waits for the next response; None when there are no more. An attempt lends its slot only during this wait."""
    with running.waiting():
        return await anext(answers, None)


def stepped(items: Iterable[ItemT] | AsyncIterable[ItemT], name: str) -> AsyncIterator[ItemT]:
    """Returns an asynchronous iterator over either kind of iterable.

    Args:
        items: what to iterate.
        name: the name of the caller's argument, for the error.

    Raises:
        InvalidArgument: when `items` is a text, bytes, or cannot be iterated.
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
