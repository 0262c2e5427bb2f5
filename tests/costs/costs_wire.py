"""A stand-in for gRPC: calls between channels and servers of one process, each message serialized as on a wire.

It has only what gowork uses. Each message takes a fixed span of simulated time, and messages keep their order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import grpc

#: Simulated seconds that a message is under way.
WAY_SECONDS = 0.0001


class Wire:
    """All servers and channels of a process."""

    def __init__(self) -> None:
        self._servers: list[Server] = []
        #: {method: [number of messages of clients, number of messages of servers]}
        self.messages: dict[str, list[int]] = {}

    @contextmanager
    def laid(self) -> Iterator[None]:
        """Within, servers and channels that are made belong to this wire."""
        with (
            mock.patch("grpc.aio.server", self._serve),
            mock.patch("grpc.aio.insecure_channel", self._connect),
        ):
            yield

    def _serve(self, *, options: Any, interceptors: list[Any]) -> Server:
        server = Server(interceptors)
        self._servers.append(server)
        return server

    def _connect(self, target: str, *, options: Any, interceptors: list[Any]) -> Channel:
        return Channel(self)

    async def handler_of(self, method: str) -> Any:
        """The method's handler, as the interceptors hand it on."""
        details: Any = SimpleNamespace(method=method, invocation_metadata=())
        for server in self._servers:
            handler = server.find(details)
            if handler is not None:

                async def found(_: Any, handler: Any = handler) -> Any:
                    return handler

                continuation: Callable[[Any], Any] = found
                for interceptor in reversed(server.interceptors):
                    continuation = _through(interceptor, continuation)
                return await continuation(details)
        raise AssertionError(f"nobody serves {method}")

    def count(self, method: str, *, of_server: bool) -> None:
        """Counts a message."""
        self.messages.setdefault(method, [0, 0])[of_server] += 1


def _through(interceptor: Any, continuation: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda details: interceptor.intercept_service(continuation, details)


class Server:
    """Stands in for grpc.aio.Server."""

    def __init__(self, interceptors: list[Any]) -> None:
        self.interceptors = interceptors
        self._generic: list[Any] = []

    def find(self, details: Any) -> grpc.RpcMethodHandler[Any, Any] | None:
        return next((found for each in self._generic if (found := each.service(details)) is not None), None)

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        self._generic += handlers

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """Does nothing, because the same handlers come as generic ones."""

    def add_insecure_port(self, address: str) -> int:
        return 1

    async def start(self) -> None:
        """Does nothing: the server serves from the beginning."""

    async def stop(self, grace: float | None) -> None:
        """Does nothing: the calls have ended by then."""


class _Context:
    """Stands in for grpc.aio.ServicerContext."""

    def __init__(self, requests: _Way) -> None:
        self._requests = requests
        self._code: grpc.StatusCode | None = None

    async def read(self) -> bytes | None:
        """The next request."""
        return await self._requests.receive()

    def invocation_metadata(self) -> tuple[()]:
        """No leader has forwarded this call."""
        return ()

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def code(self) -> grpc.StatusCode | None:
        return self._code

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> None:
        self._code = code
        raise grpc.aio.AbortError(f"{code.name}: {details}")


class Channel:
    """Stands in for grpc.aio.Channel."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def unary_unary(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, **_: Any
    ) -> Any:
        def start(request: Any, timeout: float | None = None, **_: Any) -> Call:
            call = Call(self._wire, method, request_serializer, response_deserializer)
            call.send(request)
            call.begin()
            return call

        return start

    def unary_stream(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, **_: Any
    ) -> Any:
        def start(request: Any, timeout: float | None = None, **_: Any) -> Call:
            call = Call(self._wire, method, request_serializer, response_deserializer)
            call.send(request)
            return call

        return start

    def stream_stream(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, **_: Any
    ) -> Any:
        return lambda **_: Call(self._wire, method, request_serializer, response_deserializer)

    def stream_unary(self, method: str, *_: Any, **__: Any) -> Any:
        raise AssertionError("gowork has no such methods")

    async def close(self) -> None:
        """Does nothing: its calls have ended by then."""


class _Way:
    """One direction of a call."""

    def __init__(self) -> None:
        self._under_way: deque[bytes | None] = deque()
        self._arrived: asyncio.Queue[bytes | None] = asyncio.Queue()

    def send(self, data: bytes | None) -> None:
        """Sends a message; None is the end."""
        self._under_way.append(data)
        asyncio.get_running_loop().call_later(WAY_SECONDS, self._arrive)

    async def receive(self) -> bytes | None:
        """The next message."""
        return await self._arrived.get()

    def _arrive(self) -> None:
        # Timers of one moment fire in any order, but messages must arrive in the order of their sending.
        self._arrived.put_nowait(self._under_way.popleft())


class Call:
    """One call as its caller sees it; an asyncio task of its own serves it. All sleeps here are in simulated time."""

    def __init__(self, wire: Wire, method: str, serialize: Any, deserialize: Any) -> None:
        self._wire = wire
        self._method = method
        self._serialize = serialize or bytes
        self._deserialize = deserialize or bytes
        self._requests, self._responses = _Way(), _Way()
        self._serving = asyncio.get_running_loop().create_task(self._serve())

    # The caller

    def send(self, request: Any) -> None:
        self._wire.count(self._method, of_server=False)
        self._requests.send(self._serialize(request))

    async def write(self, request: Any) -> None:
        self.send(request)
        await asyncio.sleep(WAY_SECONDS)

    async def read(self) -> Any:
        data = await self._responses.receive()
        return grpc.aio.EOF if data is None else self._deserialize(data)

    def begin(self) -> None:
        """Reads the one response, whether or not it is awaited."""
        self._only = asyncio.get_running_loop().create_task(self.only())

    def __await__(self) -> Generator[Any, None, Any]:
        return self._only.__await__()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._only.add_done_callback(lambda _: callback(self))

    def cancelled(self) -> bool:
        return self._only.cancelled()

    async def only(self) -> Any:
        data = await self._responses.receive()
        if data is None:
            raise AssertionError(f"{self._method} was refused: {self._serving.exception()}")
        return self._deserialize(data)

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (response := await self.read()) is not grpc.aio.EOF:
            yield response

    def cancel(self) -> bool:
        return self._serving.cancel()

    async def code(self) -> grpc.StatusCode:
        await asyncio.wait([self._serving])
        failed = self._serving.cancelled() or self._serving.exception() is not None
        return grpc.StatusCode.CANCELLED if failed else grpc.StatusCode.OK

    async def initial_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata()

    async def details(self) -> str:
        return "the call is over"

    # The server

    async def _serve(self) -> None:
        context: Any = _Context(self._requests)
        try:
            handler: Any = await self._wire.handler_of(self._method)
            if handler.stream_unary is not None:
                self._respond(await handler.stream_unary(None, context))
                return
            async for response in handler.stream_stream(self._received(), context):
                self._respond(response)
                await asyncio.sleep(WAY_SECONDS)
        finally:
            self._responses.send(None)

    async def _received(self) -> AsyncIterator[Any]:
        while True:
            yield await self._requests.receive()

    def _respond(self, data: bytes) -> None:
        self._wire.count(self._method, of_server=True)
        self._responses.send(data)
