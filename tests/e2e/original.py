"""The original contract, and a worker, a leader and a caller that know nothing else.

Messages are built at run time from the image that `buf breaking` compares with, without gowork's own generated code.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

IMAGE = Path(__file__).parents[2] / "packages/gowork-proto/contract/go-work.binpb"
#: The deadline of every call, in seconds.
CALL_SECONDS = 20


def _load() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(IMAGE.read_bytes()).file:
        pool.Add(file)
    return pool


POOL = _load()


def message(name: str, **fields: Any) -> Any:
    """Makes a message of the type with this full name."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(name))(**fields)


def value(enum: str, name: str) -> int:
    """The number of an enum's value."""
    return POOL.FindEnumTypeByName(enum).values_by_name[name].number


def _method(path: str) -> tuple[type[Any], type[Any]]:
    service, name = path.split("/")
    method = POOL.FindServiceByName(service).methods_by_name[name]
    return message_factory.GetMessageClass(method.input_type), message_factory.GetMessageClass(method.output_type)


class Caller:
    """Calls methods by "package.Service/Method", with the original's messages."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    async def __call__(self, path: str, **fields: Any) -> Any:
        """Makes a unary call, and returns its response."""
        asked, answered = _method(path)
        call = self._channel.unary_unary(
            f"/{path}", request_serializer=asked.SerializeToString, response_deserializer=answered.FromString
        )
        return await call(asked(**fields), timeout=CALL_SECONDS)

    def stream_unary(self, path: str, requests: Any = None, timeout: float = CALL_SECONDS) -> Any:
        """A client-streaming call, as the .proto of the original's branch declares Heartbeat."""
        asked, answered = _method(path)
        return self._channel.stream_unary(
            f"/{path}", request_serializer=asked.SerializeToString, response_deserializer=answered.FromString
        )(requests, timeout=timeout)

    def stream_stream(self, path: str) -> Any:
        """A bidirectional call, as the code of the original's branch makes for Heartbeat."""
        asked, answered = _method(path)
        return self._channel.stream_stream(
            f"/{path}", request_serializer=asked.SerializeToString, response_deserializer=answered.FromString
        )(timeout=CALL_SECONDS)


@dataclass(frozen=True)
class Certificates:
    """What the original's programs have for mutual TLS, on either side: PEM files, and the name of who is called."""

    authority: Path
    certificate: Path
    key: Path
    name: str = ""

    def _read(self) -> tuple[bytes, bytes, bytes]:
        return self.authority.read_bytes(), self.key.read_bytes(), self.certificate.read_bytes()

    def channel(self, address: str) -> grpc.aio.Channel:
        """A channel by TLS, which shows the certificate."""
        options = [("grpc.ssl_target_name_override", self.name)] if self.name else []
        return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(*self._read()), options=options)

    def bind(self, server: grpc.aio.Server, address: str) -> int:
        """Serves by TLS, and takes only callers with a certificate of the authority."""
        authority, key, certificate = self._read()
        credentials = grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=True)
        return server.add_secure_port(address, credentials)


@asynccontextmanager
async def calling(address: str, certificates: Certificates | None = None) -> AsyncIterator[Caller]:
    """A caller of one address."""
    async with grpc.aio.insecure_channel(address) if certificates is None else certificates.channel(address) as channel:
        yield Caller(channel)


Behaviour = Callable[[Any, Any], Awaitable[Any]]


@asynccontextmanager
async def serving(
    services: Mapping[str, Mapping[str, Behaviour]], certificates: Certificates | None = None
) -> AsyncIterator[str]:
    """Serves unary methods on a free port, as the original's branch main has them; yields HOST:PORT.

    Args:
        services: {"package.Service": {"Method": what it does with the request}}
        certificates: by TLS with these; None: in plain text.
    """
    server = grpc.aio.server()
    for service, methods in services.items():
        handlers = {name: _handler(f"{service}/{name}", behaviour) for name, behaviour in methods.items()}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    listen = "127.0.0.1:0"
    port = server.add_insecure_port(listen) if certificates is None else certificates.bind(server, listen)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


def _handler(path: str, behaviour: Behaviour) -> Any:
    asked, answered = _method(path)
    return grpc.unary_unary_rpc_method_handler(behaviour, asked.FromString, answered.SerializeToString)


class Worker:
    """Serves worker.v1.WorkerService, and leaves it to the test how each task ends."""

    def __init__(self, *, takes: bool = True, certificates: Certificates | None = None) -> None:
        self.takes = takes
        self._certificates = certificates
        self.started: asyncio.Queue[Any] = asyncio.Queue(1000)
        self.stopped: asyncio.Queue[Any] = asyncio.Queue(1000)
        self.address = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Worker]:
        """Serves on a free port."""
        methods = {"StartWork": self._start, "StopWork": self._stop}
        async with serving({"worker.v1.WorkerService": methods}, self._certificates) as self.address:
            yield self

    async def _start(self, request: Any, context: object) -> Any:
        await self.started.put(request)
        return message("worker.v1.StartWorkResponse", success=self.takes)

    async def _stop(self, request: Any, context: object) -> Any:
        await self.stopped.put(request)
        return message("worker.v1.StopWorkResponse", success=True)


class Leader:
    """Serves what a callback worker calls at a leader: Join, Heartbeat, TaskComplete and Leave."""

    def __init__(self) -> None:
        #: {method: its requests that the test has not taken}.
        self.heard: dict[str, asyncio.Queue[Any]] = {
            name: asyncio.Queue(1000) for name in ("Join", "Heartbeat", "TaskComplete", "Leave")
        }
        self.address = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Leader]:
        """Serves on a free port."""
        cluster = {name: self._hears(name) for name in ("Join", "Leave", "Heartbeat")}
        scheduler = {"TaskComplete": self._hears("TaskComplete", "scheduler.v1")}
        services = {"cluster.v1.LeaderService": cluster, "scheduler.v1.SchedulerService": scheduler}
        async with serving(services) as self.address:
            yield self

    async def hears(self, name: str) -> Any:
        """Waits for the next request of a method, and returns it."""
        return await asyncio.wait_for(self.heard[name].get(), CALL_SECONDS)

    def _hears(self, name: str, package: str = "cluster.v1") -> Behaviour:
        async def behaviour(request: Any, context: object) -> Any:
            await self.heard[name].put(request)
            return message(f"{package}.{name}Response")

        return behaviour
