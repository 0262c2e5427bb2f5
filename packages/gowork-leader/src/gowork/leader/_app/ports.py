"""Binds, serves and closes the ports for gRPC.

Both ports serve the same services: the leader's, through the switchboard, and gRPC's own health and reflection, which
are this node's own also while it forwards the others.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from gowork.base.channels import SERVER_OPTIONS, bind, format_address, parse_address
from gowork.base.decoding import Called, refusing_garbage
from gowork.base.directories import check_not_public
from gowork.base.interception import server_interceptors
from gowork.base.local_probes import PATH_BYTES_MAX
from gowork.base.outgoing import Outgoing
from gowork.base.reflection import add_reflection
from gowork.base.telemetry import is_traced
from gowork.base.tls import Tls
from gowork.leader._engine.counts import Counts
from gowork.leader._rpc.admission import HoldBack
from gowork.leader._rpc.services import SERVICES, Port, Switchboard
from gowork.proto.status import Refusal

_SESSIONS = "worker.v1.SessionService"
#: The ports close when no request has come for two spans of STOP_QUIET_SECONDS, and at the latest after
#: STOP_QUIET_SPANS_MAX spans.
STOP_QUIET_SECONDS = 0.02
STOP_QUIET_SPANS_MAX = 25


class ListenError(Exception):
    """A port can't be listened on."""


class Ports:
    """The gRPC servers of this process.

    Args:
        switchboard: answers the calls of the leader's services.
        counts: counts each call.
        reflection: whether the services describe themselves.
        tls: the certificates with which it serves; None: plain text.
    """

    def __init__(self, switchboard: Switchboard, counts: Counts, *, reflection: bool, tls: Tls | None = None) -> None:
        self._switchboard = switchboard
        self._called = called_of(counts)
        self._reflection = reflection
        self._tls = tls
        self._hold_back = HoldBack()
        # The two have bounds of their own, so that clients that do not read end no sessions.
        self._outgoing, self._session_outgoing = Outgoing(), Outgoing()
        self._health = health.aio.HealthServicer()
        self._servers: list[grpc.aio.Server] = []

    def bind(self, name: Port, listen: str) -> str:
        """Takes a port, which answers after `start`. Returns its address as HOST:PORT.

        Raises:
            ListenError: the port can't be listened on.
        """
        host, port = parse_address(listen)
        # The interceptor that makes spans comes first, because a span must include refused calls.
        interceptors = [*server_interceptors(), self._hold_back]
        server = grpc.aio.server(options=list(SERVER_OPTIONS), interceptors=interceptors)
        self._servers.append(server)
        for service in SERVICES:
            outgoing = self._session_outgoing if service == _SESSIONS else self._outgoing
            checked = refusing_garbage(server, self._called, outgoing, lambda: self._switchboard.forwards)
            self._switchboard.add_to(checked, service, name)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self._reflection:
            add_reflection(server, (*SERVICES, "grpc.health.v1.Health"))
        _check_free(name, listen, host, port)
        try:
            bound = bind(server, format_address(host, port), self._tls)
        except RuntimeError as error:
            raise ListenError(f"can't listen on {listen}: {error}") from error
        return format_address(host, bound)

    def bind_socket(self, name: Port, path: str) -> None:
        """Has the server of a port, which is bound, listen at a unix socket too.

        Raises:
            ListenError: it can't.
        """
        server = self._servers[list(Port).index(name)]
        if len(os.fsencode(path)) > PATH_BYTES_MAX:
            raise ListenError(f"can't listen on {path}: a socket's path has at most {PATH_BYTES_MAX} bytes")
        if not os.path.isdir(os.path.dirname(path) or "."):
            raise ListenError(f"can't listen on {path}: its directory is not there; make it before the leader starts")
        try:
            check_not_public(Path(path).parent)
        except OSError as error:
            raise ListenError(f"can't listen on {path}: {error.strerror or error}") from error
        try:
            with socket.socket(socket.AF_UNIX) as trial:
                trial.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            # Nobody listens there. gRPC replaces what a killed leader has left.
            pass
        except OSError as error:
            raise ListenError(f"can't listen on {path}: {error.strerror or error}") from error
        else:
            raise ListenError(f"can't listen on {path}: is another leader running there?")
        try:
            server.add_insecure_port(f"unix:{path}")
            # Who may enter the directory, and is of the socket's group, is a proxy.
            os.chmod(path, 0o660)
        except (RuntimeError, OSError) as error:
            raise ListenError(f"can't listen on {path}: {error}") from error

    async def start(self) -> None:
        """Answers calls on all ports that are bound."""
        await self.set_health(serving=False)
        for server in self._servers:
            await server.start()

    async def set_health(self, *, serving: bool) -> None:
        """Sets what the health service says of all services, until `stop`."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", *SERVICES):
            await self._health.set(service, status)

    @property
    def under_way(self) -> set[asyncio.Task[Any]]:
        """The asyncio tasks that serve calls of the leader's services now."""
        return self._hold_back.under_way

    async def see_off(self, calls: set[asyncio.Task[Any]], seconds: float, refusal: Refusal) -> None:
        """Waits for calls of the leader's services, and then ends the streams among them.

        Other calls end by themselves: their requests are still being received, or their answers read.

        Args:
            calls: the asyncio tasks that serve them.
            seconds: how long to wait before streams are ended.
            refusal: what the callers of such streams are told.
        """
        if calls:
            _, late = await asyncio.wait(calls, timeout=seconds)
            ended = self._switchboard.end_streams(late, refusal)
            if ended:
                await asyncio.wait(ended)

    async def stop(self, seconds: float) -> None:
        """Closes all ports, including those that were not started.

        A call that waits to be taken when its server shuts down ends with CANCELLED, as if its caller had given up
        (grpc/grpc#41785). So each is taken first and gets UNAVAILABLE, after which callers try again.

        Args:
            seconds: how long calls that are under way may go on.
        """
        await self._health.enter_graceful_shutdown()
        quiet = 0
        for _ in range(STOP_QUIET_SPANS_MAX):
            before = self._switchboard.refused
            await asyncio.sleep(STOP_QUIET_SECONDS)
            quiet = quiet + 1 if self._switchboard.refused == before else 0
            if quiet == 2:
                break
        async with asyncio.TaskGroup() as group:
            for server in self._servers:
                group.create_task(server.stop(grace=seconds))


def called_of(counts: Counts) -> Called:
    """Returns the function that counts calls, with their trace ids if they are traced."""
    if not is_traced():
        return counts.called
    # OpenTelemetry is imported only where it is used.
    from gowork.base.spans import current_trace_id

    def called(method: str, code: str, seconds: float) -> None:
        counts.called(method, code, seconds, current_trace_id())

    return called


def taken(port: str) -> str:
    """Returns what to do about an address that is taken, where the option has the name of this port."""
    return f": is another leader running there? Choose another port by --{port}-listen, or 0 for a free one"


def _check_free(name: Port, listen: str, host: str, port: int) -> None:
    """Tries the port first, because gRPC writes lines of its own to standard error and does not say what is wrong."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
            trial.listen()
    except OSError as error:
        words = error.strerror or str(error)
        message = f"can't listen on {listen}: {words}{taken(name.value) if error.errno == errno.EADDRINUSE else ''}"
        raise ListenError(message) from error
