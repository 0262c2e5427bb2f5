"""Stands between gRPC's server and a servicer: decodes requests, times calls, and bounds how long callers hold them.

A request that is not protobuf ends with INVALID_ARGUMENT. gRPC itself would answer INTERNAL, as if the server were at
fault. A call whose request does not come in time ends, and answers that nobody reads are bounded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any, NamedTuple, TypeAlias, cast

import grpc
from google.protobuf.message import DecodeError

from gowork.base.outgoing import COUNTED_BYTES_MIN, Later, Outgoing
from gowork.proto.status import Refusal, abort

#: How long the request of a call with one request may take to arrive, in seconds. gRPC itself waits for as long as the
#: connection lives, so that callers who send nothing could use up all calls that may be open.
REQUEST_SECONDS = 60.0

_Handlers: TypeAlias = "Mapping[str, grpc.RpcMethodHandler[Any, Any]]"


#: Called when a call ends, with its method (package.Service/Method), the name of its status code, and its seconds.
Called = Callable[[str, str, float], None]
#: Whether a call that comes now is passed on as bytes: then the servicer gets requests, and returns answers, undecoded.
PassedOn = Callable[[], bool]


def refusing_garbage(
    server: grpc.aio.Server,
    called: Called = lambda method, code, seconds: None,
    outgoing: Outgoing | None = None,
    passed_on: PassedOn = lambda: False,
) -> grpc.aio.Server:
    """Returns what to add servicers to, in place of the server: requests that are not protobuf are then refused.

    Use it as `add_XServicer_to_server(servicer, refusing_garbage(server))`.

    Args:
        server: a server that is not started yet.
        called: called when a call ends.
        outgoing: bounds the answers that callers do not read; pass the same one for all servers of the process.
        passed_on: is asked as each call begins. Bytes that are passed on are not checked.
    """
    return cast(grpc.aio.Server, _DecodingServer(server, called, outgoing or Outgoing(), passed_on))


def not_protobuf() -> Refusal:
    """Returns the refusal of a request that can't be decoded."""
    return Refusal(
        grpc.StatusCode.INVALID_ARGUMENT, "NOT_PROTOBUF", "the request is not a protobuf message of this method's type"
    )


class _DecodingServer:
    """Stands in for a server while servicers are added."""

    def __init__(self, server: grpc.aio.Server, called: Called, outgoing: Outgoing, passed_on: PassedOn) -> None:
        self._server = server
        self._called = called
        self._outgoing = outgoing
        self._passed_on = passed_on

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Does nothing, because the generated code then calls add_registered_method_handlers with the same handlers."""

    def add_registered_method_handlers(self, service: str, handlers: _Handlers) -> None:
        """Adds a service's handlers: {name of the method: its handler}."""
        checked = {
            name: _checked(handler, partial(Timed, f"{service}/{name}", self._called), self._outgoing, self._passed_on)
            for name, handler in handlers.items()
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, checked),))


class Timed:
    """Times one call, from when it is made until it is left as a context manager."""

    __slots__ = ("_called", "_context", "_method", "_started")

    def __init__(self, method: str, called: Called, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._method = method
        self._called = called
        self._context = context
        self._started = time.perf_counter()

    def __enter__(self) -> None:
        """Does nothing, because the time was taken when this object was made."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            code = "OK"
        elif isinstance(error, asyncio.CancelledError | GeneratorExit):
            code = "CANCELLED"
        else:
            # abort sets the code. Any other exception is a defect, for which gRPC answers UNKNOWN.
            told: grpc.StatusCode | None = self._context.code()
            code = "UNKNOWN" if told is None else told.name
        self._called(self._method, code, time.perf_counter() - self._started)


class _Codec(NamedTuple):
    """How a method's messages are read and written."""

    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]
    passed_on: PassedOn

    def begin(self) -> _Codec:
        """Returns how the messages of a call that begins now are read and written until it ends."""
        return _AS_BYTES if self.passed_on() else self


def _same(data: bytes) -> bytes:
    return data


_AS_BYTES = _Codec(_same, _same, lambda: True)
#: Makes what times a call from the call's context.
_Timing: TypeAlias = "Callable[[grpc.aio.ServicerContext[Any, Any]], Timed]"


def _checked(
    handler: grpc.RpcMethodHandler[Any, Any], timed: _Timing, outgoing: Outgoing, passed_on: PassedOn
) -> grpc.RpcMethodHandler[Any, Any]:
    decode, encode = handler.request_deserializer, handler.response_serializer
    assert decode is not None
    assert encode is not None
    codec = _Codec(decode, encode, passed_on)
    # gRPC gets no deserializers, because whether a request is decoded at all is settled only as its call begins.
    # Responses are serialized here too, before gRPC gets them, because `outgoing` makes room by their size.
    if handler.unary_unary is not None:
        # As if requests were streams: gRPC serves a call with one request when that is there, however late.
        unary = _unary(handler.unary_unary, timed, codec, outgoing)
        return grpc.stream_unary_rpc_method_handler(unary, None, None)
    if handler.unary_stream is not None:
        stream = _unary_stream(handler.unary_stream, timed, codec, outgoing)
        return grpc.stream_stream_rpc_method_handler(stream, None, None)
    assert handler.stream_stream is not None
    stream = _stream_stream(handler.stream_stream, timed, codec, outgoing)
    return grpc.stream_stream_rpc_method_handler(stream, None, None)


def _unary(method: Callable[..., Any], timed: _Timing, codec: _Codec, outgoing: Outgoing) -> Callable[..., Any]:
    async def call(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        request = await _request(context)
        with timed(context):
            decode, encode, _ = codec.begin()
            try:
                decoded = decode(request)
            except DecodeError:
                await abort(context, not_protobuf())
            data = encode(await method(decoded, context))
            if len(data) >= COUNTED_BYTES_MIN:
                await _make_room(outgoing, len(data), context)
                serving = asyncio.current_task()
                assert serving is not None
                outgoing.count_for(serving, len(data))
            return data

    return call


def _unary_stream(method: Callable[..., Any], timed: _Timing, codec: _Codec, outgoing: Outgoing) -> Callable[..., Any]:
    async def call(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[bytes]:
        request = await _request(context)
        with timed(context):
            decode, encode, _ = codec.begin()
            try:
                decoded = decode(request)
            except DecodeError:
                await abort(context, not_protobuf())
            async with aclosing(method(decoded, context)) as responses:
                async for response in responses:
                    if isinstance(response, Later):
                        await _make_room(outgoing, response.size, context, made=False)
                        with outgoing.sending(response.size):
                            for data in response.make():
                                yield data
                        continue
                    data = encode(response)
                    if len(data) < COUNTED_BYTES_MIN:
                        yield data
                        continue
                    await _make_room(outgoing, len(data), context)
                    with outgoing.sending(len(data)):
                        yield data

    return call


def _stream_stream(method: Callable[..., Any], timed: _Timing, codec: _Codec, outgoing: Outgoing) -> Callable[..., Any]:
    async def call(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[bytes]:
        with timed(context):
            decode, encode, _ = codec.begin()
            async with aclosing(method(_decoded(requests, decode), context)) as responses:
                async for response in responses:
                    data = encode(response)
                    if len(data) < COUNTED_BYTES_MIN:
                        yield data
                        continue
                    await _make_room(outgoing, len(data), context)
                    with outgoing.sending(len(data)):
                        yield data

    return call


async def _request(context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
    """Returns the only request of a call, or ends the call."""
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            request = await context.read()
    except TimeoutError:
        message = f"the request has not arrived within {REQUEST_SECONDS:g} s; repeat the call"
        await abort(context, Refusal(grpc.StatusCode.DEADLINE_EXCEEDED, "REQUEST_LATE", message))
    if request is grpc.aio.EOF:
        message = "the call has no request, and wants one"
        await abort(context, Refusal(grpc.StatusCode.INVALID_ARGUMENT, "NO_REQUEST", message))
    return cast(bytes, request)


async def _make_room(
    outgoing: Outgoing, size: int, context: grpc.aio.ServicerContext[Any, Any], *, made: bool = True
) -> None:
    try:
        await outgoing.make_room(size, made=made)
    except Refusal as refusal:
        await abort(context, refusal)


async def _decoded(requests: AsyncIterator[bytes], decode: Callable[[bytes], Any]) -> AsyncIterator[Any]:
    async for request in requests:
        try:
            decoded = decode(request)
        except DecodeError:
            # A servicer's method does not catch a Refusal: it cleans up, and the Refusal ends the call.
            raise not_protobuf() from None
        del request
        yield decoded
        # Freed before the wait for the next one.
        del decoded
