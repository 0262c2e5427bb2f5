"""Raises the format of a log while a leader leads, as soon as all registered leaders read a higher one.

So leaders of two versions share a log during an upgrade, and the newer ones write what the older ones read. Who meets
a format that it can't read stops, keeps its store, and names the version that it needs.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from gowork.leader._replication.journal import LoggedJournal
from gowork.leader._replication.registers import registered
from gowork.leader.log import entries
from gowork.leader.log.protocol import Log, LogFullError, LogRefusedError, LogUnreachableError
from gowork.leader.store.protocol import StoreBlockedError

_log = logging.getLogger(__name__)

#: How often it looks which formats the registered leaders read, in seconds, while the log has a lower one.
LOOK_SECONDS = 10.0


class Formats:
    """Raises the format during one term, while `run` is awaited.

    Args:
        log: is open.
        journal: appends.
    """

    def __init__(self, log: Log, journal: LoggedJournal) -> None:
        self._log = log
        self._journal = journal
        #: The leaders that read no higher format, as was said last.
        self._waits_for: list[str] = []

    async def run(self, stopped: asyncio.Event) -> None:
        """Runs until `stopped` is set.

        Raises:
            StoreError, LogError: the term must end.
        """
        while not stopped.is_set() and self._journal.format < entries.FORMAT:
            try:
                await self._look()
            except (LogFullError, LogRefusedError, LogUnreachableError, StoreBlockedError) as error:
                _log.warning("format not raised", extra={"reason": str(error)})
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await stopped.wait()

    async def _look(self) -> None:
        found = (await registered(self._log)).values()
        before, highest = self._journal.format, min((each.format for each in found), default=0)
        if highest > before:
            await self._journal.raise_format(min(highest, entries.FORMAT))
            _log.warning("format of the log was raised", extra={"before": before, "format": self._journal.format})
        waits_for = sorted(each.leader.name for each in found if each.format == highest < entries.FORMAT)
        if waits_for != self._waits_for:
            self._waits_for = waits_for
            _log.info("format of the log waits for leaders of older versions", extra={"leaders": waits_for})
