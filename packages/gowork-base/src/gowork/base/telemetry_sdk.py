"""The tracer provider of a process that exports its spans. `telemetry.start` imports it when tracing is asked for."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Sequence

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes

from gowork.base.telemetry import TelemetryError

_log = logging.getLogger("gowork.telemetry")

#: How long a stop waits for the last spans to leave, in seconds.
FLUSH_SECONDS = 2.0
#: Seconds between two equal warnings of these loggers, which would repeat for as long as a collector is away.
_COMPLAIN_SECONDS = 300.0
_COMPLAINERS = (
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.common.http",
    "opentelemetry.sdk._shared_internal",
    "opentelemetry.sdk.trace.export",
)


class Exporting:
    """The global tracer provider of this process, with its exporters."""

    def __init__(self, service_name: str, exporters: Sequence[str], protocol: str) -> None:
        """Args:
            service_name: the resource's service.name, if the environment names none.
            exporters: "otlp", "console".
            protocol: of the exporter "otlp": "grpc" or "http/protobuf".

        Raises:
            TelemetryError: OpenTelemetry's SDK does not accept the value of a variable.
        """
        self._stopped = False
        for name in _COMPLAINERS:
            logging.getLogger(name).addFilter(_Seldom())
        try:
            self._provider = TracerProvider(resource=_resource(service_name), shutdown_on_exit=False)
            sampler = self._provider.sampler
            if isinstance(sampler, ParentBased):
                self._provider.sampler = _ByLinks(sampler)
            for exporter in exporters:
                self._provider.add_span_processor(BatchSpanProcessor(_exporter(exporter, protocol)))
        except Exception as error:
            # The SDK raises many types of errors for numbers, headers, certificates and compressions.
            raise TelemetryError(f"a variable OTEL_… has a value that can't be used: {error}") from error
        trace.set_tracer_provider(self._provider)

    def stop(self) -> None:
        """Exports the remaining spans, within FLUSH_SECONDS."""
        if self._stopped:
            return
        self._stopped = True
        # A thread does it, because the SDK would wait as long as an export may take for a collector that is away.
        last = threading.Thread(target=self._provider.shutdown, name="gowork-telemetry-stop", daemon=True)
        last.start()
        last.join(FLUSH_SECONDS)
        if last.is_alive():
            _log.warning("spans were left behind: the collector took none", extra={"seconds": FLUSH_SECONDS})


class _ByLinks(Sampler):
    """A parent-based sampler. For a span without a parent, the span that it links to decides in the parent's place.

    An attempt has a trace of its own. If it were sampled independently, a ratio of 1 % would record 1 % of the submits,
    and only 1 % of the attempts of those.
    """

    #: Code that makes many spans with links reads it: if True, it skips a span whose submit was not sampled.
    follows_links = True

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        if links and not trace.get_current_span(parent_context).get_span_context().is_valid:
            linked = trace.NonRecordingSpan(links[0].context)
            decided = self._sampler.should_sample(
                trace.set_span_in_context(linked, parent_context), trace_id, name, kind, attributes, links
            )
            # The decision's trace state belongs to the linked trace, and is left out of this one.
            return SamplingResult(decided.decision, decided.attributes)
        return self._sampler.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        return f"ByLinks{{{self._sampler.get_description()}}}"


class _Seldom(logging.Filter):
    """Lets each message through once in _COMPLAIN_SECONDS. Messages are equal if their texts before formatting are."""

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        text = str(record.msg)
        if now - self._told.get(text, -_COMPLAIN_SECONDS) < _COMPLAIN_SECONDS:
            return False
        self._told[text] = now
        return True


def _resource(service_name: str) -> Resource:
    resource = Resource.create()
    # The SDK calls a service "unknown_service…" when nothing names it.
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: service_name}))
    return resource


def _exporter(name: str, protocol: str) -> SpanExporter:
    if name == "console":
        # Standard output is kept for a command's answer.
        return ConsoleSpanExporter(out=sys.stderr)
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        return GrpcExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

    return HttpExporter()
