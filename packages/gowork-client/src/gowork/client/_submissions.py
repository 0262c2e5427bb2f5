"""What both clients know of the stream that carries tasks which are scheduled, and waited for, one by one."""

from __future__ import annotations

import time
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from gowork.base.telemetry import is_traced
from gowork.client._channels import Line
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb

SUBMIT_TASKS = "/scheduler.v1.SchedulerService/SubmitTasks"
#: How many submissions one message carries at most, and how many bytes one may have. A larger one is a call of its own.
FRAME_SUBMISSIONS_MAX = 64
SUBMISSION_BYTES_MAX = 32 << 10
#: A stream that has carried nothing for this long is ended, in seconds.
IDLE_SECONDS = 10.0
#: How long an answer may take, in seconds. Then the stream is given up: a proxy may hold it to a leader that does
#: nothing, where calls would go to another one.
ANSWER_SECONDS = 5.0
#: For how long no stream is opened to an address after one has failed there, in seconds.
AVOIDED_SECONDS = 10.0
#: The shortest timeout, in seconds, because in some places gRPC takes a timeout of 0 to mean none.
_TIMEOUT_S_MIN = 0.001

#: {number: code}, of what refusals may have
_CODES = {code.value[0]: code for code in grpc.StatusCode if code is not grpc.StatusCode.OK}
ChannelT = TypeVar("ChannelT")


class StreamEnded(Exception):
    """The stream ended before it answered a submission, which may have been recorded, or a wait."""


class SubmissionFailed(grpc.RpcError):
    """A submission or a wait was refused, or its answer came too late. It is as the error of a call of its own."""

    def __init__(self, code: grpc.StatusCode, details: str, trailing: tuple[tuple[str, bytes], ...] = ()) -> None:
        super().__init__(details)
        self._code, self._details, self._trailing = code, details, trailing

    @classmethod
    def of(cls, refusal: bytes) -> SubmissionFailed:
        """Makes the error of a serialized google.rpc.Status; that of an unknown one if it is none."""
        try:
            status = status_pb2.Status.FromString(refusal)
        except DecodeError:
            return cls(grpc.StatusCode.UNKNOWN, "the leader refuses the call, and its words can't be read")
        code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
        return cls(code, status.message, (("grpc-status-details-bin", refusal),))

    @classmethod
    def late(cls) -> SubmissionFailed:
        """Makes the error of what was not answered in time."""
        return cls(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")

    def code(self) -> grpc.StatusCode:
        """See grpc.Call."""
        return self._code

    def details(self) -> str:
        """See grpc.Call."""
        return self._details

    def trailing_metadata(self) -> Any:
        """See grpc.Call."""
        return self._trailing


class Choice(Generic[ChannelT]):
    """Chooses how a task is submitted: by a call of its own, or over a stream. Threads may share it."""

    def __init__(self) -> None:
        #: The line on which a call of its own was answered last. A program that schedules one task opens no stream.
        self._called: Line[ChannelT] | None = None
        #: On which line a stream has failed, and until when none is opened there, in monotonic seconds.
        self._failed: tuple[Line[ChannelT], float] | None = None

    def streams(self, line: Line[ChannelT], request: pb.ScheduleTaskRequest) -> bool:
        """Whether to submit this over a stream on this line."""
        if self._called is not line or is_traced() or request.ByteSize() > SUBMISSION_BYTES_MAX:
            # Where calls are traced, each has a span of its own.
            return False
        failed = self._failed
        return failed is None or failed[0] is not line or time.monotonic() >= failed[1]

    def succeed(self, line: Line[ChannelT]) -> None:
        """Notes that a call of its own was answered on this line."""
        self._called = line

    def fail(self, line: Line[ChannelT]) -> None:
        """Notes that a stream on this line has failed."""
        self._failed = line, time.monotonic() + AVOIDED_SECONDS


def scheduled_of(said: pb.SubmissionAnswer) -> pb.ScheduleTaskResponse:
    """Returns what a call of ScheduleTask would have answered.

    Raises:
        SubmissionFailed: the task was refused.
    """
    if said.HasField("refusal"):
        raise SubmissionFailed.of(said.refusal)
    return pb.ScheduleTaskResponse(holder_id=said.holder_id)


def finished_of(said: pb.SubmissionWaitAnswer) -> pb.WaitTaskResponse | None:
    """Returns the finished task of an answer; None: it is to be called for.

    Raises:
        SubmissionFailed: the wait was refused.
    """
    if said.HasField("refusal"):
        raise SubmissionFailed.of(said.refusal)
    return pb.WaitTaskResponse(task=said.task) if said.HasField("task") else None


def left_of(end: float) -> float:
    """Returns the timeout of a call that may last until `end`, in monotonic seconds."""
    return max(end - time.monotonic(), _TIMEOUT_S_MIN)
