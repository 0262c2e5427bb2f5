"""The node: the part of a leader that lives as long as the process, over all its terms.

It owns the ports, health, probes and metrics, and puts calls through to the term that leads. When no term leads, it
answers each call with UNAVAILABLE and says why. A node that follows forwards calls to the leader instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from msgspec import Struct
from prometheus_client import make_wsgi_app

from gowork.base.http import HttpListener, guarded, probe, threaded
from gowork.base.tls import REFRESH_SECONDS, Tls
from gowork.leader._access.access import Access
from gowork.leader._app.metrics import LogLook, Look, registry_of
from gowork.leader._app.ports import ListenError, Ports, called_of, taken
from gowork.leader._app.term import Term
from gowork.leader._engine.blocked import NotServingError
from gowork.leader._engine.counts import Counts
from gowork.leader._engine.loop import STOPPING
from gowork.leader._replication.journal import LogBlockedError
from gowork.leader._rpc.forwarding import Forwarding
from gowork.leader._rpc.services import Method, Port, Switchboard
from gowork.leader.store.protocol import StoreBlockedError, StoreFullError
from gowork.proto.status import Refusal

_log = logging.getLogger(__name__)

#: Why no term answers.
NOT_LEADING = "this leader does not lead now; try again in a moment"
STARTING = "this leader opens its store and leads in a moment; try again then"
#: How long calls that are under way may go on when a term ends or the node stops, in seconds.
STOP_GRACE_SECONDS = 1.0
#: The same when the store fails. The calls have been answered by then, and their answers must get out.
FAILED_GRACE_SECONDS = 0.2
#: How long a batch may wait for the log, or for the store, until a leader that leads is not ready, in seconds.
SILENT_SECONDS = 10.0
#: How long a scrape waits for the engine, in seconds.
LOOK_SECONDS = 5.0


class Addresses(Struct, frozen=True):
    """Where the leader serves, as HOST:PORT."""

    cluster: str
    scheduler: str
    http: str


class Node:
    """The node of a process. Enter `serving` once, and have terms `lead` inside it, one after the other.

    Where there are several leaders, tell it by `follow` which of them leads now.
    """

    def __init__(
        self,
        counts: Counts,
        *,
        cluster_listen: str,
        scheduler_listen: str,
        http_listen: str,
        reflection: bool,
        tls: Tls | None = None,
        access: Access | None = None,
        proxy_listen: str = "",
        http_token: Callable[[], str] | None = None,
    ) -> None:
        """Makes a node. All three addresses are HOST:PORT; port 0 takes a free one.

        Args:
            counts: what has happened in this process.
            cluster_listen: the address for workers.
            scheduler_listen: the address for clients.
            http_listen: the address for probes and metrics.
            reflection: whether the services describe themselves.
            tls: the certificates with which it serves, and calls the leader; None: plain text.
            access: says who may make which call; None: everybody may make each.
            proxy_listen: the path of a unix socket for a proxy, which says who calls through it; empty: there is none.
            http_token: returns what a scrape of /metrics must show; None: nothing.
        """
        self._access = access
        self._proxy_listen = proxy_listen
        self._http_token = http_token
        self._counts = counts
        self._tls = tls
        self._listen = (cluster_listen, scheduler_listen)
        self._http_listen = http_listen
        #: Why no term answers.
        self._refusal = Refusal(grpc.StatusCode.UNAVAILABLE, "NOT_LEADING", NOT_LEADING)
        self._switchboard = Switchboard(self._refusal, access, called_of(counts))
        self._ports = Ports(self._switchboard, counts, reflection=reflection, tls=tls)
        self._addresses = Addresses("", "", "")
        self._stopped = asyncio.Event()
        #: Until when calls that are under way may go on, by the loop's clock; None: the node is not to stop.
        self._stops_by: float | None = None
        #: What keeps this node from being ready; None: nothing does.
        self._waits_for: str | None = None
        #: {what it is about: what the probe of readiness says besides}
        self._remarks: dict[str, str] = {}
        #: The term that leads, or None.
        self._term: Term | None = None
        #: The term whose members are those that the access file allows; None: none that leads is known to be so.
        self._held_to_access: Term | None = None
        #: The calls that were under way when the last term ended.
        self._left: set[asyncio.Task[Any]] = set()
        #: Whether it forwards calls while no term leads, and the leader that was told last.
        self._follows = False
        self._leader: Addresses | None = None
        self._turned = asyncio.Event()
        self._forwarding = Forwarding(self._turned.set, tls)
        self._telling = asyncio.Lock()
        #: What the page of metrics shows of the log; None: there is no log, or it is not open yet.
        self._look_at_log: Callable[[], LogLook] | None = None

    @asynccontextmanager
    async def serving(self, stopped: asyncio.Event) -> AsyncIterator[Addresses]:
        """Answers on all ports while it is entered. It can be entered once.

        Args:
            stopped: is set when the process is to stop. Then a term that leads ends.

        Raises:
            ListenError, AddressError: the node can't listen.
        """
        self._stopped = stopped
        try:
            cluster, scheduler = (
                self._ports.bind(port, listen) for port, listen in zip(Port, self._listen, strict=True)
            )
            if self._proxy_listen:
                self._ports.bind_socket(Port.SCHEDULER, self._proxy_listen)
            listener = self._listener(asyncio.get_running_loop())
        except BaseException:
            await self._ports.stop(0.0)
            raise
        with listener:
            async with self._forwarding.running():
                watching = asyncio.create_task(self._watch_health(), name="health")
                renewing = asyncio.create_task(self._renew(), name="certificates")
                try:
                    await self._ports.start()
                    self._addresses = Addresses(cluster, scheduler, listener.address)
                    yield self._addresses
                finally:
                    watching.cancel()
                    renewing.cancel()
                    if stopped.is_set():
                        self._begin_to_stop()
                    # Also when it never led, or its store failed: callers get UNAVAILABLE, not silence.
                    self._follows = False
                    self._refuse("NOT_SERVING", STOPPING)
                    self._forwarding.stop(self._refusal)
                    await self._ports.stop(self._grace_left())

    def follow(self, leader: Addresses | None) -> None:
        """Forwards calls to this leader while no term leads here, from the first call of this method on.

        It may be called at any time while the node serves.

        Args:
            leader: where the leader of the cluster can be reached from here; None: nobody leads.
        """
        self._follows, self._leader = True, leader
        if self._term is None:
            self._forwarding.follow(_ports_of(leader))
            if self._forwards:
                self._switchboard.forward(self._forwarding.methods)

    def follow_on(self, because: str) -> None:
        """Does what `follow` does with the leader that was told last, for as long as that says itself that it leads.

        Args:
            because: why nobody else says who leads, for people.
        """
        self._follows = True
        if self._term is None:
            self._forwarding.follow_on(because)
            if self._forwards:
                self._switchboard.forward(self._forwarding.methods)

    def answer(self, methods: Mapping[str, Method]) -> None:
        """Has these calls answered here, and not forwarded, while it follows. Call it before `follow`.

        Args:
            methods: what answers them: {call: method}.
        """
        self._forwarding.answer(methods)

    def wait_for(self, because: str | None) -> None:
        """Says what this node waits for, which is not ready then. Calls are refused with it unless they are forwarded.

        Args:
            because: what it waits for; None: it waits no more.
        """
        if self._term is None:
            self._refuse("NOT_LEADING", because or NOT_LEADING)
        self._waits_for = because
        self._turned.set()

    def remark(self, about: str, words: str | None) -> None:
        """Has the probe of readiness say something besides. It does not change what is ready.

        Args:
            about: what it is about. It takes the place of what was said about this before.
            words: a sentence; None: nothing is to be said any more.
        """
        self._remarks.pop(about, None)
        if words is not None:
            self._remarks[about] = words

    def show_log(self, look: Callable[[], LogLook]) -> None:
        """Has the page of metrics show what this returns. It is called on the event loop."""
        self._look_at_log = look

    async def lead(
        self,
        term: Term,
        *,
        leads: Callable[[], None] = lambda: None,
        ended: Sequence[asyncio.Event] = (),
        since_mono: float | None = None,
    ) -> None:
        """Has a term answer the calls until it ends. After that nothing of the term is left, and the node answers on.

        Args:
            term: a term that is not opened yet.
            leads: is called when the term answers.
            ended: each of these ends the term when it is set. The term also ends when the node stops.
            since_mono: since when nobody leads, by the engine's clock; None: since now.

        Raises:
            StoreError: the store can't be opened.
            ExceptionGroup: with a StoreError or LogError; see Term.run.
        """
        began_mono = term.now().mono if since_mono is None else since_mono
        self._refuse("NOT_LEADING", STARTING)
        grace = FAILED_GRACE_SECONDS
        try:
            await term.open()
            async with asyncio.TaskGroup() as group:
                running = group.create_task(term.run(), name="term")
                await self._put_through(term, began_mono)
                leads()
                ends = {group.create_task(event.wait(), name="end of term") for event in (self._stopped, *ended)}
                await asyncio.wait({running, *ends}, return_when=asyncio.FIRST_COMPLETED)
                for end in ends:
                    end.cancel()
                grace = STOP_GRACE_SECONDS
                await self._turn_away(term)
        finally:
            await self._turn_away(term)
            await self._ports.see_off(self._left, grace, self._refusal)
            self._left = set()
            await term.close()

    async def _put_through(self, term: Term, began_mono: float) -> None:
        self._switchboard.connect(term.methods)
        self._forwarding.lead_here(term.methods)
        self._term = term
        self._counts.leads(term.now().mono - began_mono)
        await self._tell_health()
        _log.info("serves workers", extra={"address": self._addresses.cluster})
        _log.info("serves clients", extra={"address": self._addresses.scheduler})
        if self._proxy_listen:
            _log.info("serves a proxy", extra={"socket": self._proxy_listen})
        _log.info("serves probes and metrics", extra={"address": self._addresses.http})

    async def _turn_away(self, term: Term) -> None:
        """Puts no more calls through, and has the term end what it has taken. Harmless when repeated."""
        if self._stopped.is_set():
            self._begin_to_stop()
            self._refuse("NOT_SERVING", STOPPING)
        else:
            self._refuse("NOT_LEADING", NOT_LEADING)
        if self._term is not None:
            self._term = None
            self._left = self._ports.under_way - term.outliving
            self._counts.leads_no_more()
            self._forwarding.follow(_ports_of(self._leader))
        term.end(self._refusal.message)
        await self._tell_health()

    def _refuse(self, reason: str, because: str) -> None:
        """Has all calls, and the probe of readiness, answered with this reason; calls are forwarded if it follows."""
        self._refusal = Refusal(grpc.StatusCode.UNAVAILABLE, reason, because)
        if self._forwards:
            self._switchboard.forward(self._forwarding.methods)
        else:
            self._switchboard.disconnect(self._refusal)

    @property
    def _forwards(self) -> bool:
        """Whether calls are forwarded while no term leads."""
        return self._follows and not self._stopped.is_set()

    async def _tell_health(self) -> None:
        async with self._telling:
            follows = self._forwards and self._waits_for is None and self._forwarding.reaches[0]
            ready = self._term is not None or follows
            await self._ports.set_health(serving=ready)

    async def _watch_health(self) -> None:
        """Keeps up to date what the health service says of a node that forwards."""
        while True:
            await self._tell_health()
            expires_at = self._forwarding.expires_at
            expires = asyncio.get_running_loop().time() < expires_at < math.inf
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(expires_at if expires else None):
                    await self._turned.wait()
            self._turned.clear()

    async def _renew(self) -> None:
        """Uses certificates and the access file anew when they have changed."""
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                await self._renew_once()
            except Exception as error:  # noqa: BLE001 - whatever it is
                # Or nobody would be revoked any more.
                _log.exception("certificates and access not looked at")
                self.remark("renewal", f"certificates and access can't be looked at: {error!r}")
            else:
                self.remark("renewal", None)

    async def _renew_once(self) -> None:
        # In threads, because a disk may hang.
        if self._tls is not None:
            await asyncio.to_thread(self._tls.refresh, 0.0)
            fault = self._tls.fault
            self.remark("certificates", f"new certificates are not used: {fault}" if fault else None)
        if self._access is not None:
            if await asyncio.to_thread(self._access.refresh):
                self._held_to_access = None
                await self._switchboard.end_denied()
            # Also the members that a new term finds: their rights may have ended while nobody led here.
            term = self._term
            if term is not None and term is not self._held_to_access:
                await term.dismiss(self._access)
                self._held_to_access = term
            fault = self._access.fault
            self.remark("access", f"the new access file is not used: {fault}" if fault else None)

    def _begin_to_stop(self) -> None:
        if self._stops_by is None:
            # The loop's clock and not the engine's, because the servers' grace goes by it.
            self._stops_by = asyncio.get_running_loop().time() + STOP_GRACE_SECONDS
            _log.info("stopping", extra={"waits_for": "calls that are under way", "seconds_max": STOP_GRACE_SECONDS})

    def _grace_left(self) -> float:
        """Returns how long calls that are under way may go on when the ports close, in seconds."""
        left = 0.0 if self._stops_by is None else self._stops_by - asyncio.get_running_loop().time()
        return max(left, FAILED_GRACE_SECONDS)

    def _listener(self, loop: asyncio.AbstractEventLoop) -> HttpListener:
        registry = registry_of(
            self._counts, lambda: self._look(loop), lambda: self._log_seen(loop), self._tls, self._access
        )
        pages = {
            "/metrics": guarded(threaded(make_wsgi_app(registry)), self._http_token),
            "/healthz": probe(lambda: (True, "alive"), loop),
            "/readyz": probe(self.ready, loop),
        }
        try:
            return HttpListener(self._http_listen, pages)
        except OSError as error:
            hint = taken("http") if error.errno == errno.EADDRINUSE else ""
            raise ListenError(f"can't listen on {self._http_listen} for HTTP: {error.strerror}{hint}") from error

    def ready(self) -> tuple[bool, str]:
        """Returns whether this node takes work, and says why or why not. Call it on the event loop."""
        is_ready, words = self._ready_in_short()
        return is_ready, "; ".join((words, *self._remarks.values()))

    def _ready_in_short(self) -> tuple[bool, str]:
        if self._term is None:
            if self._waits_for is not None and not self._stopped.is_set():
                return False, self._waits_for
            return self._forwarding.reaches if self._forwards else (False, self._refusal.message)
        blocked = self._term.blocked
        if blocked is not None:
            return False, _in_short(blocked)
        waits = self._term.waits_seconds
        if waits > SILENT_SECONDS:
            return False, (
                f"the log, or the disk of the store, has not taken what is to be written for {waits:.0f} s; nothing is "
                "accepted until it does"
            )
        return True, "ready"

    def _look(self, loop: asyncio.AbstractEventLoop) -> Look:
        """Returns what a scrape sees. The threads of the HTTP listener call it."""
        term = self._term
        if term is None:
            raise TimeoutError(self._refusal.message)
        try:
            return asyncio.run_coroutine_threadsafe(term.look(), loop).result(LOOK_SECONDS)
        except NotServingError as error:
            raise TimeoutError(str(error)) from error

    def _log_seen(self, loop: asyncio.AbstractEventLoop) -> LogLook | None:
        """Does what `_look` does for the log."""
        look = self._look_at_log
        if look is None:
            return None

        async def on_loop() -> LogLook:
            return look()

        return asyncio.run_coroutine_threadsafe(on_loop(), loop).result(LOOK_SECONDS)


def _in_short(blocked: StoreBlockedError) -> str:
    if isinstance(blocked, LogBlockedError):
        return f"the log takes nothing: {blocked}"
    return (
        "the store is full" if isinstance(blocked, StoreFullError) else "another program holds the store's write lock"
    )


def _ports_of(leader: Addresses | None) -> dict[Port, str] | None:
    return None if leader is None else {Port.CLUSTER: leader.cluster, Port.SCHEDULER: leader.scheduler}
