"""Completions by columns, from a worker's frame: checks them, and translates them into the core's values.

No row has an object of its own here, because that would cost the leader more than all else that it does with a row.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from gowork.base.trace_context import is_traceparent
from gowork.leader._core import commands as cmd
from gowork.proto import limits
from gowork.proto.status import FieldViolation, invalid
from gowork.proto.worker.v1 import session_pb2

#: A result with fewer characters than this breaks no limit, even if each of them is escaped.
SHORT_RESULT_CHARS = limits.PAYLOAD_BYTES_MAX // 8


def check_lengths(frame: session_pb2.ConnectRequest) -> None:
    """Checks how much a frame has, because an empty message takes two bytes, and up to 70 µs of the leader's time.

    Raises:
        Refusal: INVALID_ARGUMENT: it has more than the limits of `ConnectRequest` allow.
    """
    reports, completions = len(frame.reports), frame.completions
    if completions:
        if len(completions) > limits.FRAME_COMPLETIONS_MAX:
            told = (
                f"has {len(completions)} messages; the limit is {limits.FRAME_COMPLETIONS_MAX}; put more rows into each"
            )
            raise invalid([FieldViolation("completions", told)])
        for columns in completions:
            reports += len(columns.ids)
    _check("reports", reports, "reports, with the rows of completions")
    _check("progress", len(frame.progress), "messages")


def _check(field: str, number: int, what: str) -> None:
    if number > limits.FRAME_REPORTS_MAX:
        told = f"has {number} {what}; the limit is {limits.FRAME_REPORTS_MAX}; send the rest in another frame"
        raise invalid([FieldViolation(field, told)])


def completions_from(message: session_pb2.Completions, number: int) -> cmd.Completions | None:
    """Returns columns; None when a result is so long that each must be looked at, as a report's is.

    Args:
        message: the columns, all of which must have the same length.
        number: the message's place in its frame, for the error.

    Raises:
        Refusal: INVALID_ARGUMENT: a column is longer or shorter than the ids, or there are too many of these.
    """
    ids, fences, execution_us = list(message.ids), list(message.fences), list(message.execution_us)
    results: Sequence[str] = list(message.results)
    data: Sequence[bytes] = list(message.result_data)
    traces: Sequence[str] = list(message.traceparents)
    count = len(ids)
    if count > limits.COMPLETIONS_ROWS_MAX:
        told = f"has {count} rows; the limit is {limits.COMPLETIONS_ROWS_MAX}; send the rest in another message"
        raise invalid([FieldViolation(f"completions[{number}].ids", told)])
    results = results or [""] * count
    data = data or [b""] * count
    traces = traces or [""] * count
    if not (len(fences) == len(execution_us) == len(results) == len(data) == len(traces) == count):
        columns: dict[str, Collection[object]] = {
            "fences": fences,
            "execution_us": execution_us,
            "results": results,
            "result_data": data,
            "traceparents": traces,
        }
        name = next(name for name, column in columns.items() if len(column) != count)
        told = f"has {len(columns[name])} rows, and ids has {count}; send as many of each"
        raise invalid([FieldViolation(f"completions[{number}].{name}", told)])
    if max(map(len, results), default=0) >= SHORT_RESULT_CHARS or max(map(len, data), default=0) >= SHORT_RESULT_CHARS:
        return None
    if any(traces):
        traces = [trace if is_traceparent(trace) else "" for trace in traces]
    return cmd.Completions(ids, fences, execution_us, results, data, traces)
