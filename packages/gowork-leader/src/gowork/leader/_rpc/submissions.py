"""Serves SubmitTasks: many calls of ScheduleTask over one stream.

Each submission passes through the same checks as a call of its own. A refusal ends the submission and not its stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NoReturn, TypeAlias, cast

import grpc

from gowork.base.decoding import Called, Timed
from gowork.leader._rpc.boundary import refusing
from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.status import FieldViolation, invalid

SUBMIT_TASKS = "scheduler.v1.SchedulerService/SubmitTasks"
SCHEDULE_TASK = "scheduler.v1.SchedulerService/ScheduleTask"
#: How many submissions of one stream may wait to be recorded, or for their answers to be read. While as many do, no
#: further one is begun, and the stream is not read.
SUBMISSIONS_MAX = 1_000

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class Submissions:
    """Serves the streams of one port.

    Args:
        schedule: answers ScheduleTask, with all that comes before it.
        called: called when a submission is answered, as for a call of ScheduleTask.
    """

    def __init__(self, schedule: Any, called: Called) -> None:
        self._schedule = schedule
        self._called = called
        self._streams: set[_Stream] = set()

    async def serve(
        self, requests: AsyncIterator[pb.SubmitTasksRequest], context: _Context
    ) -> AsyncIterator[pb.SubmitTasksResponse]:
        """Answers one stream."""
        stream = _Stream(self._schedule, self._called, context)
        self._streams.add(stream)
        try:
            async with refusing(context):
                stream.begin(requests)
                while answers := await stream.take():
                    yield pb.SubmitTasksResponse(answers=answers)
        finally:
            self._streams.discard(stream)
            await stream.close()

    def end(self) -> None:
        """Reads nothing more from the streams. Each ends when what was read of it is answered."""
        for stream in self._streams:
            stream.end()


class _Stream:
    """One stream: what was read of it, and which answers have not left."""

    def __init__(self, schedule: Any, called: Called, context: _Context) -> None:
        self._schedule = schedule
        self._called = called
        self._context = context
        #: {number: the asyncio task that has the submission recorded}
        self._under_way: dict[int, asyncio.Task[None]] = {}
        self._answers: list[pb.SubmissionAnswer] = []
        #: Set when there are answers, or when nothing more is read.
        self._news = asyncio.Event()
        #: Set when answers have been taken.
        self._taken = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    def begin(self, requests: AsyncIterator[pb.SubmitTasksRequest]) -> None:
        """Reads from now on."""
        self._reader = asyncio.create_task(self._read(requests), name="submissions")
        self._reader.add_done_callback(lambda _: self._news.set())

    async def take(self) -> list[pb.SubmissionAnswer]:
        """Waits for answers and returns them; none when nothing is read any more and all is answered.

        Raises:
            Refusal: a request is at fault. Nothing more is read.
        """
        reader = self._reader
        assert reader is not None
        while not self._answers:
            if reader.done() and not self._under_way:
                if not reader.cancelled():
                    reader.result()
                return []
            await self._news.wait()
            self._news.clear()
        answers, self._answers = self._answers, []
        self._taken.set()
        return answers

    def end(self) -> None:
        """Reads nothing more."""
        if self._reader is not None:
            self._reader.cancel()

    async def close(self) -> None:
        """Ends what is left of the stream. A task that the engine has taken is recorded all the same."""
        tasks = [*self._under_way.values(), *([self._reader] if self._reader is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[pb.SubmitTasksRequest]) -> None:
        async for request in requests:
            await self._begin_each(request)
            # Freed before the wait for the next one.
            del request

    async def _begin_each(self, request: pb.SubmitTasksRequest) -> None:
        size = request.ByteSize()
        if size > limits.BATCH_BYTES_MAX:
            message = f"has {size} bytes; the limit is {limits.BATCH_BYTES_MAX} in one message"
            raise invalid([FieldViolation("submissions", message)])
        for place, submission in enumerate(request.submissions):
            number = submission.number
            if number in self._under_way:
                message = f"is {number}, which another submission has that waits for its answer"
                raise invalid([FieldViolation(f"submissions[{place}].number", message)])
            self._under_way[number] = asyncio.create_task(self._answer(number, submission.call))
            # One message may carry hundreds of thousands, and sessions share the event loop.
            while len(self._under_way) + len(self._answers) >= SUBMISSIONS_MAX:
                self._taken.clear()
                await self._taken.wait()

    async def _answer(self, number: int, request: pb.ScheduleTaskRequest) -> None:
        answer, call = pb.SubmissionAnswer(number=number), _Call(self._context)
        try:
            with Timed(SCHEDULE_TASK, self._called, cast("grpc.aio.ServicerContext[Any, Any]", call)):
                await self._schedule(request, call)
        except grpc.aio.AbortError:
            answer.refusal = call.refusal
        finally:
            del self._under_way[number]
        self._answers.append(answer)
        self._news.set()


class _Call:
    """The context of one submission: that of its stream, except that `abort` ends the submission alone."""

    def __init__(self, stream: _Context) -> None:
        self._stream = stream
        self._code: grpc.StatusCode | None = None
        #: With what the submission was refused: a serialized google.rpc.Status.
        self.refusal = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def code(self) -> grpc.StatusCode | None:
        """See grpc.aio.ServicerContext."""
        return self._code

    async def abort(self, code: grpc.StatusCode, details: str, trailing_metadata: Any) -> NoReturn:
        """See grpc.aio.ServicerContext. `proto.status.abort` puts the whole refusal into the metadata."""
        ((_, self.refusal),) = trailing_metadata
        self._code = code
        raise grpc.aio.AbortError(details)
