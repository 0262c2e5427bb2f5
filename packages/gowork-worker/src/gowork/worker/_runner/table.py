"""The slot table: which tasks a runner executes right now, in memory that it shares with its supervisor.

A runner notes each start and end here instead of sending a message, so that the supervisor knows what ran even after
a crash, and a no-op task costs no extra frame. Each slot is written by the one thread (or loop) that runs in it.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile

from gowork.worker._runner.messages import Running

#: fence (0: free), monotonic start in ns, monotonic time in ns when the runner is to be ended if it still runs (0:
#: never); the fence of the task that ended there last.
#: Native order: such words are copied whole, so that a reader never sees half of one.
_ENTRY = struct.Struct("@QQQQ")
_START = struct.Struct("@QQQ")
_TIMES = struct.Struct("@QQ")
_WORD = struct.Struct("@Q")
#: After the rows: how often the runner's loop has ticked.
_TICKS_SIZE = _WORD.size


class SlotTable:
    """A row for each slot, and spare ones for tasks that run while others wait. The runner writes, the supervisor
    reads.
    """

    def __init__(self, memory: mmap.mmap | bytearray, slots: int, spare: int = 0) -> None:
        self._memory = memory
        self.slots = slots
        self.spare = spare
        self.rows = slots + spare

    @classmethod
    def private(cls, slots: int, spare: int = 0) -> SlotTable:
        """One within this process, for runners=0."""
        return cls(bytearray(_size(slots + spare)), slots, spare)

    @classmethod
    def attach(cls, descriptor: int, slots: int, spare: int = 0) -> SlotTable:
        """The table behind an inherited file descriptor, which is closed: the mapping stays."""
        memory = mmap.mmap(descriptor, _size(slots + spare))
        os.close(descriptor)
        return cls(memory, slots, spare)

    def start(self, slot: int, fence: int, started_ns: int, kill_at_ns: int) -> None:
        """Notes that a task starts in this slot."""
        place = slot * _ENTRY.size
        # The fence last: with it the row counts, and a runner may be stopped between any two steps for any time.
        _TIMES.pack_into(self._memory, place + _WORD.size, started_ns, kill_at_ns)
        _WORD.pack_into(self._memory, place, fence)

    def end(self, slot: int, fence: int) -> None:
        """Notes that the slot is free; harmless when repeated. The fence of what ran there stays known until the next
        one ends: its report may be unsent.
        """
        place = slot * _ENTRY.size
        _WORD.pack_into(self._memory, place + _START.size, fence)
        _WORD.pack_into(self._memory, place, 0)

    def tick(self, count: int) -> None:
        """Notes that the loop has ticked `count` times."""
        _WORD.pack_into(self._memory, self.rows * _ENTRY.size, count)

    @property
    def ticks(self) -> int:
        """How often the loop has ticked; 0 once the memory is closed."""
        word = self._copy()[self.rows * _ENTRY.size :]
        return int(_WORD.unpack(word)[0]) if word else 0

    def running(self) -> list[Running]:
        """The occupied slots. While the runner writes, a row may mix an old and a new task: act only on what two
        looks agree on.
        """
        return [Running(*entry[:3]) for entry in _ENTRY.iter_unpack(self._rows()) if entry[0]]

    def begun(self) -> set[int]:
        """The fences of running attempts, and of the last one that ended in each slot."""
        return {fence for entry in _ENTRY.iter_unpack(self._rows()) for fence in (entry[0], entry[3]) if fence}

    def close(self) -> None:
        """Unmaps the memory: nothing runs there any more."""
        if isinstance(self._memory, mmap.mmap):
            self._memory.close()

    def _rows(self) -> bytes | bytearray:
        return self._copy()[: self.rows * _ENTRY.size]

    def _copy(self) -> bytes | bytearray:
        # In one step, so that memory which another thread is reading can be closed.
        try:
            return self._memory[:]
        except ValueError:
            return b""  # It is closed.


def make_shared(slots: int, spare: int = 0) -> tuple[SlotTable, int]:
    """A table in shared memory, and the descriptor to hand to the runner; the caller closes it."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("gowork-slots")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, _size(slots + spare))
    return SlotTable(mmap.mmap(descriptor, _size(slots + spare)), slots, spare), descriptor


def _size(rows: int) -> int:
    return _ENTRY.size * rows + _TICKS_SIZE
