"""The worker's own count of its lease. While it lasts, the worker's tasks are not given to others.

The leader counts from the arrival of a frame. The worker counts from its sending, and only frames that were answered.
So the worker's lease ends first, in whichever direction the link was cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Lease:
    """Runs from session to session. Times are those of the loop's clock, in seconds."""

    def __init__(self, lost: Callable[[], None]) -> None:
        """`lost` is called when the lease has run out."""
        self._lost = lost
        self._timer: asyncio.TimerHandle | None = None
        #: The length of the lease, as the last Welcome named it.
        self.seconds = 0.0

    def begin(self, seconds: float) -> None:
        """Begins a lease of this length, when a leader has welcomed the worker."""
        self.seconds = seconds
        self.renew(asyncio.get_running_loop().time())

    def renew(self, sent_at: float) -> None:
        """Renews the lease from `sent_at`, when the leader has answered a frame that was sent then."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(sent_at + self.seconds, self._lost)

    @property
    def heartbeat_max(self) -> float:
        """The longest time between two heartbeats: two may be lost on the way."""
        return self.seconds / 3

    @property
    def silence_max(self) -> float:
        """The worker gives the link up when the last answered frame was sent longer ago than this.

        The last third of the lease is left for finding a link that works.
        """
        return self.seconds * 2 / 3
