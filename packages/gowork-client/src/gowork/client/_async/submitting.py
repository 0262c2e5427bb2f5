"""Schedules single tasks, and waits for them, for the asyncio client: what goes on at the same time shares a stream."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from gowork.base.rotation import Rotation
from gowork.base.telemetry import is_traced
from gowork.base.tls import Tls
from gowork.client._async.cancelling import being_cancelled
from gowork.client._async.lookout import Lookout
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
from gowork.client.errors import ClientClosed
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb

#: Make ScheduleTask and WaitTask as calls of their own. Their arguments are the request, and `timeout`.
Call: TypeAlias = "Callable[..., Awaitable[pb.ScheduleTaskResponse]]"
WaitCall: TypeAlias = "Callable[..., Awaitable[pb.WaitTaskResponse]]"


class Submitting:
    """Has the form of a stub's ScheduleTask, and as `wait` of its WaitTask."""

    def __init__(
        self,
        rotation: Rotation,
        channels: Channels[grpc.aio.Channel],
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
        self._choice = Choice[grpc.aio.Channel]()
        self._stream: _Stream | None = None
        #: Streams that were left for another one and have not ended yet.
        self._former: list[_Stream] = []
        self._is_closed = False

    async def __call__(self, request: pb.ScheduleTaskRequest, *, timeout: float) -> pb.ScheduleTaskResponse:
        """Schedules a task.

        Raises:
            RpcError: as of a call of ScheduleTask.
            ClientClosed: the client was closed meanwhile.
        """
        line = self._channels.current()
        if not self._choice.streams(line, request):
            response = await self._call(request, timeout=timeout)
            self._choice.succeed(line)
            return response
        end = time.monotonic() + timeout
        try:
            said = await self._answer(self._stream_on(line), request, timeout)
        except StreamEnded:
            if self._is_closed:
                raise ClientClosed(code=grpc.StatusCode.CANCELLED) from None
            return await self._call(request, timeout=left_of(end))
        return scheduled_of(said)

    async def wait(self, request: pb.WaitTaskRequest, *, timeout: float) -> pb.WaitTaskResponse:
        """Waits for a task: over the stream if there is one.

        Raises:
            RpcError: as of a call of WaitTask.
            ClientClosed: the client was closed meanwhile.
        """
        stream = self._stream
        if stream is None or stream.is_quiet or is_traced() or not self._fits(stream, self._channels.current()):
            return await self._wait_call(request, timeout=timeout)
        end = time.monotonic() + timeout
        try:
            response = finished_of(await self._finish(stream, request, timeout))
        except StreamEnded:
            if self._is_closed:
                raise ClientClosed(code=grpc.StatusCode.CANCELLED) from None
            response = None
        return response or await self._wait_call(request, timeout=left_of(end))

    async def close(self) -> None:
        """Ends the streams."""
        self._is_closed = True
        for stream in (*self._former, self._stream):
            if stream is not None:
                await stream.close()

    def _stream_on(self, line: Line[grpc.aio.Channel]) -> _Stream:
        stream = self._stream
        if stream is None or not self._fits(stream, line):
            if stream is not None:
                self._former = [former for former in (*self._former, stream) if not former.has_ended]
            stream = self._stream = _Stream(line, self._rotation, self._choice, self._token)
        return stream

    def _fits(self, stream: _Stream, line: Line[grpc.aio.Channel]) -> bool:
        return stream.line is line and stream.token == self._token and not stream.is_over

    @property
    def _token(self) -> str | None:
        return self._tls.token if self._tls is not None else None

    async def _answer(self, stream: _Stream, request: pb.ScheduleTaskRequest, timeout: float) -> pb.SubmissionAnswer:
        number, answer = stream.submit(request)
        stream.line.begin(answer)
        self._lookout.look()
        try:
            async with asyncio.timeout(min(timeout, ANSWER_SECONDS)):
                return await answer
        except TimeoutError:
            if timeout > ANSWER_SECONDS:
                # At once, not when its end is read: the next task must not wait for another such stream.
                self._choice.fail(stream.line)
                stream.cancel()
                raise StreamEnded from None
            if not stream.has_answered:
                # What is between here and the leader may keep streams back until they end.
                self._choice.fail(stream.line)
            raise SubmissionFailed.late() from None
        except asyncio.CancelledError:
            if stream.line.is_given_up and not being_cancelled():
                stream.cancel()
                raise GivenUp from None
            raise
        finally:
            stream.line.end(answer)
            stream.forget(number)

    async def _finish(self, stream: _Stream, request: pb.WaitTaskRequest, timeout: float) -> pb.SubmissionWaitAnswer:
        number, answer = stream.wait(request)
        stream.line.begin(answer, is_long=True)
        self._lookout.look()
        try:
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError:
            stream.is_quiet = True
            raise SubmissionFailed.late() from None
        except asyncio.CancelledError:
            if stream.line.is_given_up and not being_cancelled():
                stream.cancel()
                raise GivenUp from None
            raise
        finally:
            stream.line.end(answer)
            stream.give_up(number)


class _Stream:
    """A call of SubmitTasks."""

    def __init__(
        self,
        line: Line[grpc.aio.Channel],
        rotation: Rotation,
        choice: Choice[grpc.aio.Channel],
        token: str | None = None,
    ) -> None:
        self.line = line
        #: What it shows for as long as it is open. Who has another one by now opens another stream.
        self.token = token
        #: Whether it takes no more submissions.
        self.is_over = False
        #: Whether anything has come back on it.
        self.has_answered = False
        #: Whether nothing has come back on it since it began, or since a wait was late. It may lead to nobody.
        self.is_quiet = True
        self._rotation = rotation
        self._choice = choice
        self._numbers = itertools.count(1)
        #: {number: the submission}, in the order in which they are sent
        self._unsent: dict[int, pb.Submission] = {}
        #: The same of waits.
        self._unsent_waits: dict[int, pb.SubmissionWait] = {}
        #: The numbers of waits that were sent, and that nobody waits for any more.
        self._given_up: list[int] = []
        #: {number: its answer}
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._wake = asyncio.Event()
        # The context of whoever comes first is not that of the others.
        context = Context()
        self._call: Any = context.run(self._begin)
        loop = asyncio.get_running_loop()
        self._writer = loop.create_task(self._write(), name="gowork-submit", context=context)
        self._reader = loop.create_task(self._read(), name="gowork-submitted", context=context)

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it is left."""
        return self._reader.done() and self._writer.done()

    def submit(self, request: pb.ScheduleTaskRequest) -> tuple[int, asyncio.Future[pb.SubmissionAnswer]]:
        """Sends a submission. Returns its number and its answer."""
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._unsent[number] = pb.Submission(number=number, call=request)
        self._wake.set()
        return number, answer

    def wait(self, request: pb.WaitTaskRequest) -> tuple[int, asyncio.Future[pb.SubmissionWaitAnswer]]:
        """Sends a wait. Returns its number and its answer."""
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._unsent_waits[number] = pb.SubmissionWait(number=number, call=request)
        self._wake.set()
        return number, answer

    def forget(self, number: int) -> None:
        """Waits no more for the answer of a submission. If it was not sent yet, it is not sent."""
        self._waiting.pop(number, None)
        self._unsent.pop(number, None)

    def give_up(self, number: int) -> None:
        """Waits no more for the answer of a wait. Harmless when it has come."""
        if self._waiting.pop(number, None) is None or self._unsent_waits.pop(number, None) is not None:
            return
        self._given_up.append(number)
        self._wake.set()

    def cancel(self) -> None:
        """Ends the stream, because nobody is there."""
        self.is_over = True
        self._call.cancel()

    async def close(self) -> None:
        """Ends the stream, because the client is closed."""
        self._call.cancel()
        self._writer.cancel()
        await asyncio.wait({self._writer, self._reader})

    def _begin(self) -> Any:
        return self.line.channel.stream_stream(
            SUBMIT_TASKS,
            request_serializer=pb.SubmitTasksRequest.SerializeToString,
        )()

    async def _write(self) -> None:
        try:
            while await self._has_more():
                numbers = list(itertools.islice(self._unsent, FRAME_SUBMISSIONS_MAX))
                waits, self._unsent_waits = self._unsent_waits, {}
                given_up, self._given_up = self._given_up, []
                frame = pb.SubmitTasksRequest(
                    submissions=[self._unsent.pop(number) for number in numbers],
                    waits=waits.values(),
                    given_up=given_up,
                )
                await self._call.write(frame)
            await self._call.done_writing()
        except (grpc.RpcError, asyncio.InvalidStateError):
            # It has ended. The reader says why.
            return

    async def _has_more(self) -> bool:
        """Waits for what is to be sent. Returns whether there is some; otherwise the stream is over."""
        while not (self._unsent or self._unsent_waits or self._given_up):
            self._wake.clear()
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                if not self._waiting:
                    self.is_over = True
                    return False
        return True

    async def _read(self) -> None:
        fails = True
        try:
            await self._read_on()
            fails = await self._call.code() is not grpc.StatusCode.OK
        except (grpc.RpcError, DecodeError):
            return
        finally:
            self.is_over = True
            # After an answer that is none, the call would stay open.
            self._call.cancel()
            if fails and not self.line.is_given_up:
                self._choice.fail(self.line)
            self._writer.cancel()
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(StreamEnded())

    async def _read_on(self) -> None:
        while (data := await self._call.read()) is not grpc.aio.EOF:
            self.line.hear()
            self.is_quiet = False
            if not self.has_answered:
                self.has_answered = True
                self._rotation.hear((), await self._call.initial_metadata())
            response = pb.SubmitTasksResponse.FromString(data)
            for said in response.answers:
                self._settle(said.number, said)
            for finished in response.finished:
                self._settle(finished.number, finished)

    def _settle(self, number: int, what: object) -> None:
        answer = self._waiting.pop(number, None)
        if answer is not None and not answer.done():
            answer.set_result(what)
