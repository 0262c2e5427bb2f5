"""What the supervisor counts, for whoever shows it. Written on the loop, read from any thread."""

from __future__ import annotations

from collections.abc import Iterable

from gowork.rpc.buckets import Buckets
from gowork.worker._runner.messages import EXECUTION_BUCKETS, ExecutedRow

#: Upper bounds in seconds.
LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Measures:
    """Counted since the worker started: they outlive the runners."""

    def __init__(self) -> None:
        #: How long runners took to answer a ping.
        self.lag = Buckets(LAG_BUCKETS)
        #: (queue, handler, status) -> how long attempts took
        self.executions: dict[tuple[str, str, str], Buckets] = {}
        #: Runners that ended without being told to.
        self.runners_lost = 0

    def executed(self, rows: Iterable[ExecutedRow]) -> None:
        """Adds what a runner has counted."""
        for row in rows:
            key = (row.queue, row.handler, row.status)
            buckets = self.executions.get(key)
            if buckets is None:
                buckets = self.executions[key] = Buckets(EXECUTION_BUCKETS)
            for index, count in enumerate(row.counts):
                buckets.counts[index] += count
            buckets.total += row.seconds
