"""What a leader does while it does not lead: it follows the log, watches who leads, and stands for election.

An election looks at the log: only a candidate whose store can go on from what the log still has is elected. It then
reads the end of the log, applies all of it, and only then decides anything (LOG-FIRST).
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable
from contextlib import aclosing

from gowork.leader._core.model import Position
from gowork.leader._replication.chain import entry_after
from gowork.leader._replication.journal import LoggedJournal
from gowork.leader._replication.replica import Replica, TermBegun, encode_term
from gowork.leader._replication.weight import Weight
from gowork.leader.log.entries import FORMAT_FIRST, NO_HASH, format_of
from gowork.leader.log.protocol import (
    Candidate,
    Generation,
    GenerationError,
    Leader,
    Leadership,
    LeadershipLostError,
    Log,
    LogError,
    LogFullError,
    LogRefusedError,
    LogUnreachableError,
    NotElectedError,
    PrunedError,
    Span,
    TermsUsedUpError,
)
from gowork.leader.store.protocol import LoggedStore, Opened, StoreBlockedError, StoreError

_log = logging.getLogger(__name__)

#: The longest wait before a candidate stands for election, in seconds, so that the one that has come furthest is first.
LAG_WAIT_SECONDS = 0.2
#: How many entries behind makes a candidate wait the longest.
LAG_FULL = 20
#: For how long a leader that has stepped down lets the others stand for election first, in seconds.
GIVE_WAY_SECONDS = 5.0
#: How long to wait before the log is asked again, in seconds.
AGAIN_SECONDS = 1.0
#: How long until it is said again that it is not elected, for the same reason, in seconds.
SAY_AGAIN_SECONDS = 10.0
#: After these it is asked again. A log that refuses has taken this leader's calls before: its users have changed.
_SILENT = (LogUnreachableError, LogRefusedError)


async def join(store: LoggedStore, opened: Opened, log: Log) -> Opened | None:
    """Has a store belong to the log, beginning the log if it has not begun. Returns what the store says then.

    None: the log has begun, and this new store needs a copy of another leader's store.

    Raises:
        StoreError: the store holds what the log knows nothing of, or belongs to another log.
        LogError: the log can't be used.
    """
    generation = await log.generation()
    if opened.position is not None:
        if generation is None or generation.id != opened.position.generation:
            raise StoreError(
                f"this store belongs to generation {opened.position.generation} of a log, and this log has "
                f"{generation.id if generation else 'not begun'}: use the log that the store belongs to"
            )
        return opened
    while generation is None:
        # The store's own id names the generation. So it still knows after a crash in between that it began the log.
        begun = Generation(opened.store_id, 0, opened.term)
        try:
            await log.begin(begun, None)
        except GenerationError:
            # Another leader was first.
            generation = await log.generation()
        else:
            generation = begun
    if generation.id == opened.store_id:
        await store.join_log(Position(generation.id, generation.base, NO_HASH), opened.term)
        return await store.current()
    # It may have been opened before the log had begun, when it might hold anything. A copy takes the place of an empty
    # one alone.
    await store.close()
    await store.open_logged(generation.id)
    return None


def silent(error: LogError) -> str:
    """Says why it is not known who leads."""
    return f"the log {'refuses' if isinstance(error, LogRefusedError) else 'does not answer'}: {error}"


class Candidacy:
    """Follows the log and stands for election, until this leader is elected.

    Args:
        store: belongs to the log.
        log: is open.
        announce: returns what this leader says of itself to the others. It is given the time at which it stands for
            election, in wall-clock milliseconds.
        version: the version of this program.
        wall_ms: returns the time in wall-clock milliseconds.
        told: is called with who leads, or None, each time that it changes; and with None, and why, when the log does
            not say who leads.
        told_blocked: is called when the store has no room for what the log has, and with None when it has.
        told_full: is called with what the log says when it has no room, or no term, for an election.
        weight: counts the entries that the store applies.
        check: see Replica; None: no digests are made.
    """

    def __init__(
        self,
        store: LoggedStore,
        log: Log,
        announce: Callable[[int], bytes],
        version: str,
        wall_ms: Callable[[], int],
        told: Callable[[Leader | None, str], None] = lambda leader, because: None,
        *,
        told_blocked: Callable[[StoreBlockedError | None], None] = lambda blocked: None,
        told_full: Callable[[str], None] = lambda full: None,
        weight: Weight | None = None,
        check: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        self._store = store
        self._log = log
        self._announce = announce
        self._version = version
        self._wall_ms = wall_ms
        self._told = told
        #: For how long it lets another leader take over before it stands for election again, in seconds.
        self._way_seconds = 0.0
        self._told_blocked = told_blocked
        self._told_full = told_full
        self._weight = weight
        self._check = check
        #: Why it was not elected the last time that it was said, and when that was, by the loop's clock.
        self._not_elected = "", -math.inf
        #: The replica while this leader follows; None before.
        self.replica: Replica | None = None

    def give_way(self) -> None:
        """Lets the others stand for election first, the next time that it is to be elected."""
        self._way_seconds = GIVE_WAY_SECONDS

    async def elected(self) -> tuple[LoggedJournal, Leadership]:
        """Returns when this leader is elected and its store has applied all of the log.

        Raises:
            ChainError, NewerFormatError, PrunedError, StoreError: the store can't follow the log.
            LogDamagedError.
        """
        while True:
            leadership = await self._won()
            try:
                # Read after the election, so nothing can come after it but what this leader appends.
                span = await self._log.span()
                replica = await self._new_replica()
                await replica.follow(self._log, span.last)
                last_format = replica.format or await self._last_format(span)
                if replica.term > leadership.leader.term or not leadership.holds():
                    raise LeadershipLostError("another leader was elected meanwhile")
            except (LeadershipLostError, PrunedError, *_SILENT) as error:
                holds = leadership.holds()
                await leadership.resign()
                if holds and isinstance(error, PrunedError):
                    raise
                _log.warning("elected for nothing", extra={"term": leadership.leader.term, "reason": str(error)})
            except StoreBlockedError as error:
                # Another one may have room.
                await leadership.resign()
                self._told_blocked(error)
                await asyncio.sleep(AGAIN_SECONDS)
                self._told_blocked(None)
            except BaseException:
                await leadership.resign()
                raise
            else:
                begun = TermBegun(leadership.leader.announcement, self._wall_ms(), self._version)
                journal = LoggedJournal(self._store, replica, leadership, encode_term(begun), last_format)
                return journal, leadership

    async def _last_format(self, span: Span) -> int:
        """Returns the format of the log's last entry.

        Raises:
            NewerFormatError: this version can't read it.
        """
        if span.last < span.first:
            return FORMAT_FIRST
        last = await entry_after(self._log, span.last - 1)
        return format_of(last.index, last.data)

    async def _new_replica(self) -> Replica:
        """Asks the store where it stands, because the last term may have ended in the middle of a batch."""
        known = 0 if self.replica is None else self.replica.format
        self.replica = Replica(self._store, await self._store.current(), self._weight, known_format=known)
        if self._check is not None:
            self.replica.check = self._check
        return self.replica

    async def _won(self) -> Leadership:
        """Follows and stands for election until this leader is elected."""
        replica = await self._new_replica()
        following = asyncio.ensure_future(self._follow(replica))
        electing = asyncio.ensure_future(self._elected(replica))
        try:
            await asyncio.wait({following, electing}, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                # It ends only when it fails.
                await following
            return await electing
        except BaseException:
            if electing.done() and not electing.cancelled() and electing.exception() is None:
                # It was elected in the moment in which its store could not follow any more.
                await electing.result().resign()
            raise
        finally:
            for task in (following, electing):
                task.cancel()
            await asyncio.wait({following, electing})

    async def _follow(self, replica: Replica) -> None:
        """Follows the log for as long as it can be reached, and goes on when it can be reached again."""
        while True:
            try:
                await replica.follow(self._log, told_blocked=self._told_blocked)
            except _SILENT as error:
                _log.warning("log can't be followed", extra={"reason": str(error)})
                await asyncio.sleep(AGAIN_SECONDS)

    async def _elected(self, replica: Replica) -> Leadership:
        await self._another_leads()
        while True:
            try:
                async with aclosing(self._log.leaders()) as leaders:
                    async for leader in leaders:
                        self._told(leader, "")
                        if leader is not None:
                            continue
                        leadership = await self._campaign(replica)
                        if leadership is not None:
                            return leadership
                        # Nobody leads, and this candidate was not elected: look again.
                        break
            except _SILENT as error:
                self._told(None, silent(error))
                _log.warning("not known who leads", extra={"reason": silent(error)})
                await asyncio.sleep(AGAIN_SECONDS)

    async def _another_leads(self) -> None:
        """Returns when another leader leads, and at the latest when this one has given way for long enough."""
        seconds, self._way_seconds = self._way_seconds, 0.0
        if not seconds:
            return
        try:
            async with asyncio.timeout(seconds), aclosing(self._log.leaders()) as leaders:
                async for leader in leaders:
                    if leader is not None:
                        return
        except (TimeoutError, *_SILENT) as error:
            _log.info("no other leader took over", extra={"reason": str(error) or f"none did in {seconds:g} s"})

    async def _campaign(self, replica: Replica) -> Leadership | None:
        if replica.blocked is not None:
            # It could not begin its term.
            await asyncio.sleep(AGAIN_SECONDS)
            return None
        # What has come is applied before the term begins.
        span = await self._log.span()
        behind = span.last - replica.come
        if span.last > replica.position.index:
            # Who can't read the log does not stand for election.
            try:
                await self._last_format(span)
            except PrunedError:
                # Others have led since. Whether this store can go on is seen by following.
                return None
        await asyncio.sleep(LAG_WAIT_SECONDS * min(max(behind, 0) / LAG_FULL, 1.0))
        position = replica.position
        candidate = Candidate(position.generation, position.index, replica.term, self._announce(self._wall_ms()))
        try:
            return await self._log.campaign(candidate)
        except GenerationError as error:
            raise StoreError(str(error)) from error
        except LogFullError as error:
            _log.error("not elected, because the log is full", extra={"reason": str(error)})
            self._told_full(str(error))
            await asyncio.sleep(AGAIN_SECONDS)
            return None
        except TermsUsedUpError as error:
            _log.error("not elected, because there is no term left", extra={"reason": str(error)})
            self._told_full(str(error))
            await asyncio.sleep(AGAIN_SECONDS)
            return None
        except NotElectedError as error:
            self._say_not_elected(str(error))
            # A short random wait, so that two candidates do not go on getting in each other's way.
            await asyncio.sleep(random.uniform(0.02, 0.1))
            return None

    def _say_not_elected(self, because: str) -> None:
        """Logs why, and not each time, because it may be tried many times a second until somebody else leads."""
        said, said_at = self._not_elected
        # No clock of the engine's: this is no matter of any term.
        now = asyncio.get_running_loop().time()
        if because != said or now >= said_at + SAY_AGAIN_SECONDS:
            self._not_elected = because, now
            _log.info("not elected", extra={"reason": because})
