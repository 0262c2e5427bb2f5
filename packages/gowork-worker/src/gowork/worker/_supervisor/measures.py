"""What the supervisor counts, for metrics. Written on the loop, read from any thread.

The first queues and handlers have counts of their own, up to a bound. Later ones are counted together as `other`, so
that neither memory nor a scrape grows with the names that clients give their queues.
"""

from __future__ import annotations

from collections.abc import Iterable

from gowork.base.buckets import Buckets, Exemplar
from gowork.worker._runner.messages import EXECUTION_BUCKETS, ExecutedRow

#: Upper bounds in seconds.
LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
#: The most queues, and the most handlers, with series of their own.
QUEUES_MAX = 100
HANDLERS_MAX = 100
#: The most combinations of queue, handler and status with series of their own. Each is a dozen lines of the page. Later
#: ones are counted with `other` as queue and as handler.
EXECUTIONS_MAX = 2000
OTHER = "other"


class Measures:
    """Counts since the worker started. They outlive the runners."""

    def __init__(self) -> None:
        #: Seconds that runners took to answer a ping.
        self.lag = Buckets(LAG_BUCKETS)
        #: {(queue, handler, status): seconds that attempts took}
        self.executions: dict[tuple[str, str, str], Buckets] = {}
        self._queues: set[str] = set()
        self._handlers: set[str] = set()
        #: How many runners have ended without being told to stop. Written by `notes`.
        self.runners_lost = 0

    def executed(self, rows: Iterable[ExecutedRow]) -> None:
        """Adds what a runner has counted."""
        for row in rows:
            buckets = self._buckets_of(
                _capped(row.queue, self._queues, QUEUES_MAX),
                _capped(row.handler, self._handlers, HANDLERS_MAX),
                row.status,
            )
            for index, count in enumerate(row.counts):
                buckets.counts[index] += count
            buckets.total += row.seconds
            for traced in row.exemplars:
                buckets.exemplars[traced.bucket] = Exemplar(traced.trace_id, traced.seconds, traced.at)

    def _buckets_of(self, queue: str, handler: str, status: str) -> Buckets:
        key = (queue, handler, status)
        buckets = self.executions.get(key)
        if buckets is None and len(self.executions) >= EXECUTIONS_MAX:
            key = (OTHER, OTHER, status)
            buckets = self.executions.get(key)
        if buckets is None:
            buckets = self.executions[key] = Buckets(EXECUTION_BUCKETS)
        return buckets


def _capped(value: str, known: set[str], most: int) -> str:
    """Returns the value if it is among the first `most`, else `OTHER`."""
    if value not in known:
        if len(known) >= most:
            return OTHER
        known.add(value)
    return value
