from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import DEFAULT_OFF, DEFAULT_ON, ParentBased
from opentelemetry.trace import Link, NonRecordingSpan, TraceFlags, TraceState, set_span_in_context
from opentelemetry.util._once import Once

from gowork.base import spans, telemetry
from gowork.base.telemetry import TelemetryError, exporters_of, is_traced, start
from gowork.base.telemetry_sdk import _ByLinks, _Seldom

SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NOT_SAMPLED = f"{SAMPLED[:-1]}0"


@pytest.fixture
def provider() -> Iterator[TracerProvider]:
    """The program's own."""
    provider = TracerProvider(shutdown_on_exit=False)
    trace.set_tracer_provider(provider)
    yield provider
    trace._TRACER_PROVIDER = None
    trace._TRACER_PROVIDER_SET_ONCE = Once()


@pytest.mark.parametrize(
    ("environment", "exporters"),
    [
        ({}, ()),
        ({"OTEL_SERVICE_NAME": "mail", "OTEL_TRACES_SAMPLER": "always_on"}, ()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, ()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://tempo:4317"}, ("otlp",)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://tempo:4317"}, ("otlp",)),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://mimir:4317"}, ()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://tempo:4317", "OTEL_TRACES_EXPORTER": "none"}, ()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://tempo:4317", "OTEL_SDK_DISABLED": "True"}, ()),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, ("otlp",)),
        ({"OTEL_TRACES_EXPORTER": " console , otlp,otlp"}, ("console", "otlp")),
    ],
    ids=str,
)
def test_the_environment_says_where_spans_go(environment: dict[str, str], exporters: tuple[str, ...]) -> None:
    assert exporters_of(environment) == exporters


@pytest.mark.parametrize("named", ["zipkin", "otlp,none", "otlp;console"])
def test_an_exporter_that_is_not_known_is_named(named: str) -> None:
    with pytest.raises(TelemetryError, match="OTEL_TRACES_EXPORTER"):
        exporters_of({"OTEL_TRACES_EXPORTER": named})


def test_nothing_is_set_up_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in telemetry.os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    assert start("test") is None
    assert not is_traced()


def test_a_provider_of_the_programs_own_stays(provider: TracerProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    assert start("test") is None
    assert trace.get_tracer_provider() is provider
    assert is_traced()


def test_spans_on_the_console_go_to_standard_error() -> None:
    code = """
from gowork.base.telemetry import start
telemetry = start("mail")
from opentelemetry import trace
trace.get_tracer("test").start_span("page").end()
telemetry.stop()
telemetry.stop()
"""
    process = subprocess.run(
        [sys.executable, "-c", code],
        env={"OTEL_TRACES_EXPORTER": "console"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert process.stdout == ""
    assert '"name": "page"' in process.stderr
    assert '"service.name": "mail"' in process.stderr


STARTED = """
import sys
from gowork.base.telemetry import TelemetryError, start
try:
    telemetry = start("mail")
except TelemetryError as error:
    sys.exit(f"refused: {error}")
import opentelemetry.propagate, os
print(os.environ.get("OTEL_PROPAGATORS"), opentelemetry.propagate.get_global_textmap().fields)
"""


def started(**variables: str) -> subprocess.CompletedProcess[str]:
    """A process that sets up tracing in this environment."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    environment = {**others, "OTEL_TRACES_EXPORTER": "console", **variables}
    return subprocess.run([sys.executable, "-c", STARTED], env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("named", ["tracecontext,baggage,no-such-thing", "no-such-thing"])
def test_propagators_that_are_not_installed_are_ignored(named: str) -> None:
    done = started(OTEL_PROPAGATORS=named)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{named} ")
    assert "traceparent" in done.stdout


@pytest.mark.parametrize(
    ("name", "value", "is_refused"),
    [
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "many", True),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", True),
        ("OTEL_BSP_SCHEDULE_DELAY", "soon", False),
        ("OTEL_RESOURCE_ATTRIBUTES", "nonsense", False),
        ("OTEL_PYTHON_CONTEXT", "no-such-thing", False),
    ],
)
def test_a_variable_of_the_sdk_that_can_not_be_used_is_one_line(name: str, value: str, is_refused: bool) -> None:
    done = started(**{name: value})
    assert done.returncode == int(is_refused)
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "refused: a variable OTEL_" if is_refused else "OpenTelemetry does not take a variable OTEL_"
    )


def sampled(sampler: ParentBased, *links: str, parent: str = "") -> bool:
    context = spans.context_of(parent)
    made = [Link(linked) for link in links if (linked := spans.context_of(link)) is not None]
    result = _ByLinks(sampler).should_sample(
        None if context is None else set_span_in_context(NonRecordingSpan(context)), 1, "process", links=made
    )
    return result.decision.is_sampled()


def test_a_span_without_a_parent_is_sampled_as_its_first_link_was() -> None:
    assert sampled(DEFAULT_OFF, SAMPLED, NOT_SAMPLED)
    assert not sampled(DEFAULT_ON, NOT_SAMPLED, SAMPLED)
    assert sampled(DEFAULT_ON)
    assert not sampled(DEFAULT_OFF)


def test_a_span_with_a_parent_is_sampled_as_that_was() -> None:
    assert sampled(DEFAULT_OFF, NOT_SAMPLED, parent=SAMPLED)
    assert not sampled(DEFAULT_ON, SAMPLED, parent=NOT_SAMPLED)


def test_each_complaint_is_told_once_in_a_while() -> None:
    seldom = _Seldom()
    told = [seldom.filter(logging.makeLogRecord({"msg": text})) for text in ("a %s", "b", "a %s", "b")]
    assert told == [True, True, False, False]


def test_a_context_reads_as_it_was_written() -> None:
    context = spans.context_of(SAMPLED, "vendor=1")
    assert context is not None
    assert context.is_remote
    assert context.trace_flags == TraceFlags(1)
    assert spans.traceparent_of(context) == SAMPLED
    assert spans.tracestate_of(context) == "vendor=1"
    assert spans.context_of("") is None
    assert spans.traceparent_of(trace.INVALID_SPAN_CONTEXT) == ""


def test_a_state_that_is_too_long_is_left_behind() -> None:
    state = TraceState([(f"key{number}", "x" * 100) for number in range(6)])
    context = trace.SpanContext(1, 1, is_remote=False, trace_state=state)
    assert spans.tracestate_of(context) == ""
