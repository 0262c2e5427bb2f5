"""Computes rates and latencies from the differences between a leader's counts at two times."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gowork.client import Activity, QueueCounts

_NOTHING = QueueCounts(0, 0, 0, 0, ())


@dataclass(frozen=True, slots=True)
class Flow:
    """The rates of tasks that were submitted, finished and started over a length of time."""

    #: Submitted tasks per second.
    submitted: float
    #: Tasks per second that ended with any status, and tasks per second that ended with ERROR.
    finished: float
    failed: float
    #: How long tasks waited from when they could run until they were started, in seconds; None when none was started.
    start_p50: float | None
    start_p99: float | None


class History:
    """The responses of the last seconds, all of one term. Rates are computed over all of them, for smoothness."""

    def __init__(self, window: float) -> None:
        """`window` is the length of time that it keeps, in seconds. It always keeps the last two responses."""
        self._window = window
        self._answers: deque[Activity] = deque()

    def add(self, answer: Activity) -> None:
        """Adds the latest response. It drops all earlier ones if they are of another term, or had a longer uptime."""
        answers = self._answers
        if answers and (answers[-1].term != answer.term or answers[-1].uptime > answer.uptime):
            answers.clear()
        answers.append(answer)
        while len(answers) > 2 and answers[1].uptime <= answer.uptime - self._window:
            answers.popleft()

    def flows(self) -> tuple[dict[str, Flow], Flow | None]:
        """Returns {queue: flow} for the queues of the latest response, and the flow of all queues together.

        A queue has no flow when its earlier counts are not known. All queues together have none before the second
        response.
        """
        if len(self._answers) < 2 or self._answers[-1].uptime <= self._answers[0].uptime:
            return {}, None
        before, latest = self._answers[0], self._answers[-1]
        known = {row.queue.name: row.counts or _NOTHING for row in before.queues}
        # If the earlier response left queues out, a queue that is new in the latest one may be an old one.
        cut = before.queues_total > len(before.queues)
        passed = {
            row.queue.name: since(row.counts, known.get(row.queue.name, _NOTHING))
            for row in latest.queues
            if row.counts is not None and (row.queue.name in known or not cut)
        }
        others = since(latest.other_counts, before.other_counts)
        flows = {name: self._flow([counts], before) for name, counts in passed.items()}
        return flows, self._flow([*passed.values(), others], before)

    def _flow(self, passed: Sequence[QueueCounts], before: Activity) -> Flow:
        latest = self._answers[-1]
        seconds = latest.uptime - before.uptime
        starts = summed(counts.start_counts for counts in passed)
        return Flow(
            submitted=sum(counts.submitted for counts in passed) / seconds,
            finished=sum(counts.completed + counts.cancelled + counts.failed for counts in passed) / seconds,
            failed=sum(counts.failed for counts in passed) / seconds,
            start_p50=quantile(0.5, starts, latest.start_bounds),
            start_p99=quantile(0.99, starts, latest.start_bounds),
        )


def since(latest: QueueCounts, before: QueueCounts) -> QueueCounts:
    """Returns the counts between two responses. If a count is lower than before, all have begun again at zero."""
    starts = summed([latest.start_counts, [-count for count in before.start_counts]])
    passed = QueueCounts(
        latest.submitted - before.submitted,
        latest.completed - before.completed,
        latest.cancelled - before.cancelled,
        latest.failed - before.failed,
        tuple(starts),
    )
    lowest = min(passed.submitted, passed.completed, passed.cancelled, passed.failed, *starts)
    return latest if lowest < 0 else passed


def summed(rows: Iterable[Sequence[int]]) -> list[int]:
    """Returns the sums of the rows by place. A shorter row counts as if zeros followed it."""
    sums: list[int] = []
    for row in rows:
        sums += [0] * (len(row) - len(sums))
        for place, number in enumerate(row):
            sums[place] += number
    return sums


def quantile(share: float, counts: Sequence[int], bounds: Sequence[float]) -> float | None:
    """Estimates the value below which a share of all values lies, as Prometheus' histogram_quantile does.

    Args:
        share: 0 to 1.
        counts: how many values are in each interval; one number more than there are bounds.
        bounds: the upper bounds of the intervals, ascending. The first interval begins at 0, the last has no bound.

    Returns:
        The value; None when there are no values, the last bound when the value is above it.
    """
    total = sum(counts)
    if not total:
        return None
    rank, below, lower = share * total, 0, 0.0
    for count, upper in zip(counts, bounds, strict=False):
        if count and below + count >= rank:
            return lower + (upper - lower) * (rank - below) / count
        below, lower = below + count, upper
    return lower
