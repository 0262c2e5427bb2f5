"""What is reported of nearly every attempt: that it has completed, with a result."""

from __future__ import annotations

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session


class Completion:
    """A plain completion: with a result, and without follow-ups. Its fields are those of worker.v1.Report.

    It is no message, because to make one, to fill it and to read it again costs as much as to run a short handler, and
    most completions leave as a row of worker.v1.Completions.
    """

    __slots__ = ("execution_us", "fence", "id", "result", "result_data", "traceparent")

    outcome = tasks.ATTEMPT_OUTCOME_COMPLETED
    follow_ups: tuple[()] = ()

    def __init__(self, fence: int, id: str, result: str, result_data: bytes) -> None:
        """Of the result, one form is empty."""
        self.fence = fence
        self.id = id
        self.result = result
        self.result_data = result_data
        self.execution_us = 0
        self.traceparent = ""

    def ByteSize(self) -> int:  # noqa: N802 - as a message has it
        """How many bytes the message takes, or up to 50 more."""
        id, result = self.id, self.result
        size = len(id) + len(result) if id.isascii() and result.isascii() else len(id.encode()) + len(result.encode())
        if self.result_data:
            size += len(self.result_data)
        if self.traceparent:
            size += len(self.traceparent)
        return size + 45

    def message(self) -> session.Report:
        """Returns it as a message."""
        report = session.Report(
            fence=self.fence,
            id=self.id,
            outcome=self.outcome,
            execution_us=self.execution_us,
            traceparent=self.traceparent,
        )
        if self.result:
            report.result = self.result
        else:
            report.result_data = self.result_data
        return report


#: How an attempt has ended.
AttemptReport = session.Report | Completion
