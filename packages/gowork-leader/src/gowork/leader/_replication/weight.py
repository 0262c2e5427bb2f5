"""How many bytes the entries of the log have, as far as this leader has seen them pass.

The log itself is not asked, because an engine that others share can't tell their bytes from ours.
"""

from __future__ import annotations

import asyncio
from collections import deque

#: The bytes of entries that are counted together, at least, so that a log of small entries needs little memory.
BLOCK_BYTES = 64 << 10
#: How many such blocks are kept. Together they have four times the bytes that the log may have.
BLOCKS_MAX = 1 << 14


class Weight:
    """Counts the entries that a store has applied, in the order of their indexes.

    Args:
        after: the index of the last entry that passed before it counts.
    """

    def __init__(self, after: int) -> None:
        #: The index of the first entry that counts, and of the last one.
        self.first = after + 1
        self.last = after
        #: The bytes of all entries that ever passed here.
        self.passed = 0
        #: (index of the last entry, bytes) of entries that follow one another, oldest first.
        self._blocks: deque[tuple[int, int]] = deque()
        #: Who waits until `passed` has become this.
        self._waiting: list[tuple[int, asyncio.Event]] = []

    def add(self, index: int, size: int) -> None:
        """Counts an entry. One that was counted before counts once.

        Args:
            index: its index. When it does not follow the last one, all that was before it counts no more, because what
                is between them is not known.
            size: its bytes.
        """
        if index <= self.last:
            return
        if index != self.last + 1:
            self._blocks.clear()
            self.first = index
        self.last = index
        self.passed += size
        if self._blocks and self._blocks[-1][1] < BLOCK_BYTES:
            size += self._blocks.pop()[1]
        self._blocks.append((index, size))
        if len(self._blocks) > BLOCKS_MAX:
            # Only who leads drops what was pruned.
            self.first = self._blocks.popleft()[0] + 1
        for wanted, event in self._waiting:
            if self.passed >= wanted:
                event.set()

    def put_before(self, older: Weight) -> None:
        """Counts entries, too, that another one has counted, if they end where this one begins."""
        if older.last == self.first - 1:
            self._blocks.extendleft(reversed(older._blocks))
            self.first = older.first

    def drop(self, before: int) -> None:
        """Counts no more the entries with an index below this. Some of them may count a little longer."""
        while self._blocks and self._blocks[0][0] < before:
            self._blocks.popleft()
        self.first = max(self.first, min(before, self.last + 1))

    def after(self, index: int) -> int:
        """Returns how many bytes the entries after an index have, or a little more."""
        return sum(size for last, size in self._blocks if last > index)

    async def until(self, passed: int) -> None:
        """Returns when `passed` bytes have passed."""
        event = asyncio.Event()
        waiting = passed, event
        self._waiting.append(waiting)
        try:
            if self.passed < passed:
                await event.wait()
        finally:
            self._waiting.remove(waiting)
