"""Hands over while a leader leads whose disk is full, if another leader has room on its own.

A leader whose disk is full commits what the log already has, with the room that its store keeps for that. It takes
nothing more. If no other leader has room, it goes on to lead and refuses, as a leader without a log does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from gowork.leader._replication.announcement import Announcement
from gowork.leader._replication.census import take_census, unfit
from gowork.leader._replication.log_watch import LogWatch
from gowork.leader.log.protocol import Log, LogError
from gowork.leader.store.protocol import StoreBlockedError, StoreFullError

_log = logging.getLogger(__name__)

#: How often it looks whether the disk is full, in seconds.
LOOK_SECONDS = 1.0


class OwnTerms(Protocol):
    """What this process does in the log."""

    @property
    def applied(self) -> int:
        """The index of the last entry that its store has applied."""
        ...

    def step_down(self) -> None:
        """Ends the term that leads here, and lets the other leaders take over."""
        ...


class Blockable(Protocol):
    """A term."""

    @property
    def blocked(self) -> StoreBlockedError | None:
        """Why nothing is taken now; None when batches are taken."""
        ...


class Relief:
    """Looks after one term while `run` is awaited.

    Args:
        log: is open.
        own: what this leader says of itself.
        terms: what this process does in the log.
        wall_ms: returns the time in wall-clock milliseconds.
        watch: knows how long ago the others registered.
    """

    def __init__(
        self,
        log: Log,
        own: Announcement,
        terms: OwnTerms,
        wall_ms: Callable[[], int],
        watch: LogWatch,
    ) -> None:
        self._log = log
        self._own = own
        self._terms = terms
        self._wall_ms = wall_ms
        self._watch = watch
        self._term: Blockable | None = None

    def attach(self, term: Blockable) -> None:
        """Sets the term that it looks after."""
        self._term = term

    async def run(self, stopped: asyncio.Event) -> None:
        """Runs until `stopped` is set, or the term is to end."""
        while not stopped.is_set():
            try:
                if self._is_full and (name := await self._successor()):
                    _log.error("hands over, because the disk is full", extra={"leader": name})
                    self._terms.step_down()
                    return
            except LogError as error:
                # If the leadership is over, the term ends by itself.
                _log.warning("no successor found", extra={"reason": str(error)})
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await stopped.wait()
            except TimeoutError:
                pass

    @property
    def _is_full(self) -> bool:
        return self._term is not None and isinstance(self._term.blocked, StoreFullError)

    async def _successor(self) -> str:
        """Returns the name of a leader that can take over; empty when none can.

        Raises:
            LogError: the log does not tell.
        """
        now_ms = self._wall_ms()
        census = await take_census(self._log, self._own, self._terms.applied, now_ms)
        others = [view for view in census.leaders if view.announcement.store_id != self._own.store_id]
        for view in others:
            own = view.announcement
            if not unfit(view, census, self._watch.age_seconds(own.store_id, view.seen_ms, now_ms)):
                return own.name
        return ""
