"""What is between gRPC for Python's server and a servicer: requests are decoded, and calls are timed.

Requests that are not protobuf end with INVALID_ARGUMENT; gRPC would call them INTERNAL, as if the server were at fault.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any, TypeAlias, cast

import grpc
from google.protobuf.message import DecodeError

from gowork.rpc.status import Refusal, abort

_Handlers: TypeAlias = "Mapping[str, grpc.RpcMethodHandler[Any, Any]]"


#: Is told of each call that ends: its method, as package.Service/Method, the name of its status code, its seconds.
Called = Callable[[str, str, float], None]


def refusing_garbage(server: grpc.aio.Server, called: Called = lambda method, code, seconds: None) -> grpc.aio.Server:
    """What to add servicers to, in place of the server.

    `add_XServicer_to_server(servicer, refusing_garbage(server))`.

    Args:
        server: not started yet.
        called: is told of each call that ends.
    """
    return cast(grpc.aio.Server, _DecodingServer(server, called))


class _DecodingServer:
    """Stands in for a server while servicers are added."""

    def __init__(self, server: grpc.aio.Server, called: Called) -> None:
        self._server = server
        self._called = called

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Takes nothing: the same handlers come by name next."""

    def add_registered_method_handlers(self, service: str, handlers: _Handlers) -> None:
        """Adds a service's handlers."""
        checked = {
            name: _checked(handler, partial(_Timed, f"{service}/{name}", self._called))
            for name, handler in handlers.items()
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, checked),))


class _Undecodable:
    """What a deserializer answers for bytes that it can't read."""


_UNDECODABLE = _Undecodable()


class _Timed:
    """Times one call."""

    __slots__ = ("_called", "_context", "_method", "_started")

    def __init__(self, method: str, called: Called, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._method = method
        self._called = called
        self._context = context
        self._started = time.perf_counter()

    def __enter__(self) -> None:
        """Nothing is left to do."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            code = "OK"
        elif isinstance(error, asyncio.CancelledError | GeneratorExit):
            code = "CANCELLED"
        else:
            # Set by abort. What else is raised is a defect, which gRPC tells so.
            told: grpc.StatusCode | None = self._context.code()
            code = "UNKNOWN" if told is None else told.name
        self._called(self._method, code, time.perf_counter() - self._started)


#: Times a call, given its context.
_Timing: TypeAlias = "Callable[[grpc.aio.ServicerContext[Any, Any]], _Timed]"


def _checked(handler: grpc.RpcMethodHandler[Any, Any], timed: _Timing) -> grpc.RpcMethodHandler[Any, Any]:
    decode = handler.request_deserializer
    assert decode is not None

    def deserialize(data: bytes) -> Any:
        try:
            return decode(data)
        except DecodeError:
            return _UNDECODABLE

    if handler.unary_unary is not None:
        return grpc.unary_unary_rpc_method_handler(
            _unary(handler.unary_unary, timed), deserialize, handler.response_serializer
        )
    if handler.unary_stream is not None:
        return grpc.unary_stream_rpc_method_handler(
            _unary_stream(handler.unary_stream, timed), deserialize, handler.response_serializer
        )
    assert handler.stream_stream is not None
    return grpc.stream_stream_rpc_method_handler(
        _stream_stream(handler.stream_stream, timed), deserialize, handler.response_serializer
    )


def _unary(method: Callable[..., Any], timed: _Timing) -> Callable[..., Any]:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        with timed(context):
            if request is _UNDECODABLE:
                await abort(context, _refusal())
            return await method(request, context)

    return call


def _unary_stream(method: Callable[..., Any], timed: _Timing) -> Callable[..., Any]:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        with timed(context):
            if request is _UNDECODABLE:
                await abort(context, _refusal())
            async for response in method(request, context):
                yield response

    return call


def _stream_stream(method: Callable[..., Any], timed: _Timing) -> Callable[..., Any]:
    async def call(requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        with timed(context):
            async for response in method(_decoded(requests), context):
                yield response

    return call


async def _decoded(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        if request is _UNDECODABLE:
            # Handlers let a Refusal end their call, and clean up as for any other end.
            raise _refusal()
        yield request


def _refusal() -> Refusal:
    return Refusal(
        grpc.StatusCode.INVALID_ARGUMENT, "NOT_PROTOBUF", "the request is not a protobuf message of this method's type"
    )
