"""Which queues some worker is reserved for. A worker that names queues takes their tasks alone; the others take any.

Tasks of all queues that no worker names can be run by the same workers. So rankings, which are kept for each need, are
told apart by the queues that workers name, and not by all that there are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol

#: In place of the name of a queue that no worker names. No queue has this name.
UNNAMED = ""
#: How many queues of a worker are told to people.
_TOLD_MAX = 3


class _Worker(Protocol):
    queues: frozenset[str]


class Reserved:
    """How many workers name each queue. Only `apply` changes it."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        #: {queue: how many workers name it}
        self._counts: dict[str, int] = {}

    def add(self, worker: _Worker) -> None:
        """Counts the queues that a worker names now."""
        for queue in worker.queues:
            self._counts[queue] = self._counts.get(queue, 0) + 1

    def remove(self, worker: _Worker) -> None:
        """Takes back what `add` counted for this worker. Its queues must not have changed since."""
        for queue in worker.queues:
            self._counts[queue] -= 1
            if not self._counts[queue]:
                del self._counts[queue]

    def need_of(self, queue: str) -> str:
        """Returns the queue, or UNNAMED when no worker names it."""
        return queue if queue in self._counts else UNNAMED


def told(queues: Collection[str]) -> str:
    """Names queues for people, as in "'a', 'b' and 3 more"."""
    named: Iterable[str] = sorted(queues)[:_TOLD_MAX]
    more = f" and {len(queues) - _TOLD_MAX} more" if len(queues) > _TOLD_MAX else ""
    return f"{', '.join(map(repr, named))}{more}"
