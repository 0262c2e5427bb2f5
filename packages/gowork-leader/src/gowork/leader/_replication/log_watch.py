"""Asks the log now and then what it has and who is registered, so that metrics need not wait for it.

The clocks of machines may differ by any span. So it tells by its own clock how long ago a leader registered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from gowork.leader._replication.registers import Registration, registered
from gowork.leader.log.protocol import Log, LogError, Span

_log = logging.getLogger(__name__)

#: How often it asks, in seconds.
LOOK_SECONDS = 5.0


class LogWatch:
    """Asks for as long as `run` is awaited.

    Args:
        log: is open, and has begun.
        span: which entries it has.
        mono: returns the time by a monotonic clock, in seconds.
    """

    def __init__(self, log: Log, span: Span, mono: Callable[[], float]) -> None:
        self._log = log
        self._mono = mono
        self._answered_mono = mono()
        #: Which entries the log had, and {store id: registration}, when it last answered.
        self.span = span
        self.registrations: dict[str, Registration] = {}
        #: {store id: since when its registration has been as it is, by the monotonic clock, and whether it was seen to
        #: change then; if not, it may have been so for longer}
        self._since: dict[str, tuple[float, bool]] = {}

    @property
    def silent_seconds(self) -> float:
        """For how long the log has not answered, in seconds."""
        return self._mono() - self._answered_mono

    def age_seconds(self, store_id: str, seen_ms: int, wall_ms: int) -> float:
        """Returns how long ago a leader registered last, in seconds.

        Its clock and this one count only until its registration was seen to change.

        Args:
            store_id: the id of its store.
            seen_ms: when it registered last, by its own wall clock, in milliseconds.
            wall_ms: the time by this machine's wall clock, in milliseconds.
        """
        by_clocks = abs(wall_ms - seen_ms) / 1000
        known = self.registrations.get(store_id)
        if known is None:
            return by_clocks
        if known.seen_ms != seen_ms:
            # It registered again after the last look.
            return 0.0
        since, has_changed = self._since[store_id]
        unchanged = self._mono() - since
        return unchanged if has_changed else max(unchanged, by_clocks)

    async def run(self) -> None:
        """Runs until it is cancelled."""
        while True:
            try:
                self._note(await registered(self._log))
                self.span = await self._log.span()
            except LogError as error:
                _log.info("log does not answer", extra={"reason": str(error)})
            else:
                self._answered_mono = self._mono()
            await asyncio.sleep(LOOK_SECONDS)

    def _note(self, found: dict[str, Registration]) -> None:
        before, now = self.registrations, self._mono()
        self._since = {
            store_id: self._since[store_id] if before.get(store_id) == each else (now, store_id in before)
            for store_id, each in found.items()
        }
        self.registrations = found
