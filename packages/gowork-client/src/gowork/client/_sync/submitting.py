"""Schedules single tasks, and waits for them, for the blocking client: what threads do at once shares a stream."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from gowork.base.rotation import Rotation
from gowork.base.telemetry import is_traced
from gowork.base.tls import Tls
from gowork.client._channels import Channels, GivenUp, Line
from gowork.client._submissions import (
    ANSWER_SECONDS,
    FRAME_SUBMISSIONS_MAX,
    IDLE_SECONDS,
    SUBMIT_TASKS,
    Choice,
    StreamEnded,
    SubmissionFailed,
    finished_of,
    left_of,
    scheduled_of,
)
from gowork.client._sync.lookout import Lookout
from gowork.client.errors import ClientClosed
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb

#: Make ScheduleTask and WaitTask as calls of their own. Their arguments are the request, and `timeout`.
Call: TypeAlias = "Callable[..., pb.ScheduleTaskResponse]"
WaitCall: TypeAlias = "Callable[..., pb.WaitTaskResponse]"
#: How many threads a stream takes: the one that reads, and up to two of gRPC's.
_THREADS = 3


class Submitting:
    """Has the form of a stub's ScheduleTask, and as `wait` of its WaitTask. Threads may share it."""

    def __init__(
        self,
        rotation: Rotation,
        channels: Channels[grpc.Channel],
        lookout: Lookout,
        call: Call,
        wait_call: WaitCall,
        tls: Tls | None = None,
    ) -> None:
        self._rotation = rotation
        self._tls = tls
        self._channels = channels
        self._lookout = lookout
        self._call = call
        self._wait_call = wait_call
        self._choice = Choice[grpc.Channel]()
        self._stream: _Stream | None = None
        #: Streams that were left for another one and have not ended yet.
        self._former: list[_Stream] = []
        self._is_closed = False
        self._lock = threading.Lock()

    def __call__(self, request: pb.ScheduleTaskRequest, *, timeout: float) -> pb.ScheduleTaskResponse:
        """Schedules a task.

        Raises:
            RpcError: as of a call of ScheduleTask.
            ClientClosed: the client was closed meanwhile.
        """
        line = self._channels.current()
        if not self._choice.streams(line, request):
            response = self._call(request, timeout=timeout)
            self._choice.succeed(line)
            return response
        end = time.monotonic() + timeout
        try:
            said = self._answer(line, request, timeout)
        except StreamEnded:
            if self._is_closed:
                raise ClientClosed(code=grpc.StatusCode.CANCELLED) from None
            return self._call(request, timeout=left_of(end))
        return scheduled_of(said)

    def wait(self, request: pb.WaitTaskRequest, *, timeout: float) -> pb.WaitTaskResponse:
        """Waits for a task: over the stream if there is one.

        Raises:
            RpcError: as of a call of WaitTask.
            ClientClosed: the client was closed meanwhile.
        """
        line, stream = self._channels.current(), self._stream
        if stream is None or stream.is_quiet or is_traced() or not self._fits(stream, line):
            return self._wait_call(request, timeout=timeout)
        end = time.monotonic() + timeout
        try:
            response = finished_of(self._finish(stream, request, timeout))
        except StreamEnded:
            if self._is_closed:
                raise ClientClosed(code=grpc.StatusCode.CANCELLED) from None
            response = None
        return response or self._wait_call(request, timeout=left_of(end))

    def close(self) -> None:
        """Ends the streams."""
        self._is_closed = True
        for stream in (*self._former, self._stream):
            if stream is not None:
                stream.cancel()

    def _answer(self, line: Line[grpc.Channel], request: pb.ScheduleTaskRequest, timeout: float) -> pb.SubmissionAnswer:
        answer = _Answer(request)
        line.begin(answer)
        self._lookout.look()
        try:
            stream, number = self._submit(line, answer)
            return stream.wait(number, answer, timeout)
        except StreamEnded:
            if line.is_given_up:
                raise GivenUp from None
            raise
        finally:
            line.end(answer)

    def _finish(self, stream: _Stream, request: pb.WaitTaskRequest, timeout: float) -> pb.SubmissionWaitAnswer:
        answer = _Answer(request)
        stream.line.begin(answer, is_long=True)
        self._lookout.look()
        try:
            return stream.finish(answer, timeout)
        except StreamEnded:
            if stream.line.is_given_up:
                raise GivenUp from None
            raise
        finally:
            stream.line.end(answer)

    def _submit(self, line: Line[grpc.Channel], answer: _Answer) -> tuple[_Stream, int]:
        """Sends a submission on the stream, or on a new one. Returns the stream and the submission's number.

        Raises:
            StreamEnded: the process has no threads left.
        """
        with self._lock:
            stream = self._stream
            if stream is not None and self._fits(stream, line):
                number = stream.submit(answer)
                if number is not None:
                    return stream, number
            newest = _Stream(line, self._rotation, self._choice, self._token)
            number = newest.start(answer)
            if stream is not None:
                self._former = [former for former in (*self._former, stream) if not former.has_ended]
            self._stream = newest
            return newest, number

    def _fits(self, stream: _Stream, line: Line[grpc.Channel]) -> bool:
        return stream.line is line and stream.token == self._token

    @property
    def _token(self) -> str | None:
        return self._tls.token if self._tls is not None else None


class _Answer:
    """What became of one submission, or of one wait."""

    __slots__ = ("came", "finished", "has_ended", "request", "said")

    def __init__(self, request: pb.ScheduleTaskRequest | pb.WaitTaskRequest) -> None:
        self.request = request
        self.came = threading.Event()
        #: Of a submission.
        self.said: pb.SubmissionAnswer | None = None
        #: Of a wait.
        self.finished: pb.SubmissionWaitAnswer | None = None
        #: Whether the stream ended before the answer came.
        self.has_ended = False


class _Stream:
    """A call of SubmitTasks. gRPC takes the messages in a thread of its own, and another one reads the answers."""

    def __init__(
        self, line: Line[grpc.Channel], rotation: Rotation, choice: Choice[grpc.Channel], token: str | None = None
    ) -> None:
        self.line = line
        #: What it shows for as long as it is open. Who has another one by now opens another stream.
        self.token = token
        #: Whether it takes no more submissions.
        self.is_over = False
        #: Whether nothing more is read of it.
        self.has_ended = False
        #: Whether anything has come back on it.
        self.has_answered = False
        #: Whether nothing has come back on it since it began, or since a wait was late. It may lead to nobody.
        self.is_quiet = True
        self._rotation = rotation
        self._choice = choice
        self._numbers = itertools.count(1)
        #: The numbers of what is to be sent, unless nobody waits for it any more; negative ones are those of waits that
        #: are given up. None: there is nothing more.
        self._unsent: SimpleQueue[int | None] = SimpleQueue()
        #: {number: its answer}
        self._waiting: dict[int, _Answer] = {}
        #: Held while a submission is added, and while the stream becomes one that takes no more.
        self._lock = threading.Lock()
        self._call: Any = None

    def start(self, answer: _Answer) -> int:
        """Begins with a submission. Returns its number.

        Raises:
            StreamEnded: the process has no threads left.
        """
        # It is there before anything waits for it, so that a slow start does not count as a stream that is not used.
        number = self._send(answer)
        has_begun = threading.Event()
        try:
            _check_threads()
            # Before the call, which would otherwise go on without a reader if the thread does not start.
            threading.Thread(target=self._read, args=(has_begun,), name="gowork-submitted", daemon=True).start()
            self._call = self._begin()
        except (RuntimeError, ValueError):
            self._choice.fail(self.line)
            self._unsent.put(None)
            raise StreamEnded from None
        finally:
            has_begun.set()
        return number

    def submit(self, answer: _Answer) -> int | None:
        """Sends a submission. Returns its number; None: the stream takes no more."""
        with self._lock:
            return None if self.is_over else self._send(answer)

    def wait(self, number: int, answer: _Answer, timeout: float) -> pb.SubmissionAnswer:
        """Waits for the answer of a submission.

        Raises:
            StreamEnded, SubmissionFailed: there is no answer, or not in time.
        """
        try:
            if not answer.came.wait(min(timeout, ANSWER_SECONDS)):
                if timeout > ANSWER_SECONDS:
                    # At once, not when its end is read: the next task must not wait for another such stream.
                    self._choice.fail(self.line)
                    self.cancel()
                    raise StreamEnded
                if not self.has_answered:
                    # What is between here and the leader may keep streams back until they end.
                    self._choice.fail(self.line)
                raise SubmissionFailed.late()
        finally:
            self._waiting.pop(number, None)
        if answer.has_ended:
            raise StreamEnded
        assert answer.said is not None, "a submission without an answer"
        return answer.said

    def finish(self, answer: _Answer, timeout: float) -> pb.SubmissionWaitAnswer:
        """Sends a wait, and waits for its answer.

        Raises:
            StreamEnded, SubmissionFailed: there is no answer, or not in time.
        """
        number = self.submit(answer)
        if number is None:
            raise StreamEnded
        try:
            if not answer.came.wait(timeout):
                self.is_quiet = True
                raise SubmissionFailed.late()
        finally:
            if self._waiting.pop(number, None) is not None:
                self._unsent.put(-number)
        if answer.finished is None:
            raise StreamEnded
        return answer.finished

    def cancel(self) -> None:
        """Ends the stream."""
        self.is_over = True
        self._call.cancel()

    def _send(self, answer: _Answer) -> int:
        number = next(self._numbers)
        self._waiting[number] = answer
        self._unsent.put(number)
        return number

    def _begin(self) -> Any:
        return self.line.channel.stream_stream(
            SUBMIT_TASKS,
            request_serializer=pb.SubmitTasksRequest.SerializeToString,
        )(self._frames())

    def _frames(self) -> Iterator[pb.SubmitTasksRequest]:
        while (numbers := self._next_unsent()) is not None:
            frame = pb.SubmitTasksRequest(given_up=[-number for number in numbers if number < 0])
            for number in numbers:
                answer = self._waiting.get(number)
                if answer is None:
                    continue
                if isinstance(answer.request, pb.WaitTaskRequest):
                    frame.waits.add(number=number, call=answer.request)
                else:
                    frame.submissions.add(number=number, call=answer.request)
            if frame.submissions or frame.waits or frame.given_up:
                yield frame

    def _next_unsent(self) -> list[int] | None:
        """Waits for submissions; None: there are no more."""
        next_one = self._first_unsent()
        if next_one is None:
            return None
        found = [next_one]
        while len(found) < FRAME_SUBMISSIONS_MAX:
            try:
                next_one = self._unsent.get_nowait()
            except Empty:
                break
            if next_one is None:
                return None
            found.append(next_one)
        return found

    def _first_unsent(self) -> int | None:
        while True:
            try:
                return self._unsent.get(timeout=IDLE_SECONDS)
            except Empty:
                with self._lock:
                    if self._unsent.empty() and not self._waiting:
                        self.is_over = True
                        return None

    def _read(self, has_begun: threading.Event) -> None:
        has_begun.wait()
        if self._call is None:
            return
        fails = True
        try:
            self._read_on()
            fails = self._call.code() is not grpc.StatusCode.OK
        except (grpc.RpcError, ValueError, DecodeError):
            return
        finally:
            # After an answer that is none, the call would stay open.
            self._call.cancel()
            with self._lock:
                self.is_over = True
                left = list(self._waiting.values())
            if fails and not self.line.is_given_up:
                self._choice.fail(self.line)
            for answer in left:
                answer.has_ended = True
                answer.came.set()
            self._unsent.put(None)
            self.has_ended = True

    def _read_on(self) -> None:
        for data in self._call:
            self.line.hear()
            self.is_quiet = False
            if not self.has_answered:
                self.has_answered = True
                self._rotation.hear((), self._call.initial_metadata())
            response = pb.SubmitTasksResponse.FromString(data)
            # What is answered no longer waits, so that the end of the stream does not undo it.
            for said in response.answers:
                answer = self._waiting.pop(said.number, None)
                if answer is not None:
                    answer.said = said
                    answer.came.set()
            for finished in response.finished:
                answer = self._waiting.pop(finished.number, None)
                if answer is not None:
                    answer.finished = finished
                    answer.came.set()


def _check_threads() -> None:
    """Checks that the process can start the threads of a stream.

    When gRPC fails to start its own, the call stays open, and the channel neither answers further streams nor closes.

    Raises:
        RuntimeError: it can't.
    """
    is_over = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(_THREADS):
            thread = threading.Thread(target=is_over.wait, name="gowork-trial", daemon=True)
            thread.start()
            started.append(thread)
    finally:
        is_over.set()
        for thread in started:
            thread.join()
