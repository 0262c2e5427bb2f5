"""Asks the log now and then what it has and who is registered, so that metrics need not wait for it."""

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

    @property
    def silent_seconds(self) -> float:
        """For how long the log has not answered, in seconds."""
        return self._mono() - self._answered_mono

    async def run(self) -> None:
        """Runs until it is cancelled."""
        while True:
            try:
                self.registrations = await registered(self._log)
                self.span = await self._log.span()
            except LogError as error:
                _log.info("log does not answer", extra={"reason": str(error)})
            else:
                self._answered_mono = self._mono()
            await asyncio.sleep(LOOK_SECONDS)
