"""Gives each test a collector, and processes that export to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.util._once import Once
from otlp_receiver import Receiver, receiving
from tracing_cluster import Cluster

from gowork.client import Client


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def exporting(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has processes that are started from now on export to the receiver, without delay."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{receiver.address}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")


@pytest.fixture
def start_cluster(tmp_path: Path) -> Iterator[Callable[[], Cluster]]:
    """A function that starts a cluster in the environment of that moment."""
    started: list[Cluster] = []

    def start() -> Cluster:
        started.append(Cluster(tmp_path))
        return started[-1]

    yield start
    try:
        for cluster in started:
            cluster.stop()
    finally:
        for cluster in started:
            cluster.kill()


@pytest.fixture
def cluster(exporting: None, start_cluster: Callable[[], Cluster]) -> Cluster:
    """A leader and a worker, both of which export their spans."""
    cluster = start_cluster()
    cluster.work()
    return cluster


@pytest.fixture
def program(receiver: Receiver) -> Iterator[None]:
    """Gives this process a tracer provider, as a program that uses the client would have."""
    provider = TracerProvider(resource=Resource({"service.name": "program"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(receiver.address, insecure=True)))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        provider.shutdown()
        # OpenTelemetry lets a process set its provider once. The next test must be able to set one again.
        trace._TRACER_PROVIDER = None
        trace._TRACER_PROVIDER_SET_ONCE = Once()


@pytest.fixture
def client(program: None, cluster: Cluster) -> Iterator[Client]:
    """A client in a traced program."""
    with Client(cluster.leader.scheduler) as client:
        yield client
