"""The leader as a whole: a node and the term that leads on it, and the order in which they start and stop.

Start: ports and HTTP, which answer that nobody leads yet; then store, engine, health. Stop: health; then engine, which
makes durable and answers what it has taken; then streams, store, and ports when no more calls come in.
"""

from __future__ import annotations

import asyncio
import logging

from gowork.base.telemetry import is_traced
from gowork.leader._app.node import Addresses, Node
from gowork.leader._app.term import Term
from gowork.leader._core.state import Settings
from gowork.leader._engine.counts import Counts
from gowork.leader._engine.retention import Kept
from gowork.leader.store.protocol import Store

_log = logging.getLogger(__name__)

#: The least `Settings.finished_full`: tasks that finished in the last minutes are kept in any case, and there must be
#: room for new tasks beside them.
FINISHED_FULL_MIN = 100_000


class Leader:
    """A leader in this process. It installs no signal handlers and configures no logging."""

    def __init__(
        self,
        store: Store,
        *,
        cluster_listen: str = "127.0.0.1:50051",
        scheduler_listen: str = "127.0.0.1:50052",
        http_listen: str = "127.0.0.1:9464",
        settings: Settings | None = None,
        kept: Kept | None = None,
        reflection: bool = True,
    ) -> None:
        """Makes a leader. All three addresses are HOST:PORT; port 0 takes a free one.

        Args:
            store: a store that is not opened yet.
            cluster_listen: the address for workers.
            scheduler_listen: the address for clients.
            http_listen: the address for probes and metrics.
            settings: spans and bounds.
            kept: how many finished tasks are kept, and for how long. When the store has more than twice as many, and
                more than FINISHED_FULL_MIN, the leader takes no new tasks.
            reflection: whether the services describe themselves.
        """
        self._kept = kept or Kept()
        kept_tasks = self._kept.tasks + self._kept.failed_tasks
        self._settings = settings or Settings(finished_full=max(2 * kept_tasks, FINISHED_FULL_MIN))
        self._settings.traced = is_traced()
        self._store = store
        self._counts = Counts()
        self._node = Node(
            self._counts,
            cluster_listen=cluster_listen,
            scheduler_listen=scheduler_listen,
            http_listen=http_listen,
            reflection=reflection,
        )

    async def run(self, started: asyncio.Future[Addresses], stopped: asyncio.Event) -> None:
        """Serves until `stopped` is set. `started` gets the addresses when it serves.

        Raises:
            StoreError: the store can't be opened, or can no longer be trusted.
            ListenError, AddressError: the leader can't listen.
        """
        term = Term(self._store, self._counts, self._settings, self._kept)
        async with self._node.serving(stopped) as addresses:
            await self._node.lead(term, leads=lambda: started.set_result(addresses))
        if stopped.is_set():
            _log.info("stopped")
