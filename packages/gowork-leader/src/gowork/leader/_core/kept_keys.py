"""When the unique keys of tasks that have ended become free.

Owns an index over the facts of `kinds.UNIQUE_KEYS`, which a start builds anew. Its entries may be stale, so the code
that takes one looks at the fact.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from gowork.leader._core.timers import Timer, Timers

#: How many stale entries there may be for sure before the index is built anew.
STALE_MAX = 1_000


class KeptKeys:
    """The keys that stay taken until a time."""

    __slots__ = ("_ids", "_timers", "keys")

    def __init__(self) -> None:
        #: {key: until when, in wall-clock milliseconds}
        self.keys: dict[str, int] = {}
        #: {id of a task that has ended: the key that it has}. Ids are used again, so it may lack a task.
        self._ids: dict[str, str] = {}
        #: All entries are in memory, so there is no horizon. An entry's text is the key.
        self._timers = Timers(sys.maxsize)

    def __len__(self) -> int:
        """How many keys there are."""
        return len(self.keys)

    def keep(self, key: str, id: str, until_ms: int) -> None:
        """Notes that a task that has ended has its key until a time."""
        self.keys[key] = until_ms
        self._ids[id] = key
        self._timers.add((until_ms, 0, key))
        if len(self._timers) > 2 * len(self.keys) + STALE_MAX:
            self._timers = Timers(sys.maxsize)
            for kept, until in self.keys.items():
                self._timers.add((until, 0, kept))

    def drop(self, key: str, id: str) -> None:
        """Notes that a task no longer has this key."""
        self.keys.pop(key, None)
        if self.key_of(id) == key:
            del self._ids[id]

    def key_of(self, id: str) -> str:
        """Returns the key that a task has; empty if it has none."""
        return self._ids.get(id, "")

    def next_ms(self) -> int | None:
        """Returns when the next key becomes free, in wall-clock milliseconds; None when none does."""
        return self._timers.next_ms()

    def ripe(self, wall_ms: int, limit: int) -> Iterator[Timer]:
        """Yields (until when, 0, key) of the first `limit` entries up to this time, and changes nothing."""
        return self._timers.ripe(wall_ms, limit)

    def trim(self, wall_ms: int, limit: int) -> None:
        """Drops what `ripe` yields with the same arguments."""
        self._timers.trim(wall_ms, limit)
