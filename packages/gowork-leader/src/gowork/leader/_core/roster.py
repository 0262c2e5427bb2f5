"""Finds the worker to give a task to: of those that can run it, the one with the most free slots.

An index, so that a grant costs the same among ten workers and among thousands. `apply` says which workers may take more
than before. That one takes less is found out when it comes up.

Invariant ROSTER: a worker that has room and can run the tasks of a need is in the need's ranking, where one of its
entries claims at least as many free slots as it has; or the news that the ranking has yet to read name it.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gowork.leader._core.state import Worker

#: (handler, selector, queue as Reserved.need_of returns it)
Need = tuple[str, tuple[tuple[str, str], ...], str]

#: How many rankings are kept: RANKINGS_MAX, or more where few workers are connected, as long as rankings times workers
#: stay below RANKED_MAX. Before there is one more, all are dropped, and made again as they are asked for. Each round of
#: grants asks for one of each need that tasks wait with. With more needs than rankings each round makes all of them.
RANKINGS_MAX = 1_000
RANKED_MAX = 200_000
#: How many entries a ranking may have, and how many news there may be, for each connected worker and besides. Then a
#: ranking is made again from the workers themselves.
ENTRIES_EACH, ENTRIES_MORE = 2, 64
#: When more than an eighth of its entries come back, a heap is made again, which takes less time.
_FEW_OF = 8

#: (−free slots, connection, worker). The worker may have fewer by now, or another connection.
Entry = tuple[int, int, "Worker"]


class Ranking:
    """The workers that can run the tasks of one need; None: the tasks of any."""

    __slots__ = ("_able", "_connections", "_need", "entries", "read")

    def __init__(self, need: Need | None, connections: Mapping[int, Worker]) -> None:
        self._need = need
        self._connections = connections
        #: {connection: whether its worker can run the tasks}, of those that were asked about.
        self._able: dict[int, bool] = {}
        #: A heap. A worker may have several.
        self.entries: list[Entry] = []
        #: How many of the news it has read, with those that were dropped.
        self.read = -1

    def rebuild(self) -> None:
        """Makes it again from the connected workers."""
        self._able.clear()
        connected = self._connections.values()
        self.entries = [entry_of(worker) for worker in connected if worker.room > 0 and self._can_run(worker)]
        heapq.heapify(self.entries)

    def add(self, worker: Worker) -> None:
        """Puts a worker in, if it can run the tasks. Whether it has room is found out when it comes up."""
        entries = self.entries
        if entries:
            claimed, connection, first = entries[0]
            if first is worker and connection == worker.connection and -claimed >= worker.slots - len(worker.held):
                return
        if self._can_run(worker):
            if len(entries) >= ENTRIES_EACH * len(self._connections) + ENTRIES_MORE:
                self.rebuild()
            else:
                heapq.heappush(entries, entry_of(worker))

    def best(self) -> Worker | None:
        """Returns the worker with the most free slots of those that have room, first entry; None: there is none."""
        entries = self.entries
        while entries:
            claimed, connection, worker = entries[0]
            if worker.connection != connection or worker.room <= 0:
                heapq.heappop(entries)
            elif (taken := len(worker.held) - worker.slots) != claimed:
                heapq.heapreplace(entries, (taken, connection, worker))
            else:
                return worker
        return None

    def put_back(self, workers: Collection[Worker]) -> None:
        """Puts workers in that were in it and are connected."""
        entries = self.entries
        back = [(len(worker.held) - worker.slots, worker.connection or 0, worker) for worker in workers]
        if len(back) * _FEW_OF > len(entries):
            entries += back
            heapq.heapify(entries)
        else:
            for entry in back:
                heapq.heappush(entries, entry)

    def _can_run(self, worker: Worker) -> bool:
        connection = worker.connection
        if connection is None:
            return False
        try:
            return self._able[connection]
        except KeyError:
            if len(self._able) >= ENTRIES_EACH * len(self._connections) + ENTRIES_MORE:
                # Most of them are of connections that have ended.
                self._able.clear()
            able = self._able[connection] = self._need is None or worker.can_run(*self._need)
            return able


def entry_of(worker: Worker) -> Entry:
    """Returns the entry of a connected worker as it is now."""
    assert worker.connection is not None
    return -worker.free, worker.connection, worker


class Roster:
    """The rankings of all needs that tasks have had lately.

    Args:
        connections: {connection: worker}, as they are at any time.
    """

    __slots__ = ("_connections", "_dropped", "_news", "_rankings", "read")

    def __init__(self, connections: Mapping[int, Worker]) -> None:
        self._connections = connections
        self._rankings: dict[Need | None, Ranking] = {}
        #: Workers that may take more than before, in the order in which that was told, and how many were dropped.
        self._news: list[Worker] = []
        self._dropped = 0
        #: How many of the news some ranking has read, with those that were dropped.
        self.read = 0

    def tell(self, worker: Worker) -> None:
        """Notes that a worker may take more than before, or has other handlers."""
        if worker.told >= self.read:
            # No ranking has read the news that name it. Hot paths ask this themselves.
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
            if len(self._rankings) >= max(RANKINGS_MAX, RANKED_MAX // max(1, len(self._connections))):
                self._rankings.clear()
            ranking = self._rankings[need] = Ranking(need, self._connections)
        news, dropped = self._news, self._dropped
        if ranking.read < dropped:
            ranking.rebuild()
        else:
            for number in range(ranking.read - dropped, len(news)):
                ranking.add(news[number])
        ranking.read = self.read = dropped + len(news)
        return ranking
