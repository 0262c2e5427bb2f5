"""What the supervisor counts, for metrics. Written on the loop, read from any thread.

The first queues and handlers have counts of their own, up to a bound. Later ones are counted together as `other`, so
that neither memory nor a scrape grows with the names that clients give their queues.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

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
#: The most settings with series of their own.
SETTINGS_MAX = 50


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
        #: {setting of runners: how often it was restored after a handler had changed it}
        self.settings_restored: Counter[str] = Counter()

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

    def restored(self, counts: Mapping[str, int]) -> None:
        """Adds how often a runner has restored each setting."""
        for setting, times in counts.items():
            # Their names are few. But what comes from a runner may have been written by a handler.
            known = setting in self.settings_restored or len(self.settings_restored) < SETTINGS_MAX
            self.settings_restored[setting if known else OTHER] += times

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
