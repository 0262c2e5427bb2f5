"""A collector: takes spans over OTLP, by gRPC and by HTTP, and lets tests wait for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as pb_grpc
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

#: How long to wait for spans, in seconds: longer than anything takes, and shorter than a test's time limit.
PATIENCE = 120.0


@dataclass(frozen=True)
class Seen:
    """A span as it was exported. Ids are in hexadecimal; an empty one means that there is none."""

    service: str
    scope: str
    name: str
    #: Such as "CONSUMER".
    kind: str
    trace: str
    id: str
    parent: str
    #: The ids of the spans that it is linked to, in their order.
    links: tuple[str, ...]
    attributes: dict[str, object]
    #: UNSET, OK or ERROR.
    status: str
    message: str
    #: The names of its events.
    events: tuple[str, ...]
    begins_ns: int = field(repr=False)
    ends_ns: int = field(repr=False)


class Receiver(pb_grpc.TraceServiceServicer):
    """The spans that have come in."""

    def __init__(self) -> None:
        self._spans: list[Seen] = []
        self._changed = threading.Condition()
        #: HOST:PORT; empty until it serves.
        self.address = ""

    @property
    def spans(self) -> list[Seen]:
        with self._changed:
            return list(self._spans)

    def named(self, name: str, **attributes: object) -> list[Seen]:
        """The spans of this name with these attributes; underscores in the keys stand for dots."""
        return [span for span in self.spans if span.name == name and _has(span, attributes)]

    def one(self, name: str, **attributes: object) -> Seen:
        """Waits for the only span of this name with these attributes, and returns it."""
        (span,) = self.some(1, name, **attributes)
        return span

    def some(self, number: int, name: str, **attributes: object) -> list[Seen]:
        """Waits for `number` spans, and returns them in the order in which they began."""
        self.wait(lambda: len(self.named(name, **attributes)) >= number, f"{number} × {name} {attributes}")
        found = self.named(name, **attributes)
        assert len(found) == number, found
        return sorted(found, key=lambda span: span.begins_ns)

    def wait(self, holds: Callable[[], bool], what: str) -> None:
        with self._changed:
            if not self._changed.wait_for(holds, PATIENCE):
                told = "\n".join(f"{span.service}: {span}" for span in self._spans)
                raise AssertionError(f"{what} did not come within {PATIENCE:g} s; what came:\n{told}")

    def take(self, request: pb.ExportTraceServiceRequest) -> None:
        seen = [
            _seen(_values(of_resource.resource.attributes), of_scope.scope.name, span)
            for of_resource in request.resource_spans
            for of_scope in of_resource.scope_spans
            for span in of_scope.spans
        ]
        with self._changed:
            self._spans += seen
            self._changed.notify_all()

    def Export(
        self, request: pb.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> pb.ExportTraceServiceResponse:
        self.take(request)
        return pb.ExportTraceServiceResponse()


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Serves a receiver on a free port, over gRPC."""
    receiver = Receiver()
    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads)
        pb_grpc.add_TraceServiceServicer_to_server(receiver, server)
        receiver.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield receiver
        finally:
            server.stop(None).wait()


@contextmanager
def receiving_http() -> Iterator[Receiver]:
    """Serves a receiver on a free port, over HTTP with protobuf."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert (self.path, self.headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
            receiver.take(pb.ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        receiver.address = f"127.0.0.1:{server.server_address[1]}"
        try:
            yield receiver
        finally:
            server.shutdown()
            serving.join()


def _has(span: Seen, attributes: dict[str, object]) -> bool:
    named = {key.replace(".", "_"): value for key, value in span.attributes.items()}
    return attributes.items() <= named.items()


def _seen(resource: dict[str, object], scope: str, span: Span) -> Seen:
    return Seen(
        str(resource["service.name"]),
        scope,
        span.name,
        Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        tuple(link.span_id.hex() for link in span.links),
        _values(span.attributes),
        Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
        span.status.message,
        tuple(event.name for event in span.events),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
    )


def _values(attributes: Iterable[KeyValue]) -> dict[str, object]:
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in attributes}
