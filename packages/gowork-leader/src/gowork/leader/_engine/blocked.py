"""What the engine does while nothing can be made durable: the disk or the log is full, or the store is locked.

The batch that could not be written is kept and tried again. Callers that wait for it are told, and so are later
callers. The sessions of workers are kept alive.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from gowork.leader._core.commands import ReceiveFrame
from gowork.leader._engine.asked import Item
from gowork.leader._replication.journal import Journal, LogBlockedError
from gowork.leader.store.protocol import Batch, StoreBlockedError, StoreFullError

_log = logging.getLogger(__name__)

#: How long to wait before a batch that could not be written is tried again, in seconds.
BLOCKED_RETRY_SECONDS = 1.0
#: Why the store takes nothing.
FULL = "the store is full: nothing is accepted until there is room on its disk"
LOCKED = "another program holds the store's write lock: nothing is accepted until it lets go"


class NotServingError(Exception):
    """The engine takes no more, because it stops."""


class NotTakenError(NotServingError):
    """The engine takes nothing now, because nothing can be made durable."""

    def __init__(self, blocked: StoreBlockedError, *, taken: bool = False) -> None:
        """Args:
        blocked: why the store takes nothing.
        taken: whether the command is in the batch that could not be written, so that it may yet come about.
        """
        self.blocked = blocked
        more = "; what this call asked for may yet come about: repeat the call later to be sure" if taken else ""
        super().__init__(f"{reason(blocked)}{more}")


class Abandoned(Exception):
    """The last batch can't be written, and the engine stops."""


def reason(blocked: StoreBlockedError) -> str:
    """Returns why the store takes nothing, for people."""
    if isinstance(blocked, LogBlockedError):
        return f"the log takes nothing: nothing is accepted until it does; {blocked}"
    return FULL if isinstance(blocked, StoreFullError) else LOCKED


def why_nothing_starts(blocked: StoreBlockedError) -> tuple[str, str]:
    """Returns why no task is started now, and what to do about it, for people."""
    if isinstance(blocked, LogBlockedError):
        return "the log takes nothing, so no task is started", str(blocked)
    if isinstance(blocked, StoreFullError):
        return "the store is full, so no task is started", "make room on its disk"
    return "another program holds the store's write lock, so no task is started", "end that program, or wait for it"


def refuse(items: Iterable[Item], blocked: StoreBlockedError, *, taken: bool = False) -> list[Item]:
    """Refuses the items that somebody waits for, except the frames of sessions. Returns the others.

    Frames are kept so that their sessions stay alive. Each worker waits with one frame.

    Args:
        items: what was asked.
        blocked: why the store takes nothing.
        taken: see NotTakenError.
    """
    kept: list[Item] = []
    for what, caller in items:
        if caller is None or isinstance(what, ReceiveFrame):
            kept.append((what, caller))
        elif not caller.done():
            caller.set_exception(NotTakenError(blocked, taken=taken))
    return kept


class Writer:
    """Makes one batch durable after the other."""

    def __init__(
        self, journal: Journal, stop_asked: asyncio.Event, tell_refused: Callable[[StoreBlockedError], None]
    ) -> None:
        """Makes a writer.

        Args:
            journal: makes batches durable.
            stop_asked: is set when a batch that is not taken is to be given up.
            tell_refused: tells waiting callers that nothing is taken. It is called each time that a batch is not taken.
        """
        self._journal = journal
        #: Since when the log, or the store, has not answered, by the loop's clock; None: nobody waits for them.
        self._waits_since: float | None = None
        self._stop_asked = stop_asked
        self._tell_refused = tell_refused
        #: Why nothing is taken now; None when batches are taken.
        self.blocked: StoreBlockedError | None = None

    @property
    def waits_seconds(self) -> float:
        """For how long what is under way has waited for the log, or for the store, in seconds."""
        return 0.0 if self._waits_since is None else asyncio.get_running_loop().time() - self._waits_since

    async def confirm(self) -> None:
        """See Journal.confirm."""
        await self._waiting(self._journal.confirm())

    async def write(self, batch: Batch) -> None:
        """Makes a batch durable, however long that takes.

        Raises:
            Abandoned: the batch is not taken, and the engine is to stop.
            StoreError, LogError: the leader must stop.
        """
        while True:
            try:
                await self._waiting(self._journal.commit(batch))
            except StoreBlockedError as error:
                if self.blocked is None:
                    _log.error(reason(error), extra={"reason": str(error)})
                self.blocked = error
                self._tell_refused(error)
                try:
                    async with asyncio.timeout(BLOCKED_RETRY_SECONDS):
                        await self._stop_asked.wait()
                except TimeoutError:
                    continue
                raise Abandoned from None
            else:
                if self.blocked is not None:
                    self.blocked = None
                    _log.info("store takes batches again")
                return

    async def _waiting(self, answer: Awaitable[None]) -> None:
        """Waits for an answer, and notes since when."""
        # No clock of the engine's: nothing but the probe of readiness asks for it.
        self._waits_since = asyncio.get_running_loop().time()
        try:
            await answer
        finally:
            self._waits_since = None
