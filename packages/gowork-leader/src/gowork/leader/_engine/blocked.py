"""What the engine does while its store takes nothing, because the disk is full or another program has the write lock.

The batch that could not be written is kept and tried again. Callers that wait for it are told, and so are later
callers. The sessions of workers are kept alive.
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
#: Why the store takes nothing.
FULL = "the store is full: nothing is accepted until there is room on its disk"
LOCKED = "another program holds the store's write lock: nothing is accepted until it lets go"


class NotServingError(Exception):
    """The engine takes no more, because it stops."""


class NotTakenError(NotServingError):
    """The engine takes nothing now, because its store can't be written."""

    def __init__(self, blocked: StoreBlockedError, *, taken: bool = False) -> None:
        """Args:
        blocked: why the store takes nothing.
        taken: whether the command is in the batch that could not be written, so that it may yet come about.
        """
        #: True: the disk has no room. False: another program holds the store's write lock.
        self.full = isinstance(blocked, StoreFullError)
        more = "; what this call asked for may yet come about: repeat the call later to be sure" if taken else ""
        super().__init__(f"{reason(blocked)}{more}")


class Abandoned(Exception):
    """The last batch can't be written, and the engine stops."""


def reason(blocked: StoreBlockedError) -> str:
    """Returns why the store takes nothing, for people."""
    return FULL if isinstance(blocked, StoreFullError) else LOCKED


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
    """Writes one batch after the other to the store."""

    def __init__(
        self, store: Store, stop_asked: asyncio.Event, tell_refused: Callable[[StoreBlockedError], None]
    ) -> None:
        """Makes a writer to one store.

        Args:
            store: the store.
            stop_asked: is set when a batch that the store does not take is to be given up.
            tell_refused: tells waiting callers that nothing is taken. It is called each time that the store takes no
                batch.
        """
        self._store = store
        self._stop_asked = stop_asked
        self._tell_refused = tell_refused
        #: Why the store takes nothing now; None when it takes batches.
        self.blocked: StoreBlockedError | None = None

    async def write(self, batch: Batch) -> None:
        """Makes a batch durable, however long that takes.

        Raises:
            Abandoned: the store does not take the batch, and the engine is to stop.
            StoreError: the store can no longer be trusted.
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
