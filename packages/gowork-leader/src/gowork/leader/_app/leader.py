"""The leader as a whole: what it is made of, and the order in which that starts and stops.

Start: store, engine, servers, health, HTTP. Stop: health, engine (what was taken becomes durable and is answered),
streams, servers once no more calls come in, store.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from msgspec import Struct
from prometheus_client import make_wsgi_app

from gowork.base.channels import SERVER_OPTIONS, format_address, parse_address
from gowork.base.decoding import Called, refusing_garbage
from gowork.base.http import HttpListener, probe, threaded
from gowork.base.interception import server_interceptors
from gowork.base.outgoing import Outgoing
from gowork.base.reflection import add_reflection
from gowork.base.telemetry import is_traced
from gowork.leader._app.metrics import Look, registry_of
from gowork.leader._core.effects import TraceSettling
from gowork.leader._core.explain import waiting_by_reason
from gowork.leader._core.queries import members, queue_depths
from gowork.leader._core.state import Settings, State
from gowork.leader._engine.blocked import NotServingError
from gowork.leader._engine.counts import Counts
from gowork.leader._engine.loop import Engine
from gowork.leader._engine.retention import Kept, Retention
from gowork.leader._rpc.activity import Overview
from gowork.leader._rpc.admission import HoldBack
from gowork.leader._rpc.dialer import Dialer
from gowork.leader._rpc.explaining import Explaining
from gowork.leader._rpc.following import Following
from gowork.leader._rpc.keeping import Keeping
from gowork.leader._rpc.lookups import Lookups
from gowork.leader._rpc.membership import Membership
from gowork.leader._rpc.outbox import Outbox
from gowork.leader._rpc.queues import QueueControl
from gowork.leader._rpc.scheduling import Scheduling
from gowork.leader._rpc.services import SERVICES, add_service, compose
from gowork.leader._rpc.sessions import Sessions
from gowork.leader._version import __version__
from gowork.leader.store.protocol import Store, StoreFullError

_log = logging.getLogger(__name__)

#: What calls that are under way get when the leader stops, in seconds.
STOP_GRACE_SECONDS = 1.0
#: What they get when the store fails: they have been answered, and that has to leave.
FAILED_GRACE_SECONDS = 0.2
#: The ports are closed when no request has come for two such spans, and at the latest after so many of them.
STOP_QUIET_SECONDS = 0.02
STOP_QUIET_SPANS_MAX = 25
#: However few are to be kept: those of the last minutes stay, and must not stop what comes.
FINISHED_FULL_MIN = 100_000
#: How long a scrape waits for the engine, in seconds.
LOOK_SECONDS = 5.0


class ListenError(Exception):
    """A port can't be listened on."""


class Addresses(Struct, frozen=True):
    """Where the leader serves, as HOST:PORT."""

    cluster: str
    scheduler: str
    http: str


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
        """All three addresses are HOST:PORT; port 0 takes a free one.

        Args:
            store: not opened yet.
            cluster_listen: for members and workers.
            scheduler_listen: for clients.
            http_listen: for probes and metrics.
            settings: spans and bounds.
            kept: how many finished tasks are kept, and for how long. At twice as many,
                and at least FINISHED_FULL_MIN, nothing new is taken.
            reflection: whether the services describe themselves.
        """
        kept = kept or Kept()
        settings = settings or Settings(finished_full=max(2 * (kept.tasks + kept.failed_tasks), FINISHED_FULL_MIN))
        settings.traced = is_traced()
        self._store = store
        self._listen = (cluster_listen, scheduler_listen)
        self._http_listen = http_listen
        self._reflection = reflection
        self._counts = Counts()
        self._hold_back = HoldBack()
        # Apart, so that clients that do not read end no sessions.
        self._outgoing, self._session_outgoing = Outgoing(), Outgoing()
        self._sessions = Sessions(settings)
        self._dialer = Dialer()
        outbox = Outbox(self._sessions, self._dialer, self._counts, *_settling(settings))
        self._engine = Engine(store, outbox, self._counts, settings)
        self._retention = Retention(self._engine, store, kept)
        self._sessions.attach(self._engine)
        self._dialer.attach(self._engine)
        explaining = Explaining(self._engine, store)
        self._methods = compose(
            {
                "cluster.v1.LeaderService": (Membership(self._engine),),
                "scheduler.v1.SchedulerService": (
                    Scheduling(self._engine),
                    Lookups(self._engine, store, explaining, __version__),
                    explaining,
                    QueueControl(self._engine),
                    Following(self._engine, store),
                    Keeping(self._engine, store),
                    Overview(self._engine, store, self._counts, __version__),
                ),
                "worker.v1.SessionService": (self._sessions,),
            }
        )
        self._health = health.aio.HealthServicer()
        self._serving = False

    async def run(self, started: asyncio.Future[Addresses], stopped: asyncio.Event) -> None:
        """Serves until `stopped` is set; `started` gets the addresses once it serves.

        Raises:
            StoreError: when the store can't be opened, or can no longer be trusted.
            ListenError, AddressError: when it can't listen.
        """
        servers: list[grpc.aio.Server] = []
        began_mono = self._engine.now().mono
        try:
            await self._engine.recover()
            bound = []
            for listen in self._listen:
                server, address = self._server(listen)
                servers.append(server)
                bound.append(address)
            loop = asyncio.get_running_loop()
            registry = registry_of(self._counts, lambda: self._look(loop))
            try:
                listener = HttpListener(
                    self._http_listen,
                    {
                        "/metrics": threaded(make_wsgi_app(registry)),
                        "/healthz": probe(lambda: (True, "alive"), loop),
                        "/readyz": probe(self._ready, loop),
                    },
                )
            except OSError as error:
                raise ListenError(f"can't listen on {self._http_listen} for HTTP: {error.strerror}") from error
            engine_done = asyncio.Event()
            with listener:
                async with asyncio.TaskGroup() as group:
                    engine = group.create_task(self._engine.run(), name="engine")
                    engine.add_done_callback(lambda _: engine_done.set())
                    group.create_task(self._dialer.run(engine_done), name="dialer")
                    group.create_task(self._retention.run(engine_done), name="retention")
                    for server in servers:
                        await server.start()
                    await self._set_health(health_pb2.HealthCheckResponse.SERVING)
                    self._serving = True
                    self._counts.leads(self._engine.now().mono - began_mono)
                    _log.info("serves workers", extra={"address": bound[0]})
                    _log.info("serves clients", extra={"address": bound[1]})
                    _log.info("serves probes and metrics", extra={"address": listener.address})
                    started.set_result(Addresses(bound[0], bound[1], listener.address))
                    stop = group.create_task(self._stop_when(stopped, servers), name="stop")
                    await asyncio.wait({engine, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if self._serving:
                self._serving = False
                await self._turn_away()
            # Also when it never served, or its store failed: callers get UNAVAILABLE, not silence.
            for server in servers:
                await server.stop(grace=FAILED_GRACE_SECONDS)
            await self._store.close()
            if stopped.is_set():
                _log.info("stopped")

    async def _stop_when(self, stopped: asyncio.Event, servers: list[grpc.aio.Server]) -> None:
        await stopped.wait()
        _log.info("stopping", extra={"waits_for": "calls that are under way", "seconds_max": STOP_GRACE_SECONDS})
        self._serving = False
        self._counts.leads_no_more()
        await self._health.enter_graceful_shutdown()
        self._engine.stop()
        self._engine.subscriptions.close()
        self._sessions.end_all()
        await self._turn_away()
        async with asyncio.TaskGroup() as group:
            for server in servers:
                group.create_task(server.stop(grace=STOP_GRACE_SECONDS))

    async def _turn_away(self) -> None:
        # A call that waits to be taken when its server is shut down ends with CANCELLED, as if its caller had given up
        # (grpc/grpc#41785). Each is taken first and told UNAVAILABLE, on which callers try again.
        quiet = 0
        for _ in range(STOP_QUIET_SPANS_MAX):
            before = self._engine.turned_away
            await asyncio.sleep(STOP_QUIET_SECONDS)
            quiet = quiet + 1 if self._engine.turned_away == before else 0
            if quiet == 2:
                return

    def _server(self, listen: str) -> tuple[grpc.aio.Server, str]:
        host, port = parse_address(listen)
        # Spans outermost: what is held back is no part of the call yet, and what is refused is.
        interceptors = [*server_interceptors(), self._hold_back]
        server = grpc.aio.server(options=list(SERVER_OPTIONS), interceptors=interceptors)
        for service, names in SERVICES.items():
            outgoing = self._session_outgoing if service == "worker.v1.SessionService" else self._outgoing
            decoding = refusing_garbage(server, _called(self._counts), outgoing)
            add_service(service, {name: self._methods[service, name] for name in names}, decoding)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self._reflection:
            add_reflection(server, (*SERVICES, "grpc.health.v1.Health"))
        _check_free(listen, host, port)
        try:
            bound = server.add_insecure_port(format_address(host, port))
        except RuntimeError as error:
            raise ListenError(f"can't listen on {listen}: {error}") from error
        return server, format_address(host, bound)

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus.ValueType) -> None:
        for service in ("", *SERVICES):
            await self._health.set(service, status)

    def _ready(self) -> tuple[bool, str]:
        if not self._serving:
            return False, "not serving"
        if self._engine.blocked is not None:
            full = isinstance(self._engine.blocked, StoreFullError)
            return False, "the store is full" if full else "another program holds the store's write lock"
        return True, "ready"

    def _look(self, loop: asyncio.AbstractEventLoop) -> Look:
        now = self._engine.now()

        def look(state: State) -> Look:
            depths = queue_depths(state)
            self._counts.drop_idle({depth.name for depth in depths})
            return Look(
                members(state),
                waiting_by_reason(state, now),
                depths,
                self._engine.opened.term,
                self._retention.oldest_ms,
                now.wall_ms,
            )

        try:
            return asyncio.run_coroutine_threadsafe(self._engine.read(look), loop).result(LOOK_SECONDS)
        except NotServingError as error:
            raise TimeoutError(str(error)) from error


def _called(counts: Counts) -> Called:
    """What counts calls: with their traces, where there are any."""
    if not is_traced():
        return counts.called
    # OpenTelemetry is imported only where it is used.
    from gowork.base.spans import current_trace_id

    def called(method: str, code: str, seconds: float) -> None:
        counts.called(method, code, seconds, current_trace_id())

    return called


def _settling(settings: Settings) -> list[Callable[[TraceSettling], None]]:
    """What makes the spans of settled attempts, where they are traced."""
    if not settings.traced:
        return []
    # OpenTelemetry is imported only where it is used.
    from gowork.leader._rpc.tracing import SettleSpans

    return [SettleSpans(__version__).settle]


def _check_free(listen: str, host: str, port: int) -> None:
    """Tries the port first: gRPC tells a taken one by lines of its own on standard error, and not what is wrong."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
            trial.listen()
    except OSError as error:
        hint = ": is another leader running there? Choose another port, or 0 for a free one"
        words = error.strerror or str(error)
        message = f"can't listen on {listen}: {words}{hint if error.errno == errno.EADDRINUSE else ''}"
        raise ListenError(message) from error
