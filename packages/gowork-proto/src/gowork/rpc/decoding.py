"""Requests that are not protobuf end with INVALID_ARGUMENT.

GRPC for Python would call them INTERNAL, as if the server were at fault.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeAlias, cast

import grpc
from google.protobuf.message import DecodeError

from gowork.rpc.status import Refusal, abort

_Handlers: TypeAlias = "Mapping[str, grpc.RpcMethodHandler[Any, Any]]"


def refusing_garbage(server: grpc.aio.Server) -> grpc.aio.Server:
    """What to add servicers to, in place of the server.

    `add_XServicer_to_server(servicer, refusing_garbage(server))`.
    """
    return cast(grpc.aio.Server, _DecodingServer(server))


class _DecodingServer:
    """Stands in for a server while servicers are added."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Takes nothing: the same handlers come by name next."""

    def add_registered_method_handlers(self, service: str, handlers: _Handlers) -> None:
        """Adds a service's handlers."""
        checked = {name: _checked(handler) for name, handler in handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, checked),))


class _Undecodable:
    """What a deserializer answers for bytes that it can't read."""


_UNDECODABLE = _Undecodable()


def _checked(handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
    decode = handler.request_deserializer
    assert decode is not None

    def deserialize(data: bytes) -> Any:
        try:
            return decode(data)
        except DecodeError:
            return _UNDECODABLE

    if handler.unary_unary is not None:
        return grpc.unary_unary_rpc_method_handler(
            _unary(handler.unary_unary), deserialize, handler.response_serializer
        )
    if handler.unary_stream is not None:
        return grpc.unary_stream_rpc_method_handler(
            _unary_stream(handler.unary_stream), deserialize, handler.response_serializer
        )
    assert handler.stream_stream is not None
    return grpc.stream_stream_rpc_method_handler(
        _stream_stream(handler.stream_stream), deserialize, handler.response_serializer
    )


def _unary(method: Callable[..., Any]) -> Callable[..., Any]:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        if request is _UNDECODABLE:
            await abort(context, _refusal())
        return await method(request, context)

    return call


def _unary_stream(method: Callable[..., Any]) -> Callable[..., Any]:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        if request is _UNDECODABLE:
            await abort(context, _refusal())
        async for response in method(request, context):
            yield response

    return call


def _stream_stream(method: Callable[..., Any]) -> Callable[..., Any]:
    async def call(requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
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
