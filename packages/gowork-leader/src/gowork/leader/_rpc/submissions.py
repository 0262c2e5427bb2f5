"""Serves SubmitTasks: many calls of ScheduleTask and WaitTask over one stream.

Each submission and each wait passes through the same checks as a call of its own. A refusal ends it and not its stream.
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
WAIT_TASK = "scheduler.v1.SchedulerService/WaitTask"
#: How many submissions of one stream may wait to be recorded, or for their answers to be read. While as many do, no
#: further one is begun, and the stream is not read.
SUBMISSIONS_MAX = 1_000
#: How many waits may be open on one stream, and on all streams. Further ones are to be calls of their own.
WAITS_MAX = 1_000
WAITS_OF_ALL_MAX = 10_000
#: How many bytes a finished task may have that is answered on a stream, and how many those may have together that wait
#: to be sent. Larger ones are to be called for.
TASK_BYTES_MAX = 32 << 10
TASKS_BYTES_MAX = 256 << 10

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class Submissions:
    """Serves the streams of one port.

    Args:
        schedule: answers ScheduleTask, with all that comes before it.
        wait: the same for WaitTask.
        called: called when a submission or a wait is answered, as for a call of its own.
        waits: counts the waits on all streams of the leader.
    """

    def __init__(self, schedule: Any, wait: Any, called: Called, waits: OpenWaits) -> None:
        self._schedule = schedule
        self._wait = wait
        self._called = called
        self._waits = waits
        self._streams: set[_Stream] = set()

    async def serve(
        self, requests: AsyncIterator[pb.SubmitTasksRequest], context: _Context
    ) -> AsyncIterator[pb.SubmitTasksResponse]:
        """Answers one stream."""
        stream = _Stream(self._schedule, self._wait, self._called, self._waits, context)
        self._streams.add(stream)
        try:
            async with refusing(context):
                stream.begin(requests)
                while (response := await stream.take()) is not None:
                    yield response
        finally:
            self._streams.discard(stream)
            await stream.close()

    def end(self) -> None:
        """Reads nothing more from the streams, and ends waits. Each ends when the submissions on it are answered."""
        for stream in self._streams:
            stream.end()


class OpenWaits:
    """How many waits are open on all streams."""

    def __init__(self) -> None:
        self.number = 0


class _Stream:
    """One stream: what was read of it, and which answers have not left."""

    def __init__(self, schedule: Any, wait: Any, called: Called, waits_of_all: OpenWaits, context: _Context) -> None:
        self._schedule = schedule
        self._wait = wait
        self._called = called
        self._waits_of_all = waits_of_all
        self._context = context
        #: {number: the asyncio task that has the submission recorded}
        self._under_way: dict[int, asyncio.Task[None]] = {}
        #: {number: the asyncio task that waits}
        self._waits: dict[int, asyncio.Task[None]] = {}
        self._answers: list[pb.SubmissionAnswer] = []
        self._finished: list[pb.SubmissionWaitAnswer] = []
        #: How many bytes the tasks in `_finished` have.
        self._finished_bytes = 0
        #: Set when there are answers, or when nothing more is read.
        self._news = asyncio.Event()
        #: Set when answers have been taken.
        self._taken = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    def begin(self, requests: AsyncIterator[pb.SubmitTasksRequest]) -> None:
        """Reads from now on."""
        self._reader = asyncio.create_task(self._read(requests), name="submissions")
        self._reader.add_done_callback(lambda _: self._news.set())

    async def take(self) -> pb.SubmitTasksResponse | None:
        """Waits for answers and returns them; None when nothing is read any more and all is answered.

        Raises:
            Refusal: a request is at fault. Nothing more is read.
        """
        reader = self._reader
        assert reader is not None
        while not self._answers and not self._finished:
            if reader.done() and not self._under_way and not self._waits:
                if not reader.cancelled():
                    reader.result()
                return None
            await self._news.wait()
            self._news.clear()
        response = pb.SubmitTasksResponse(answers=self._answers, finished=self._finished)
        self._answers, self._finished, self._finished_bytes = [], [], 0
        self._taken.set()
        return response

    def end(self) -> None:
        """Reads nothing more, and ends waits."""
        if self._reader is not None:
            self._reader.cancel()
        for task in self._waits.values():
            task.cancel()

    async def close(self) -> None:
        """Ends what is left of the stream. A task that the engine has taken is recorded all the same."""
        reader = [self._reader] if self._reader is not None else []
        tasks = [*self._under_way.values(), *self._waits.values(), *reader]
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
        for number in request.given_up:
            if (waiting := self._waits.get(number)) is not None:
                waiting.cancel()
        for place, wait in enumerate(request.waits):
            self._check_number(wait.number, f"waits[{place}].number")
            if len(self._waits) < WAITS_MAX and self._waits_of_all.number < WAITS_OF_ALL_MAX:
                self._waits_of_all.number += 1
                self._waits[wait.number] = asyncio.create_task(self._finish(wait.number, wait.call))
            else:
                await self._answer_nothing(wait.number)
        for place, submission in enumerate(request.submissions):
            number = submission.number
            self._check_number(number, f"submissions[{place}].number")
            self._under_way[number] = asyncio.create_task(self._answer(number, submission.call))
            await self._have_room()

    def _check_number(self, number: int, field: str) -> None:
        if number in self._under_way or number in self._waits:
            message = f"is {number}, which another submission or wait has that is unanswered"
            raise invalid([FieldViolation(field, message)])

    async def _have_room(self) -> None:
        """Waits while much is unanswered. One message may carry hundreds of thousands, and sessions share the loop."""
        while len(self._under_way) + len(self._answers) + len(self._finished) >= SUBMISSIONS_MAX:
            self._taken.clear()
            await self._taken.wait()

    async def _answer_nothing(self, number: int) -> None:
        self._finished.append(pb.SubmissionWaitAnswer(number=number))
        self._news.set()
        await self._have_room()

    async def _answer(self, number: int, request: pb.ScheduleTaskRequest) -> None:
        answer, call = pb.SubmissionAnswer(number=number), _Call(self._context)
        try:
            with Timed(SCHEDULE_TASK, self._called, cast("grpc.aio.ServicerContext[Any, Any]", call)):
                answer.holder_id = (await self._schedule(request, call)).holder_id
        except grpc.aio.AbortError:
            answer.refusal = call.refusal
        finally:
            del self._under_way[number]
        self._answers.append(answer)
        self._news.set()

    async def _finish(self, number: int, request: pb.WaitTaskRequest) -> None:
        answer, call = pb.SubmissionWaitAnswer(number=number), _Call(self._context)
        try:
            with Timed(WAIT_TASK, self._called, cast("grpc.aio.ServicerContext[Any, Any]", call)):
                task = (await self._wait(request, call)).task
            size = task.ByteSize()
            if size <= TASK_BYTES_MAX and self._finished_bytes + size <= TASKS_BYTES_MAX:
                answer.task.CopyFrom(task)
                self._finished_bytes += size
        except grpc.aio.AbortError:
            answer.refusal = call.refusal
        finally:
            del self._waits[number]
            self._waits_of_all.number -= 1
            # One that is given up may be what the end of the stream waits for.
            self._news.set()
        self._finished.append(answer)


class _Call:
    """The context of one submission or wait: that of its stream, except that `abort` ends nothing else."""

    def __init__(self, stream: _Context) -> None:
        self._stream = stream
        self._code: grpc.StatusCode | None = None
        #: With what it was refused: a serialized google.rpc.Status.
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
