"""Waits for many tasks, for the blocking client: by calls that stream the finished tasks, several at once.

If there are several calls, a thread reads each. One call needs no thread. The threads end when the iteration ends, also
when it is left early.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from queue import Queue
from types import TracebackType
from typing import Any, Generic, Self, TypeAlias, TypeVar

import grpc

from gowork.base import running
from gowork.client import _arguments as arguments
from gowork.client._waits import CALLS_MAX, AwaitedT, Wait
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler

ItemT = TypeVar("ItemT")

WaitMethod: TypeAlias = "grpc.UnaryStreamMultiCallable[scheduler.WaitTasksRequest, scheduler.WaitTasksResponse]"

#: How many responses are read ahead, of at most 3 MiB each.
_ANSWERS_MAX = 16


class WaitStream(Generic[AwaitedT]):
    """Waits for the tasks of one Wait, in as many calls as it takes. Iterate it once.

    Another thread may call `close`.
    """

    def __init__(
        self,
        method: WaitMethod,
        wait: Wait[AwaitedT],
    ) -> None:
        self._method = method
        self._wait = wait
        self._closed = threading.Event()
        self._call: Any = None

    def __iter__(self) -> Iterator[list[AwaitedT]]:
        try:
            while self._wait and not self._closed.is_set():
                self._call = call = self._method(self._wait.request(), timeout=self._wait.timeout())
                if self._closed.is_set():
                    return
                try:
                    for response in call:
                        yield self._wait.take(response.tasks)
                except grpc.RpcError as error:
                    if self._closed.is_set():
                        return
                    self._closed.wait(self._wait.pause_after(error))
                else:
                    self._wait.check_ended()
        finally:
            self.close()

    def close(self) -> None:
        """Ends the iteration."""
        self._closed.set()
        if self._call is not None:
            self._call.cancel()


def finished(method: WaitMethod, wait: Wait[AwaitedT]) -> WaitStream[AwaitedT]:
    """Waits for the tasks of one Wait, in as many calls as it takes."""
    return WaitStream(method, wait)


def merged(
    handles: Iterable[AwaitedT], chunk_max: int, stream: Callable[[list[AwaitedT]], WaitStream[AwaitedT]]
) -> Iterator[AwaitedT]:
    """Waits for any number of tasks, by one call for each `chunk_max` of them, and yields them as they finish."""
    source = iter(handles)
    chunk = list(islice(source, chunk_max))
    if len(chunk) < chunk_max:
        answers = iter(stream(chunk))
        while (done := _awaited(answers)) is not None:
            yield from done
        return
    with _Readers(stream) as readers:
        while chunk:
            readers.start(chunk)
            # Responses are yielded between chunks too, because the source may be long.
            while readers.ready() or readers.running >= CALLS_MAX:
                yield from readers.next()
            chunk = list(islice(source, chunk_max))
        while readers.running or readers.ready():
            yield from readers.next()


def _awaited(answers: Iterator[list[AwaitedT]]) -> list[AwaitedT] | None:
    """Waits for the next response; None when there are no more. An attempt lends its slot only during this wait."""
    with running.waiting():
        return next(answers, None)


def stepped(items: Iterable[ItemT], name: str) -> Iterator[ItemT]:
    """Returns an iterator over the items.

    Args:
        items: what to iterate.
        name: the name of the caller's argument, for the error.

    Raises:
        InvalidArgument: when `items` is a text, bytes, or cannot be iterated.
    """
    return iter(arguments.many(items, name))


class _Readers(Generic[AwaitedT]):
    """Threads that each read one stream into a shared queue. The last item of each is None, or the stream's error."""

    def __init__(self, stream: Callable[[list[AwaitedT]], WaitStream[AwaitedT]]) -> None:
        self._stream = stream
        self._open: list[WaitStream[AwaitedT]] = []
        self._answers: Queue[list[AwaitedT] | BaseException | None] = Queue(_ANSWERS_MAX)
        self.running = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in self._open:
            stream.close()
        # A reader may wait for room in the queue, so the queue is emptied until all readers have ended.
        while self.running:
            self._take()

    def start(self, chunk: list[AwaitedT]) -> None:
        """Starts a thread that waits for these tasks."""
        stream = self._stream(chunk)
        self._open.append(stream)
        self.running += 1
        threading.Thread(target=self._read, args=(stream,), name="gowork-wait", daemon=True).start()

    def ready(self) -> bool:
        """Whether `next` would return at once."""
        return not self._answers.empty()

    def next(self) -> list[AwaitedT]:
        """Waits for a response, and returns the handles of its finished tasks; none when a stream has ended."""
        with running.waiting():
            answer = self._take()
        if isinstance(answer, BaseException):
            raise answer
        return answer or []

    def _take(self) -> list[AwaitedT] | BaseException | None:
        answer = self._answers.get()
        if answer is None or isinstance(answer, BaseException):
            self.running -= 1
        return answer

    def _read(self, stream: WaitStream[AwaitedT]) -> None:
        last: BaseException | None = None
        try:
            for done in stream:
                self._answers.put(done)
        except BaseException as error:  # noqa: BLE001 - it is raised where the handles are iterated
            last = error
        self._answers.put(last)
