"""Makes spans of gRPC calls, by opentelemetry-instrumentation-grpc, where the process has a tracer provider.

Only calls with one request and one response get spans. The span of a stream would end with the stream, for a session
after days. And the instrumentation keeps its context across the steps of a generator, which gRPC closes in another
context, so that each stream that is left early logs an error (open-telemetry/opentelemetry-python-contrib#2357).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc

from gowork.base.telemetry import is_traced, settle_propagators

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

_INSTRUMENTATION = "opentelemetry.instrumentation."
#: Health checks and reflection, which get no spans.
_GRPCS_OWN = "/grpc."
#: A heartbeat, every few seconds, gets no span either, because it belongs to no task.
_HEARTBEAT = "/cluster.v1.LeaderService/Heartbeat"


def client_interceptors() -> list[grpc.aio.ClientInterceptor]:
    """Returns the interceptors for an asyncio channel: none where nothing is traced, or instrumentation is missing."""
    instrumentation = _instrumentation()
    if instrumentation is None or _is_instrumented(grpc.aio.insecure_channel):
        return []
    made = instrumentation.aio_client_interceptors(filter_=_is_work)
    return [interceptor for interceptor in made if isinstance(interceptor, grpc.aio.UnaryUnaryClientInterceptor)]


def intercepted(channel: grpc.Channel) -> grpc.Channel:
    """Returns a channel that traces its calls; the same channel where nothing is traced."""
    instrumentation = _instrumentation()
    if instrumentation is None:
        return channel
    from opentelemetry.instrumentation.grpc import grpcext

    interceptor = instrumentation.client_interceptor(filter_=_is_work)
    traced: grpc.Channel = grpcext.intercept_channel(channel, interceptor)  # type: ignore[no-untyped-call]
    return traced


def uninstrumented(function: FunctionT) -> FunctionT:
    """Returns the function without the wrappers of opentelemetry-instrumentation-grpc, if the program applied them.

    With them, calls would be traced twice, and streams would be generators, which cannot be cancelled
    (open-telemetry/opentelemetry-python-contrib#2014). Wrappers of other packages stay.
    """
    while getattr(getattr(function, "_self_wrapper", None), "__module__", "").startswith(_INSTRUMENTATION):
        function = function.__wrapped__  # type: ignore[attr-defined]
    return function


def server_interceptors() -> list[grpc.aio.ServerInterceptor]:
    """Returns the interceptors for an asyncio server: none where nothing is traced, or instrumentation is missing."""
    instrumentation = _instrumentation()
    if instrumentation is None or _is_instrumented(grpc.aio.server):
        return []
    return [_UnaryCalls(instrumentation.aio_server_interceptor())]


class _UnaryCalls(grpc.aio.ServerInterceptor):
    """Applies another interceptor to calls with one request and one response, except gRPC's own services."""

    def __init__(self, spans: grpc.aio.ServerInterceptor) -> None:
        self._spans = spans

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """See grpc.aio.ServerInterceptor."""
        handler = await continuation(handler_call_details)
        # Calls with one request are served as if it were a stream: see gowork.base.decoding.
        if handler is None or handler.response_streaming or handler_call_details.method.startswith(_GRPCS_OWN):
            return handler

        async def found(_: grpc.HandlerCallDetails) -> Any:
            return handler

        return await self._spans.intercept_service(found, handler_call_details)


def _is_work(call: Any) -> bool:
    """Whether a client's call is traced. Asyncio and blocking channels describe a call by different attributes."""
    method = getattr(call, "full_method", None) or call.method
    if isinstance(method, bytes):
        # See grpc/grpc#31092.
        method = method.decode()
    streams = getattr(call, "is_client_stream", False) or getattr(call, "is_server_stream", False)
    return not (streams or method == _HEARTBEAT or method.startswith(_GRPCS_OWN))


def _is_instrumented(function: Callable[..., Any]) -> bool:
    """Whether the program itself has all of its channels, or servers, traced. Then this one is traced too."""
    return function.__module__.startswith(_INSTRUMENTATION)


def _instrumentation() -> Any:
    """Returns the instrumentation's module; None where nothing is traced, or where it is not installed."""
    if not is_traced():
        return None
    try:
        settle_propagators()
        from opentelemetry.instrumentation import grpc as instrumentation
    except ImportError:
        return None
    return instrumentation
