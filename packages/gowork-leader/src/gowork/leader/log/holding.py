"""What a leader knows of its own leadership, and how it settles doubt. Logs share it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from gowork.leader.log.protocol import (
    Leader,
    LeadershipLostError,
    LogError,
    LogFullError,
    LogRefusedError,
    LogUnreachableError,
)

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

#: How long to wait before the same is asked again, in seconds.
PAUSE_SECONDS = 0.05
#: How long a call may be in doubt before the process logs that, and how long until it logs it again, in seconds.
DOUBT_SECONDS = 5.0
DOUBT_AGAIN_SECONDS = 30.0
#: The part of a lease that is counted on here.
_PART = 0.9
#: How many keepalives are sent in the time of a lease.
_PER_LEASE = 6
#: Counts the time that the machine sleeps, where there is such a clock.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_seconds() -> float:
    """Returns seconds of a clock that also counts the time that the machine sleeps."""
    return time.clock_gettime(_CLOCK)


class OwnLease:
    """Until when a lease surely holds.

    Args:
        seconds: how long the log keeps the lease without a keepalive.
        sent: when it was asked for, by `now`.
        now: returns seconds.
    """

    def __init__(self, seconds: float, sent: float, now: Callable[[], float] = boot_seconds) -> None:
        #: See above.
        self.now = now
        self._seconds = seconds * _PART
        #: The end, in seconds of `now`.
        self.until = sent + self._seconds
        #: How long to wait from one keepalive to the next, in seconds.
        self.interval = seconds / _PER_LEASE

    def renewed(self, sent: float) -> None:
        """Is told that a keepalive was answered.

        Args:
            sent: when it was sent. A lease that has ended stays ended.
        """
        self.until = max(self.until, sent + self._seconds)


class Holding:
    """A leadership as its leader knows it.

    Args:
        leader: what the log says of it.
        own: until when it surely lasts.
    """

    def __init__(self, leader: Leader, own: OwnLease) -> None:
        self.leader = leader
        self.lost = asyncio.Event()
        self._own = own

    def holds(self) -> bool:
        """See Leadership.holds."""
        if not self.lost.is_set() and self.lasts():
            return True
        self.lost.set()
        return False

    def lasts(self) -> bool:
        """Whether the own lease still runs, also when the leadership was given up."""
        return self._own.now() < self._own.until

    async def until_told(self, call: Callable[[], Awaitable[_T]], *, is_final: bool = False) -> _T:
        """Makes a call again and again, until one is answered or the lease is over.

        Args:
            call: may be made again.
            is_final: whether it decides what is in the log. Once such a call is in doubt, the refusal of a later one
                says nothing of the first.

        Raises:
            LogFullError, LogRefusedError: nothing was written.
            LeadershipLostError: the own lease is over.
        """
        doubted = False
        say_at = self._own.now() + DOUBT_SECONDS
        while True:
            if not self.holds():
                raise self.over()
            try:
                return await call()
            except LogUnreachableError as error:
                doubted = True
                if self._own.now() >= say_at:
                    # The lease goes on meanwhile, so nobody else can say so.
                    say_at = self._own.now() + DOUBT_AGAIN_SECONDS
                    _log.warning("log does not settle a call", extra={"reason": str(error)})
            except (LogFullError, LogRefusedError):
                if not (doubted and is_final):
                    raise
            await asyncio.sleep(PAUSE_SECONDS)

    def over(self) -> LeadershipLostError:
        """Ends the leadership here, and returns what says so."""
        self.lost.set()
        return LeadershipLostError(f"this leader no longer leads: term {self.leader.term} is over")


class Held:
    """What every log's leadership says of itself; see Leadership.

    Args:
        holding: what its leader knows.
    """

    def __init__(self, holding: Holding) -> None:
        self._holding = holding

    @property
    def leader(self) -> Leader:
        """See Leadership.leader."""
        return self._holding.leader

    @property
    def lost(self) -> asyncio.Event:
        """See Leadership.lost."""
        return self._holding.lost

    def holds(self) -> bool:
        """See Leadership.holds."""
        return self._holding.holds()


async def settled(call: Callable[[], Awaitable[_T]], seconds: float, now: Callable[[], float] = boot_seconds) -> _T:
    """Makes a call again and again, until one is answered.

    Args:
        call: may be made again.
        seconds: for how long it is tried.
        now: returns seconds.

    Raises:
        LogUnreachableError: none was answered in this time.
    """
    until = now() + seconds
    while True:
        try:
            return await call()
        except LogUnreachableError:
            if now() >= until:
                raise
        await asyncio.sleep(PAUSE_SECONDS)


async def told_in_time(call: Callable[[], Awaitable[object]], goes_on: Callable[[], bool]) -> None:
    """Makes a call that ends a leadership, again and again, until one is answered.

    Until the log knows it, the others wait for the lease.

    Args:
        call: may be made again.
        goes_on: whether the lease may still run. When it is over, nobody waits any more.
    """
    while goes_on():
        try:
            await call()
        except LogUnreachableError:
            await asyncio.sleep(PAUSE_SECONDS)
        except LogError:
            return
        else:
            return
