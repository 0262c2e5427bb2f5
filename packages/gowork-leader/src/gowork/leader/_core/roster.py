"""Finds the worker to give a task to: of those that have its handler and its labels, the one with the most free slots.

An index, so that a grant costs the same among ten workers and among thousands. `apply` says which workers may take more
than before. That one takes less is found out when it comes up.

Invariant ROSTER: a worker that has room and can run the tasks of a need is in the need's ranking, where one of its
entries claims at least as many free slots as it has; or the news that the ranking has yet to read name it.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gowork.leader._core.state import Worker

#: (handler, selector)
Need = tuple[str, tuple[tuple[str, str], ...]]

#: How many rankings are kept. Before there is one more, all are dropped, and made again as they are asked for.
RANKINGS_MAX = 1_000
#: How many entries a ranking may have, and how many news there may be, for each connected worker and besides. Then a
#: ranking is made again from the workers themselves.
ENTRIES_EACH, ENTRIES_MORE = 2, 64

#: (−free slots, connection, worker). The worker may have fewer by now, or another connection.
Entry = tuple[int, int, "Worker"]


class Ranking:
    """The workers that can run the tasks of one need; None: the tasks of any."""

    __slots__ = ("_connections", "_need", "entries", "read")

    def __init__(self, need: Need | None, connections: Mapping[int, Worker]) -> None:
        self._need = need
        self._connections = connections
        #: A heap. A worker may have several.
        self.entries: list[Entry] = []
        #: How many of the news it has read, with those that were dropped.
        self.read = -1

    def rebuild(self) -> None:
        """Makes it again from the connected workers."""
        self.entries = [entry_of(worker) for worker in self._connections.values() if self._takes(worker)]
        heapq.heapify(self.entries)

    def add(self, worker: Worker) -> None:
        """Puts a worker in, if it may be given anything."""
        if self._takes(worker):
            if len(self.entries) >= ENTRIES_EACH * len(self._connections) + ENTRIES_MORE:
                self.rebuild()
            else:
                heapq.heappush(self.entries, entry_of(worker))

    def best(self) -> Worker | None:
        """Returns the worker with the most free slots of those that have room, first entry; None: there is none."""
        entries = self.entries
        while entries:
            claimed, connection, worker = entries[0]
            if worker.connection != connection or worker.room <= 0:
                heapq.heappop(entries)
            elif worker.free != -claimed:
                heapq.heapreplace(entries, entry_of(worker))
            else:
                return worker
        return None

    def _takes(self, worker: Worker) -> bool:
        return worker.room > 0 and (self._need is None or worker.can_run(*self._need))


def entry_of(worker: Worker) -> Entry:
    """Returns the entry of a connected worker as it is now."""
    assert worker.connection is not None
    return -worker.free, worker.connection, worker


class Roster:
    """The rankings of all needs that tasks have had lately.

    Args:
        connections: {connection: worker}, as they are at any time.
    """

    __slots__ = ("_connections", "_dropped", "_news", "_rankings", "_read")

    def __init__(self, connections: Mapping[int, Worker]) -> None:
        self._connections = connections
        self._rankings: dict[Need | None, Ranking] = {}
        #: Workers that may take more than before, in the order in which that was told, and how many were dropped.
        self._news: list[Worker] = []
        self._dropped = 0
        #: How many of the news some ranking has read, with those that were dropped.
        self._read = 0

    def tell(self, worker: Worker) -> None:
        """Notes that a worker may take more than before, or has other handlers."""
        if worker.told >= self._read:
            # No ranking has read the news that name it.
            return
        if len(self._news) >= ENTRIES_EACH * len(self._connections) + ENTRIES_MORE:
            self._dropped += len(self._news)
            self._news.clear()
        worker.told = self._dropped + len(self._news)
        self._news.append(worker)

    def ranking(self, need: Need | None) -> Ranking:
        """Returns the ranking of a need, up to date; of None: that of all workers."""
        ranking = self._rankings.get(need)
        if ranking is None:
            if len(self._rankings) >= RANKINGS_MAX:
                self._rankings.clear()
            ranking = self._rankings[need] = Ranking(need, self._connections)
        told = self._dropped + len(self._news)
        if ranking.read < self._dropped:
            ranking.rebuild()
        else:
            for worker in self._news[ranking.read - self._dropped :]:
                ranking.add(worker)
        ranking.read = self._read = told
        return ranking
