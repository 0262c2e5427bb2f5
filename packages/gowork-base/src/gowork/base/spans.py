"""The names and attributes of gowork's spans, by the conventions for messaging, and span contexts as text.

See https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/. The module needs only OpenTelemetry's API.
Ask `is_traced` before importing it.
"""

from __future__ import annotations

from opentelemetry.trace import SpanContext, TraceFlags, TraceState, get_current_span

from gowork.proto import limits

SYSTEM = "messaging.system"
OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
MESSAGE_ID = "messaging.message.id"
BATCH_COUNT = "messaging.batch.message_count"
CLIENT_ID = "messaging.client.id"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
ERROR_TYPE = "error.type"
#: The number of the attempt, from 1.
ATTEMPT = "gowork.task.attempt"
FENCE = "gowork.task.fence"
HANDLER = "gowork.task.handler"
#: How the attempt ended, in lower case, as in "timed_out".
OUTCOME = "gowork.task.outcome"

#: The value of SYSTEM.
GOWORK = "gowork"
#: Values of OPERATION_NAME and OPERATION_TYPE, which are the same here.
SEND, PROCESS, SETTLE = "send", "process", "settle"


def name_of(operation: str, queue: str) -> str:
    """Returns a span's name. `queue` is empty where the span concerns several queues, or none."""
    return f"{operation} {queue}" if queue else operation


def context_of(traceparent: str, tracestate: str = "") -> SpanContext | None:
    """Returns the context of a valid traceparent, as that of a remote span; None for an empty traceparent."""
    if not traceparent:
        return None
    return SpanContext(
        int(traceparent[3:35], 16),
        int(traceparent[36:52], 16),
        is_remote=True,
        trace_flags=TraceFlags(int(traceparent[53:55], 16)),
        trace_state=TraceState.from_header([tracestate]) if tracestate else TraceState(),
    )


def current_trace_id() -> str:
    """Returns the trace id of the current span, in hexadecimal; empty where that span is not recorded."""
    context = get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.trace_flags.sampled else ""


def traceparent_of(context: SpanContext) -> str:
    """Returns the context as a traceparent; empty for a context that is not valid."""
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def tracestate_of(context: SpanContext) -> str:
    """Returns the context's tracestate; empty when it has none, or one longer than limits.TRACESTATE_BYTES_MAX."""
    header = context.trace_state.to_header()
    return header if len(header) <= limits.TRACESTATE_BYTES_MAX else ""
