"""What the engine does while its store takes nothing: the disk is full, or another program holds the write lock.

The batch that could not be written is kept and tried again. Whoever waits for it is told, and so is whoever comes
meanwhile; the sessions of workers are kept alive.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from gowork.leader._core.commands import ReceiveFrame
from gowork.leader._engine.asked import Item
from gowork.leader.store.protocol import Batch, Store, StoreBlockedError, StoreFullError

_log = logging.getLogger(__name__)

#: How long to wait before a batch that could not be written is tried again, in seconds.
BLOCKED_RETRY_SECONDS = 1.0
#: Why nothing is taken.
FULL = "the store is full: nothing is accepted until there is room on its disk"
LOCKED = "another program holds the store's write lock: nothing is accepted until it lets go"


class NotServingError(Exception):
    """The engine does not take this now: it stops."""


class NotTakenError(NotServingError):
    """The engine does not take this now: its store can't be written."""

    def __init__(self, blocked: StoreBlockedError, *, taken: bool = False) -> None:
        """Args:
        blocked: why the store takes nothing.
        taken: the command is in the batch that could not be written, and may come about yet.
        """
        #: There is no room; otherwise another program holds the store's write lock.
        self.full = isinstance(blocked, StoreFullError)
        more = "; what this call asked for may yet come about, repeat it then to be sure" if taken else ""
        super().__init__(f"{reason(blocked)}{more}")


class Abandoned(Exception):
    """The last batch can't be written, and the engine stops."""


def reason(blocked: StoreBlockedError) -> str:
    """Why the store takes nothing, for people."""
    return FULL if isinstance(blocked, StoreFullError) else LOCKED


def refuse(items: Iterable[Item], blocked: StoreBlockedError, *, taken: bool = False) -> list[Item]:
    """Refuses what somebody waits for, except the frames of sessions, and returns the others.

    Sessions are kept alive: their workers are held back one frame each.

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
    """Has the store take one batch after the other."""

    def __init__(
        self, store: Store, stop_asked: asyncio.Event, tell_refused: Callable[[StoreBlockedError], None]
    ) -> None:
        """A writer to one store.

        Args:
            store: the store.
            stop_asked: set when a batch that the store does not take is to be given up.
            tell_refused: tells whoever waits that nothing is taken; called each time that the store takes no batch.
        """
        self._store = store
        self._stop_asked = stop_asked
        self._tell_refused = tell_refused
        #: Why the store takes nothing at the moment.
        self.blocked: StoreBlockedError | None = None

    async def write(self, batch: Batch) -> None:
        """Makes a batch durable, however long that takes.

        Raises:
            Abandoned: when the store does not take it and the engine is to stop.
            StoreError: when the store can no longer be trusted.
        """
        while True:
            try:
                await self._store.commit(batch)
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
