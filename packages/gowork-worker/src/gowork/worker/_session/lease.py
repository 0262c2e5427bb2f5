"""The worker's own reckoning of its lease: so long its tasks are certainly not given to others.

The leader counts from the arrival of a frame, the worker from its sending, and only of frames that were answered: so
the worker's lease ends first, whichever way the link was cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Lease:
    """Runs from session to session. Times are those of the loop's clock, in seconds."""

    def __init__(self, lost: Callable[[], None]) -> None:
        """`lost` is called when it has run out."""
        self._lost = lost
        self._timer: asyncio.TimerHandle | None = None
        #: How long the leader goes without hearing the worker.
        self.seconds = 0.0

    def begin(self, seconds: float) -> None:
        """A leader has welcomed the worker, for so long."""
        self.seconds = seconds
        self.renew(asyncio.get_running_loop().time())

    def renew(self, sent_at: float) -> None:
        """The leader has answered a frame that was sent then."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(sent_at + self.seconds, self._lost)

    @property
    def heartbeat_max(self) -> float:
        """The longest time between two heartbeats: two may be lost on the way."""
        return self.seconds / 3

    @property
    def silence_max(self) -> float:
        """How long ago the last frame that was answered may have been sent before the link is given up.

        It leaves the last third of the lease for finding a link that works.
        """
        return self.seconds * 2 / 3
