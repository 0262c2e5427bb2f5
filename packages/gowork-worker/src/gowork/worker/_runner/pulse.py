"""Shows the supervisor, in the slot table, that the runner's loop ticks, also when the runner cannot send any more.

It also ends a runner that has lost descriptors of its own.
"""

from __future__ import annotations

import asyncio
import os
from typing import NoReturn

from gowork.worker._runner.descriptors import OwnDescriptors
from gowork.worker._runner.messages import DESCRIPTORS_LOST_EXIT
from gowork.worker._runner.table import SlotTable

#: Seconds between two ticks.
TICK_INTERVAL = 1.0


class Pulse:
    """Ticks on the running loop, for as long as that runs."""

    def __init__(self, own: OwnDescriptors) -> None:
        self._loop = asyncio.get_running_loop()
        self._own = own
        #: Where ticks are noted; None until the runner knows how many slots it has.
        self.table: SlotTable | None = None
        self._count = 0
        self._tick()

    def check(self) -> None:
        """Ends the runner when it has lost descriptors of its own."""
        if not self._own.intact():
            leave()

    def _tick(self) -> None:
        self.check()
        self._count += 1
        if self.table is not None:
            self.table.tick(self._count)
        self._loop.call_later(TICK_INTERVAL, self._tick)


def leave() -> NoReturn:
    """Ends the runner at once, because nothing that it sends would arrive."""
    os._exit(DESCRIPTORS_LOST_EXIT)
