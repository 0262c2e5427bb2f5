"""Reports by columns: many plain completions as one message (worker.v1.Completions).

A runner packs them. The supervisor passes the message on as it came, because an object for each row would cost it more
than all else that it does with a report.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from gowork.proto import limits
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._runner.completion import AttemptReport, Completion

#: Fewer completions than these travel as reports: below some twelve rows the columns cost runner, supervisor and leader
#: more than what they save.
ROWS_MIN = 16


class ColumnsError(Exception):
    """The columns of a message have different lengths."""


def pack(
    reports: Sequence[AttemptReport], rows_min: int = ROWS_MIN
) -> tuple[list[session.Report], session.Completions | None]:
    """Returns the reports that must stay such, and the rest by columns; None when there are too few of these.

    Args:
        reports: as many as one message takes at most.
        rows_min: how many rows are no few.
    """
    plain = [report for report in reports if isinstance(report, Completion)]
    if len(plain) < rows_min:
        return [report.message() if isinstance(report, Completion) else report for report in reports], None
    others: list[session.Report] = []
    if len(plain) < len(reports):
        others = [report for report in reports if not isinstance(report, Completion)]
    columns = session.Completions(
        ids=[report.id for report in plain],
        fences=[report.fence for report in plain],
        execution_us=[report.execution_us for report in plain],
    )
    results = [report.result for report in plain]
    if any(results):
        columns.results.extend(results)
    if not all(results):
        columns.result_data.extend([report.result_data for report in plain])
    traces = [report.traceparent for report in plain]
    if any(traces):
        columns.traceparents.extend(traces)
    return others, columns


def check(columns: session.Completions) -> session.Completions:
    """Returns columns from a runner, whose handlers may write to any descriptor.

    Raises:
        ColumnsError: when one has another length than the ids.
    """
    rows = len(columns.ids)
    if len(columns.fences) == len(columns.execution_us) == rows and all(
        len(column) in (0, rows) for column in (columns.results, columns.result_data, columns.traceparents)
    ):
        return columns
    raise ColumnsError("the columns of its reports differ in length")


def without(columns: session.Completions, dropped: Iterable[int]) -> session.Completions:
    """Returns the columns without these rows, which are counted from 0."""
    left = sorted(set(range(len(columns.ids))).difference(dropped))
    return session.Completions(
        ids=[columns.ids[row] for row in left],
        fences=[columns.fences[row] for row in left],
        execution_us=[columns.execution_us[row] for row in left],
        results=[columns.results[row] for row in left] if columns.results else None,
        result_data=[columns.result_data[row] for row in left] if columns.result_data else None,
        traceparents=[columns.traceparents[row] for row in left] if columns.traceparents else None,
    )


def join(parts: Iterable[session.Completions], into: Any) -> None:
    """Adds the rows of all these to a frame: in as few messages as their optional columns allow, since each costs the
    leader something.

    Args:
        parts: messages of columns.
        into: the field of the frame.
    """
    #: {which optional columns there are: (the message that takes them, its rows)}
    taking: dict[tuple[bool, bool, bool], tuple[session.Completions, int]] = {}
    for part in parts:
        shape = (bool(part.results), bool(part.result_data), bool(part.traceparents))
        rows = len(part.fences)
        message, taken = taking.get(shape) or (into.add(), 0)
        if taken + rows > limits.COMPLETIONS_ROWS_MAX:
            message, taken = into.add(), 0
        message.MergeFrom(part)
        taking[shape] = (message, taken + rows)
