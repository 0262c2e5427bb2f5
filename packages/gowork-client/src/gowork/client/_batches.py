"""Gathers tasks into batches for ScheduleTasks, and finds the place of a task that an error names.

A batch holds serialized requests of one task each. Concatenated, they are the request of all of them, because the
message has only repeated fields. So the batch's size is known exactly, nothing is serialized twice, and a repeated call
sends the same bytes.
"""

from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from gowork.base.telemetry import is_traced
from gowork.client._calls import CallSettings
from gowork.client.errors import CallError, FieldViolation
from gowork.proto import limits

if TYPE_CHECKING:
    from gowork.client._spans import BatchSpan

#: The reason with which a leader refuses a task that comes after one that it does not know.
UPSTREAM_UNKNOWN = "UPSTREAM_UNKNOWN"
#: How many batches of one schedule_many may be sent and not acknowledged yet.
BATCHES_IN_FLIGHT_MAX = 4
#: The age at which a batch is sent though it is not full, in seconds, so that tasks of a slow source do not wait.
BATCH_AGE_S = 0.02
#: Room in a batch for a trace context and its framing, in bytes.
_CONTEXT_BYTES = limits.TRACEPARENT_BYTES_MAX + limits.TRACESTATE_BYTES_MAX + 8
_BYTES_MAX = limits.BATCH_BYTES_MAX - _CONTEXT_BYTES

_PLACE = re.compile(r"\btasks\[(\d+)\]")


class Batch:
    """Tasks that go into one call."""

    __slots__ = ("_parts", "_size", "due", "first", "holder_ids", "ids")

    def __init__(self, first: int) -> None:
        #: The place of its first task among all tasks of the schedule_many, from 0.
        self.first = first
        self.ids: list[str] = []
        #: {place in the batch: the id of the task that has the unique key of that one}, when it is acknowledged
        self.holder_ids: Mapping[int, str] = {}
        self._parts: list[bytes] = []
        self._size = 0
        #: From when on it should be sent, full or not, on the monotonic clock.
        self.due = math.inf

    def add(self, id: str, entry: bytes) -> bool:
        """Adds one task, in the form of TaskEncoder.entry. Returns False when the batch has no room for it."""
        size = self._size + len(entry)
        if not self.ids:
            self.due = time.monotonic() + BATCH_AGE_S
        elif len(self.ids) >= limits.BATCH_TASKS_MAX or size > _BYTES_MAX:
            return False
        self.ids.append(id)
        self._parts.append(entry)
        self._size = size
        return True

    def holders(self) -> Iterable[str]:
        """Returns for each task, in order, the id of the task that has its unique key; empty where none has."""
        if not self.holder_ids:
            return itertools.repeat("", len(self.ids))
        return [self.holder_ids.get(place, "") for place in range(len(self.ids))]

    def next(self) -> Batch:
        """Returns the next batch, empty."""
        return Batch(self.first + len(self.ids))

    def request(self) -> bytes:
        """Returns the serialized ScheduleTasksRequest."""
        return b"".join(self._parts)

    def placed(self, error: CallError) -> CallError:
        """Returns the error with places of tasks counted over all tasks of the schedule_many, not over this batch."""
        if self.first:
            error.violations = tuple(FieldViolation(self._placed(v.field), v.description) for v in error.violations)
            error.args = (self._placed(str(error)),)
        return error

    def _placed(self, text: str) -> str:
        return _PLACE.sub(lambda match: f"tasks[{int(match[1]) + self.first}]", text)


class Filling:
    """The batch that fills, until it is full or BATCH_AGE_S old."""

    def __init__(self) -> None:
        self._batch = Batch(0)

    def add(self, id: str, entry: bytes) -> Batch | None:
        """Adds one task, in the form of TaskEncoder.entry. Returns a batch that is full or old, to be sent."""
        if self._batch.add(id, entry):
            return self.take() if time.monotonic() >= self._batch.due else None
        ready = self.take()
        self._batch.add(id, entry)
        return ready

    def take(self) -> Batch | None:
        """Returns the batch that fills, and begins the next; None when it is empty."""
        if not self._batch.ids:
            return None
        batch = self._batch
        self._batch = batch.next()
        return batch


def span_of(request: bytes, settings: CallSettings) -> BatchSpan | None:
    """Makes the span of a batch that is about to be sent, from its serialized request; None where nothing is traced."""
    if not is_traced():
        return None
    # OpenTelemetry is imported only where it is used.
    from gowork.client._spans import BatchSpan

    return BatchSpan(request, settings)
