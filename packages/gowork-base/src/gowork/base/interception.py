"""Spans of the calls themselves, by opentelemetry-instrumentation-grpc, where the process has a tracer provider.

Only calls with one request and one response have them. Those of streams would end when the stream does, sessions after
days; and the instrumentation holds its context over the steps of a generator, which gRPC closes in another context than
it began in, so that each stream that is left early logs an error
(open-telemetry/opentelemetry-python-contrib#2357).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc

from gowork.base.telemetry import is_traced, settle_propagators

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

_INSTRUMENTATION = "opentelemetry.instrumentation."
#: Health checks and reflection.
_GRPCS_OWN = "/grpc."
#: A sign of life every few seconds, which is no part of any work.
_HEARTBEAT = "/cluster.v1.LeaderService/Heartbeat"


def client_interceptors() -> list[grpc.aio.ClientInterceptor]:
    """For an asyncio channel; none where nothing is traced, or the instrumentation is not installed."""
    instrumentation = _instrumentation()
    if instrumentation is None or _is_instrumented(grpc.aio.insecure_channel):
        return []
    made = instrumentation.aio_client_interceptors(filter_=_is_work)
    return [interceptor for interceptor in made if isinstance(interceptor, grpc.aio.UnaryUnaryClientInterceptor)]


def intercepted(channel: grpc.Channel) -> grpc.Channel:
    """The channel with what traces its calls; itself where nothing is traced."""
    instrumentation = _instrumentation()
    if instrumentation is None:
        return channel
    from opentelemetry.instrumentation.grpc import grpcext

    interceptor = instrumentation.client_interceptor(filter_=_is_work)
    traced: grpc.Channel = grpcext.intercept_channel(channel, interceptor)  # type: ignore[no-untyped-call]
    return traced


def uninstrumented(function: FunctionT) -> FunctionT:
    """The function beneath what opentelemetry-instrumentation-grpc has put over it, in a program that has all of its
    channels traced.

    Its calls would be traced twice, and streams, being generators then, could not be cancelled
    (open-telemetry/opentelemetry-python-contrib#2014). What others have put there stays.
    """
    while getattr(getattr(function, "_self_wrapper", None), "__module__", "").startswith(_INSTRUMENTATION):
        function = function.__wrapped__  # type: ignore[attr-defined]
    return function


def server_interceptors() -> list[grpc.aio.ServerInterceptor]:
    """For an asyncio server; none where nothing is traced."""
    instrumentation = _instrumentation()
    if instrumentation is None or _is_instrumented(grpc.aio.server):
        return []
    return [_UnaryCalls(instrumentation.aio_server_interceptor())]


class _UnaryCalls(grpc.aio.ServerInterceptor):
    """Hands those calls to another interceptor, and passes all others on."""

    def __init__(self, spans: grpc.aio.ServerInterceptor) -> None:
        self._spans = spans

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """See grpc.aio.ServerInterceptor."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None or handler_call_details.method.startswith(_GRPCS_OWN):
            return handler

        async def found(_: grpc.HandlerCallDetails) -> Any:
            return handler

        return await self._spans.intercept_service(found, handler_call_details)


def _is_work(call: Any) -> bool:
    """Whether a client's call is traced; asyncio channels tell of it in one form, blocking ones in another."""
    method = getattr(call, "full_method", None) or call.method
    if isinstance(method, bytes):
        # grpc/grpc#31092
        method = method.decode()
    streams = getattr(call, "is_client_stream", False) or getattr(call, "is_server_stream", False)
    return not (streams or method == _HEARTBEAT or method.startswith(_GRPCS_OWN))


def _is_instrumented(function: Callable[..., Any]) -> bool:
    """Whether the program has had all of its channels, or servers, traced; then these are, too."""
    return function.__module__.startswith(_INSTRUMENTATION)


def _instrumentation() -> Any:
    """The module; None where nothing is traced, or it is not installed: programs with a client need not have it."""
    if not is_traced():
        return None
    try:
        settle_propagators()
        from opentelemetry.instrumentation import grpc as instrumentation
    except ImportError:
        return None
    return instrumentation
