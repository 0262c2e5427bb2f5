"""The leader as a whole: a node and the term that leads on it, and the order in which they start and stop.

Start: ports and HTTP, which answer that nobody leads yet; then store, engine, health. Stop: health; then engine, which
makes durable and answers what it has taken; then streams, store, and ports when no more calls come in.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import cast

from gowork.base.certificates import CertificateError
from gowork.base.telemetry import is_traced
from gowork.base.tls import Tls, tls_of
from gowork.base.tls_files import TlsFiles
from gowork.leader._access.access import Access
from gowork.leader._app.advertised import advertised_addresses, advertised_host
from gowork.leader._app.equipment import Equipment
from gowork.leader._app.node import Addresses, Node
from gowork.leader._app.standby import Standby, announced
from gowork.leader._app.term import Term
from gowork.leader._core.state import Settings
from gowork.leader._engine.counts import Counts
from gowork.leader._engine.retention import Kept
from gowork.leader._rpc.dialer import DIAL_SECONDS
from gowork.leader._snapshots.places import SnapshotPlace
from gowork.leader.log.protocol import Log
from gowork.leader.store.protocol import LoggedStore, Store

_log = logging.getLogger(__name__)

#: The least `Settings.finished_full`: tasks that finished in the last minutes are kept in any case, and there must be
#: room for new tasks beside them.
FINISHED_FULL_MIN = 100_000
#: For how long after it takes over a leader among several believes no callback worker that it is idle, in seconds. The
#: leader before it may call until its lease is over, and a call may take as long as DIAL_SECONDS.
ADOPTED_SECONDS = 5.0 + DIAL_SECONDS


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
        log: Log | None = None,
        name: str = "",
        advertise: str = "",
        may_be_one_copy: bool = True,
        snapshots: SnapshotPlace | None = None,
        cloudwatch: str = "",
        tls: Tls | TlsFiles | None = None,
        tls_worker_name: str = "",
        access: Access | None = None,
        proxy_listen: str = "",
        http_token: Callable[[], str] | None = None,
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
            log: a log that is not opened yet, which this leader shares with others; None: it is the only leader. The
                store must be a LoggedStore.
            name: what this leader is called among those that share the log; empty: the name of this machine.
            advertise: the host at which the others, workers and clients reach this leader; empty: the host that it
                listens on, or where that is any, the name of this machine.
            may_be_one_copy: what happens when the log has grown to its bound, and most leaders' stores lack its
                entries. True: only one store has what is pruned, and readiness says so. False: nothing more is written.
            snapshots: where leaders that share a log keep snapshots of their stores; None: nowhere.
            cloudwatch: what the cluster is called in metrics of CloudWatch, which the leader that leads writes into its
                log as JSON; empty: it writes none.
            tls: the certificates with which it serves, and calls other leaders and callback workers, or the files that
                have them; None: plain text.
            tls_worker_name: the name that callback workers' certificates have; empty: the host of their address.
            access: says who may do what; None: everybody may do everything, also with a certificate of any role.
            proxy_listen: the path of a unix socket for a proxy, which says who calls through it; empty: there is none.
            http_token: returns what a scrape of /metrics must show; None: nothing.

        Raises:
            AddressError: `advertise` is no host at which anybody is reached.
            CertificateError: the files of `tls` can't be used, or do not suffice for a leader.
        """
        if isinstance(tls, TlsFiles):
            tls = tls_of(tls)
        check_tls(tls, is_alone=log is None)
        self._log = log
        self._name = name or socket.gethostname()
        self._advertise = advertised_host(advertise)
        self._may_be_one_copy = may_be_one_copy
        self._snapshots = snapshots
        kept = kept or Kept()
        settings = settings or Settings(finished_full=max(2 * (kept.tasks + kept.failed_tasks), FINISHED_FULL_MIN))
        settings.traced = is_traced()
        if log is not None:
            settings.callback_adopted_grace = ADOPTED_SECONDS
        self._store = store
        self._access = access
        self._equipment = Equipment(Counts(), settings, kept, cloudwatch, tls, tls_worker_name, access)
        self._node = Node(
            self._equipment.counts,
            cluster_listen=cluster_listen,
            scheduler_listen=scheduler_listen,
            http_listen=http_listen,
            reflection=reflection,
            tls=tls,
            access=access,
            proxy_listen=proxy_listen,
            http_token=http_token,
        )

    @property
    def name(self) -> str:
        """What it is called among the leaders that share its log, and on this machine."""
        return self._name

    def ready(self) -> tuple[bool, str]:
        """Returns whether it takes work, and says why or why not, as /readyz does. Call it on the event loop."""
        return self._node.ready()

    async def run(self, started: asyncio.Future[Addresses], stopped: asyncio.Event) -> None:
        """Serves until `stopped` is set. `started` gets the addresses when it serves.

        Raises:
            StoreError: the store can't be opened, or can no longer be trusted.
            LogError, ChainError, NewerFormatError: the same of the log.
            ListenError, AddressError: the leader can't listen.
        """
        try:
            if self._log is None:
                await self._run_alone(started, stopped)
            else:
                await self._run_among_others(self._log, started, stopped)
        finally:
            if self._access is not None:
                self._access.close()

    async def _run_alone(self, started: asyncio.Future[Addresses], stopped: asyncio.Event) -> None:
        async with self._node.serving(stopped) as addresses:
            own = announced(self._name, advertised_addresses(addresses, self._advertise))
            term = Term(self._store, self._equipment, own=own)
            await self._node.lead(term, leads=lambda: started.set_result(addresses))
        if stopped.is_set():
            _log.info("stopped")

    async def _run_among_others(self, log: Log, started: asyncio.Future[Addresses], stopped: asyncio.Event) -> None:
        """Serves from the start: while another leads, calls are forwarded to it."""
        async with self._node.serving(stopped) as addresses:
            started.set_result(addresses)
            standby = Standby(
                self._node,
                cast(LoggedStore, self._store),
                log,
                self._equipment,
                name=self._name,
                advertised=advertised_addresses(addresses, self._advertise),
                may_be_one_copy=self._may_be_one_copy,
                place=self._snapshots,
            )
            await standby.run(stopped)
        _log.info("stopped")


def check_tls(tls: Tls | None, *, is_alone: bool) -> None:
    """Refuses certificates that do not suffice for a leader.

    Args:
        tls: the certificates; None: plain text.
        is_alone: whether no other leader shares a log with this one.

    Raises:
        CertificateError: it has none with which it serves, or none by which it knows the leaders that it calls.
    """
    if tls is not None and not tls.serves:
        raise CertificateError("tls-ca needs tls-cert and tls-key, the certificate with which this leader serves")
    if tls is not None and not (is_alone or tls.calls):
        raise CertificateError(
            "leaders with a log call one another: give --tls-ca, the authority of their certificates"
        )
