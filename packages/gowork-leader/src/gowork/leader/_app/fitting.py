"""Has a store that fits the log: it opens the one that is there, or puts a copy of another leader's in its place.

A copy is taken when the store is new, when the log has dropped what the store lacks, and when the store is not what the
log makes. The former store is set aside and kept, unless it was empty.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import TypeVar

from gowork.base.tls import Tls
from gowork.leader._app.node import Node
from gowork.leader._replication.candidacy import join, silent
from gowork.leader._rpc.copying import take_copy
from gowork.leader._snapshots.places import SnapshotPlace
from gowork.leader.log.protocol import (
    Leader,
    Log,
    LogError,
    LogFullError,
    LogRefusedError,
    LogUnreachableError,
)
from gowork.leader.store.protocol import (
    LoggedStore,
    Opened,
    StoreDamagedError,
    StoreEntryError,
    StoreError,
    StoreGenerationError,
)

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

#: How long to wait before the log, or another leader, is tried again, in seconds.
AGAIN_SECONDS = 1.0


class ReplacedError(Exception):
    """The store belongs to a generation of the log that a restored backup has replaced. The message names both."""


class Fitting:
    """Opens the store, and replaces it.

    Args:
        node: says what is waited for.
        store: is not opened yet.
        log: the log that the store is to follow.
        tell: is told who leads, or that nobody does, or why the log does not say, while there is no store.
        place: where the leaders share snapshots; None: they share none.
        tls: the certificates with which leaders are called; None: plain text.
    """

    def __init__(
        self,
        node: Node,
        store: LoggedStore,
        log: Log,
        tell: Callable[[Leader | None, str], None],
        *,
        place: SnapshotPlace | None,
        tls: Tls | None,
    ) -> None:
        self._node = node
        self._store = store
        self._log = log
        self._tell = tell
        self._place = place
        self._tls = tls
        #: Whether the log has let this leader in before. One that was never let in does not wait for it.
        self.was_let_in = False

    async def open(self) -> Opened:
        """Opens the store, and has it belong to the log. A new one gets a copy of the leader's.

        Raises:
            PrunedError, StoreDamagedError, ReplacedError: the store can't follow the log, though a copy could.
            StoreError, LogError, ChainError, NewerFormatError: this leader can't go on.
        """
        while True:
            generation = await self.reached(self._log.generation)
            try:
                opened = await self._store.open_logged(generation.id if generation else None)
            except StoreDamagedError as error:
                if generation is None:
                    # Nobody has what it had.
                    raise StoreError(str(error)) from error
                raise
            except StoreGenerationError as error:
                if generation is None or error.generation != generation.replaces:
                    raise
                raise ReplacedError(
                    f"it belongs to generation {error.generation} of the log, and a backup was restored, which began "
                    f"generation {generation.id} in its place"
                ) from error
            joined = await self.reached(partial(join, self._store, opened, self._log))
            if joined is not None:
                return joined
            words = "this leader takes a copy of another leader's store"
            self._node.wait_for(words)
            await self._store.close()
            aside = await take_copy(self._log, self._store, self._place, tell=self._not_yet(words), tls=self._tls)
            # It is empty, or `join` would not have asked for a copy.
            await asyncio.to_thread(aside.unlink)

    async def replace(self, unfit: BaseException) -> None:
        """Sets the store aside, and puts a copy of another leader's in its place. It waits until another one leads."""
        _log.error("store can't follow the log, and is replaced by a copy", extra={"reason": str(unfit)})
        words = (
            f"this leader takes a copy of another leader's store, as soon as there is one to be had, because {unfit}"
        )
        self._node.wait_for(words)
        # A copy that lacks the entry would fail at it, too.
        least = unfit.index if isinstance(unfit, StoreEntryError) else 0
        await self._store.close()
        watching = asyncio.ensure_future(self._watch_leaders())
        try:
            aside = await take_copy(
                self._log, self._store, self._place, least, tell=self._not_yet(words), tls=self._tls
            )
        finally:
            watching.cancel()
            await asyncio.wait({watching})
        _log.warning("store was set aside", extra={"path": str(aside)})

    async def reached(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        """Returns what the log answers, and waits until it can be reached, and until it has room for what is asked.

        Raises:
            LogRefusedError: the log has never let this leader in.
            LogError, ChainError, NewerFormatError: see Log, for what is asked.
        """
        waits = False
        while True:
            try:
                answer = await ask()
            except LogUnreachableError as error:
                self._node.wait_for(f"the log can't be reached: {error}")
                _log.warning("log can't be reached", extra={"reason": str(error)})
            except LogRefusedError as error:
                if not self.was_let_in:
                    raise
                self._node.wait_for(silent(error))
                _log.error("log refuses", extra={"reason": str(error)})
            except LogFullError as error:
                # It is new and was to begin. Who stopped here would have to be started by hand when there is room.
                self._node.wait_for(f"the log takes nothing: {error}")
                _log.error("log not begun, because it is full", extra={"reason": str(error)})
            else:
                if waits:
                    self._node.wait_for(None)
                return answer
            waits = True
            await asyncio.sleep(AGAIN_SECONDS)

    def _not_yet(self, words: str) -> Callable[[str], None]:
        """Returns what has readiness say besides why there is no copy yet."""
        return lambda because: self._node.wait_for(f"{words}; there is none yet: {because}")

    async def _watch_leaders(self) -> None:
        """Forwards calls to who leads, while there is no store to follow with."""
        while True:
            try:
                async with aclosing(self._log.leaders()) as leaders:
                    async for leader in leaders:
                        self._tell(leader, "")
            except LogError as error:
                self._tell(None, silent(error))
                _log.warning("log can't be reached", extra={"reason": str(error)})
                await asyncio.sleep(AGAIN_SECONDS)
