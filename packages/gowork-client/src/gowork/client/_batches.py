"""Gathers tasks into batches for ScheduleTasks, and reads back which task of all an error means.

A batch holds serialized requests of one task each: messages with only repeated fields merge by concatenation, so that
its size is known exactly, nothing is serialized twice, and a repeated call sends the same bytes.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from gowork.base.telemetry import is_traced
from gowork.client._calls import CallSettings
from gowork.client.errors import CallError, FieldViolation
from gowork.proto import limits

if TYPE_CHECKING:
    from gowork.client._spans import BatchSpan

#: Batches that are sent and not acknowledged yet, for each schedule_many.
BATCHES_IN_FLIGHT_MAX = 4
#: A batch is sent when it is this old, in seconds, so that tasks of a slow source do not wait for it to fill.
BATCH_AGE_S = 0.02
#: Room in a batch for a trace context and what frames it, in bytes.
_CONTEXT_BYTES = limits.TRACEPARENT_BYTES_MAX + limits.TRACESTATE_BYTES_MAX + 8
_BYTES_MAX = limits.BATCH_BYTES_MAX - _CONTEXT_BYTES

_PLACE = re.compile(r"\btasks\[(\d+)\]")


class Batch:
    """Tasks that go into one call."""

    __slots__ = ("_began", "_parts", "_size", "first", "ids")

    def __init__(self, first: int) -> None:
        #: The place of its first task among all of the same schedule_many.
        self.first = first
        self.ids: list[str] = []
        self._parts: list[bytes] = []
        self._size = 0
        self._began = 0.0

    def add(self, id: str, entry: bytes) -> bool:
        """Adds one task, as TaskEncoder.entry gives it; false when it does not fit beside others."""
        size = self._size + len(entry)
        if not self.ids:
            self._began = time.monotonic()
        elif len(self.ids) >= limits.BATCH_TASKS_MAX or size > _BYTES_MAX:
            return False
        self.ids.append(id)
        self._parts.append(entry)
        self._size = size
        return True

    def is_old(self) -> bool:
        """Whether it should be sent, full or not."""
        return time.monotonic() - self._began >= BATCH_AGE_S

    def next(self) -> Batch:
        """An empty one that follows this one."""
        return Batch(self.first + len(self.ids))

    def request(self) -> bytes:
        """The serialized ScheduleTasksRequest."""
        return b"".join(self._parts)

    def placed(self, error: CallError) -> CallError:
        """The error, with places counted over all tasks of the schedule_many instead of over this batch."""
        if self.first:
            error.violations = tuple(FieldViolation(self._placed(v.field), v.description) for v in error.violations)
            error.args = (self._placed(str(error)),)
        return error

    def _placed(self, text: str) -> str:
        return _PLACE.sub(lambda match: f"tasks[{int(match[1]) + self.first}]", text)


class Filling:
    """The batch that fills, until it is full or old."""

    def __init__(self) -> None:
        self._batch = Batch(0)

    def add(self, id: str, entry: bytes) -> Batch | None:
        """Adds one task, as TaskEncoder.entry gives it. Answers a batch to send, if one is full."""
        if self._batch.add(id, entry):
            return self.take() if self._batch.is_old() else None
        ready = self.take()
        self._batch.add(id, entry)
        return ready

    def take(self) -> Batch | None:
        """What there is; None when there is nothing."""
        if not self._batch.ids:
            return None
        batch = self._batch
        self._batch = batch.next()
        return batch


def span_of(request: bytes, settings: CallSettings) -> BatchSpan | None:
    """The span of a batch that is about to be sent, serialized as it is; None where nothing is traced."""
    if not is_traced():
        return None
    # OpenTelemetry is imported only where it is used.
    from gowork.client._spans import BatchSpan

    return BatchSpan(request, settings)
