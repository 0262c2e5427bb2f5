"""Appends checks while a leader leads: daily, and when somebody asks. See `comparison`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from gowork.leader._replication.comparison import Comparison
from gowork.leader._replication.journal import LoggedJournal
from gowork.leader.log.protocol import LeadershipLostError, LogFullError, LogRefusedError
from gowork.leader.store.protocol import StoreBlockedError

_log = logging.getLogger(__name__)

#: The longest wait before it looks whether a check is due, in seconds.
LOOK_SECONDS = 60.0


class Checks:
    """Appends the checks of one term while `run` is awaited.

    Args:
        journal: appends.
        comparison: makes the digests of the store that leads.
        mono: returns the time by a monotonic clock, in seconds.
    """

    def __init__(self, journal: LoggedJournal, comparison: Comparison, mono: Callable[[], float]) -> None:
        self._journal = journal
        self._comparison = comparison
        self._mono = mono
        self._wake = asyncio.Event()
        #: Who waits for the index of a check.
        self._asked: list[asyncio.Future[int]] = []
        self._is_over = False

    async def ask(self) -> int:
        """Returns the index of a check that is made now. When one is under way, it is that one.

        Raises:
            LogFullError, LogRefusedError, StoreBlockedError: nothing can be appended now.
            LeadershipLostError: the term is over.
        """
        if self._comparison.under_way:
            return self._comparison.under_way
        if self._is_over:
            raise LeadershipLostError("the term is over")
        asked: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._asked.append(asked)
        self._wake.set()
        return await asked

    async def run(self, stopped: asyncio.Event) -> None:
        """Runs until `stopped` is set.

        Raises:
            StoreError, LogError: the term must end.
        """
        stopping = asyncio.ensure_future(stopped.wait())
        try:
            while not stopped.is_set():
                if self._asked or self._mono() >= self._comparison.due_mono:
                    await self._check()
                self._wake.clear()
                waking = asyncio.ensure_future(self._wake.wait())
                try:
                    await asyncio.wait({stopping, waking}, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    # Also when the term's end cancels this. asyncio would log a task that nobody ended.
                    waking.cancel()
                    await asyncio.wait({waking})
        finally:
            self._is_over = True
            self._answer(LeadershipLostError("the term is over"))
            stopping.cancel()
            await asyncio.wait({stopping})

    async def _check(self) -> None:
        """Appends a check in the duty's own task: a caller that goes away must not cut an append short."""
        try:
            index = await self._journal.check()
        except (LogFullError, LogRefusedError, StoreBlockedError) as error:
            _log.warning("stores not compared", extra={"reason": str(error)})
            self._answer(error)
        else:
            _log.info("has the stores compared", extra={"index": index})
            self._answer(index)

    def _answer(self, answer: int | Exception) -> None:
        asked, self._asked = self._asked, []
        for each in asked:
            if each.done():
                continue
            if isinstance(answer, int):
                each.set_result(answer)
            else:
                each.set_exception(answer)
