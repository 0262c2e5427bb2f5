"""Completions by columns (worker.v1.Completions), row by row."""

from __future__ import annotations

from gowork.proto.scheduler.v1.scheduler_pb2 import ATTEMPT_OUTCOME_COMPLETED
from gowork.proto.worker.v1.session_pb2 import Completions, Report


def reports_of(columns: Completions) -> list[Report]:
    """Returns a report for each row.

    Raises:
        ValueError: the columns differ in length.
    """
    count = len(columns.ids)
    return [
        Report(
            fence=fence,
            id=id,
            outcome=ATTEMPT_OUTCOME_COMPLETED,
            result=result,
            result_data=data,
            execution_us=execution_us,
            traceparent=trace,
        )
        for id, fence, execution_us, result, data, trace in zip(
            columns.ids,
            columns.fences,
            columns.execution_us,
            columns.results or [""] * count,
            columns.result_data or [b""] * count,
            columns.traceparents or [""] * count,
            strict=True,
        )
    ]
