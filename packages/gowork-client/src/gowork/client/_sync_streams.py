"""The blocking client's streams: waiting for tasks, several calls side by side, and watching them.

A thread reads each call where there is more than one; with one call there is no thread. Threads end with the iteration
that needs them, also when it is left early.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from queue import Queue
from types import TracebackType
from typing import Any, Generic, Self

import grpc

from gowork.base import running
from gowork.client._calls import CallSettings
from gowork.client._mapping import task_info
from gowork.client._models import TaskInfo
from gowork.client._waits import CALLS_MAX, AwaitedT, Wait
from gowork.client._watches import WatchState
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler

#: Answers that readers hold ready, in messages of at most 3 MiB.
_ANSWERS_MAX = 16


class WaitStream(Generic[AwaitedT]):
    """Waits for the tasks of one Wait, over as many calls as it takes. Iterated once; `close` may come from another
    thread.
    """

    def __init__(
        self,
        method: grpc.UnaryStreamMultiCallable[scheduler.WaitTasksRequest, scheduler.WaitTasksResponse],
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
        """Ends the iteration, wherever it stands."""
        self._closed.set()
        if self._call is not None:
            self._call.cancel()


def merged(
    handles: Iterable[AwaitedT], chunk_max: int, stream: Callable[[list[AwaitedT]], WaitStream[AwaitedT]]
) -> Iterator[AwaitedT]:
    """Waits for any number of tasks, in chunks side by side, and yields them as they finish."""
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
            # Answers are handed on between chunks too: the source may be long.
            while readers.ready() or readers.running >= CALLS_MAX:
                yield from readers.next()
            chunk = list(islice(source, chunk_max))
        while readers.running or readers.ready():
            yield from readers.next()


def _awaited(answers: Iterator[list[AwaitedT]]) -> list[AwaitedT] | None:
    """The next answer; None when there are no more. What comes of it is not waited for: that is the caller's work."""
    with running.waiting():
        return next(answers, None)


class _Readers(Generic[AwaitedT]):
    """Threads that each read one stream into one queue. The last word of each thread is None, or its error."""

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
        # A reader may be waiting for room in the queue: it is emptied until all have ended.
        while self.running:
            self._take()

    def start(self, chunk: list[AwaitedT]) -> None:
        """Waits for these too."""
        stream = self._stream(chunk)
        self._open.append(stream)
        self.running += 1
        threading.Thread(target=self._read, args=(stream,), name="gowork-wait", daemon=True).start()

    def ready(self) -> bool:
        """Whether next would return at once."""
        return not self._answers.empty()

    def next(self) -> list[AwaitedT]:
        """The next tasks that have finished; none when a stream has ended."""
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


class Watch:
    """The latest states of tasks as they change. Steps in between may be left out.

        with client.watch(handler="resize") as changes:
            for task in changes:
                print(task.id, task.status)

    When it is made, the leader has begun to watch: what is scheduled afterwards is seen. A stream that breaks is taken
    up again where it was. `close` ends it, also from another thread.
    """

    def __init__(
        self,
        method: grpc.UnaryStreamMultiCallable[scheduler.WatchTasksRequest, scheduler.WatchTasksResponse],
        settings: CallSettings,
        request: scheduler.WatchTasksRequest,
        on_removed: Callable[[str], object] | None = None,
    ) -> None:
        self._method = method
        self._state = WatchState(settings, request, on_removed)
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
        """Where to go on, in another Watch: after the tasks of the latest response, of which some may not have been
        yielded yet.
        """
        return self._state.request.token

    def close(self) -> None:
        """Ends the iteration."""
        self._closed.set()
        if self._call is not None:
            self._call.cancel()

    def _advance(self) -> bool:
        """Waits for the next response; false when closed."""
        while not self._closed.is_set():
            if self._call is None:
                self._call = self._method(self._state.request, timeout=self._state.timeout)
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
                    self._tasks = map(task_info, response.tasks)
                    return True
                pause = self._state.pause_after(None)
            self._call = None
            self._closed.wait(pause)
        return False
