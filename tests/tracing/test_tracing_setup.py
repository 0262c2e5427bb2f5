"""The standard variables set tracing up, and nothing else does."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clusters import COMMANDS
from otlp_receiver import Receiver, receiving_http
from tracing_cluster import Cluster

from gowork.client import Client, TaskStatus
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb

#: The trace context of a submit that its program did not sample.
NOT_SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
StartCluster = Callable[[], Cluster]


@pytest.fixture
def telling_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has processes write the names of the modules that they import into their logs."""
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")


def logs(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.glob("*.log"))


def run_one(cluster: Cluster, handler: str = "work") -> object:
    """Runs a task on a cluster, stops the cluster, and returns the task's result."""
    with Client(cluster.leader.scheduler) as client:
        result = client.schedule(handler=handler).result()
    cluster.stop()
    return result


def services(receiver: Receiver) -> set[str]:
    return {span.service for span in receiver.spans}


def test_without_the_variables_no_sdk_is_loaded_and_no_thread_exports(
    start_cluster: StartCluster, telling_imports: None, tmp_path: Path
) -> None:
    cluster = start_cluster()
    cluster.work()
    assert run_one(cluster, "loaded") == []
    told = logs(tmp_path)
    assert "gowork.leader._engine.loop" in told
    assert "gowork.worker._runner.executor" in told
    for module in ("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.instrumentation"):
        assert module not in told


def test_with_them_both_are_there(
    exporting: None, start_cluster: StartCluster, telling_imports: None, tmp_path: Path, receiver: Receiver
) -> None:
    cluster = start_cluster()
    cluster.work()
    found = run_one(cluster, "loaded")
    assert isinstance(found, list)
    assert "opentelemetry.sdk.trace" in found
    assert "OtelBatchSpanRecordProcessor" in found
    assert "opentelemetry.sdk.trace" in (tmp_path / "gowork-leader.log").read_text()
    assert services(receiver) == {"gowork-leader", "gowork-worker"}


def test_what_ends_sends_what_it_has_left(
    exporting: None, start_cluster: StartCluster, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    cluster = start_cluster()
    cluster.work()
    command = [str(COMMANDS / "gowork"), "--leader", cluster.leader.scheduler, "add", "--handler", "work", "--wait"]
    subprocess.run(command, check=True, timeout=120)
    assert services(receiver) == {"gowork"}
    cluster.stop()
    names = {span.name for span in receiver.spans}
    assert names >= {"send default", "process default", "inner", "settle default"}


@pytest.mark.longer
@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")], ids=lambda value: value
)
def test_what_switches_it_off_does(
    exporting: None,
    start_cluster: StartCluster,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
) -> None:
    monkeypatch.setenv(name, value)
    cluster = start_cluster()
    cluster.work()
    assert run_one(cluster, "loaded") == []
    assert receiver.spans == []


@pytest.mark.longer
def test_spans_go_out_over_http_too(start_cluster: StartCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving_http() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{receiver.address}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        cluster = start_cluster()
        cluster.work()
        run_one(cluster)
        process = receiver.one("process default")
        assert receiver.one("settle default").parent == receiver.one("process default").id
        assert process.links == ()


@pytest.mark.longer
def test_the_environment_names_the_service(
    exporting: None, start_cluster: StartCluster, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mail")
    cluster = start_cluster()
    cluster.work()
    run_one(cluster)
    assert services(receiver) == {"mail"}


@pytest.mark.longer
def test_nothing_is_exported_where_the_sampler_takes_nothing(
    exporting: None, program: None, start_cluster: StartCluster, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    cluster = start_cluster()
    cluster.work()
    run_one(cluster)
    assert services(receiver) == {"program"}


@pytest.mark.longer
def test_a_parent_based_sampler_takes_the_attempts_of_what_was_sampled(
    exporting: None, program: None, start_cluster: StartCluster, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    cluster = start_cluster()
    cluster.work()
    run_one(cluster)
    process = receiver.one("process default")
    assert process.links == (receiver.one("send default").id,)
    assert receiver.one("settle default").parent == process.id


@pytest.mark.longer
def test_and_none_of_what_was_not(exporting: None, start_cluster: StartCluster, receiver: Receiver) -> None:
    cluster = start_cluster()
    cluster.work()
    handlers = ("dies_once", "work", "work_async", "follows")
    tasks = [pb.Task(id=handler, handler=handler, traceparent=NOT_SAMPLED) for handler in handlers]
    with Client(cluster.leader.scheduler) as client:
        client._connection.scheduler.ScheduleTasks(pb.ScheduleTasksRequest(tasks=tasks))
        client.wait(handlers)
        assert client.wait(["follows/1"])[0].status is TaskStatus.COMPLETED
        assert client.get("follows/1").traceparent == NOT_SAMPLED
    cluster.stop()
    assert [span.name for span in receiver.spans if not span.name.startswith("/")] == []


@pytest.mark.longer
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_TRACES_EXPORTER", "jaeger"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_TRACES_SAMPLER_ARG", "2"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
    ],
)
@pytest.mark.parametrize("command", [["gowork-leader"], ["gowork-worker"], ["gowork", "members"]], ids=" ".join)
def test_a_value_that_is_not_known_is_named(
    exporting: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], name: str, value: str
) -> None:
    if name == "OTEL_TRACES_SAMPLER_ARG":
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    monkeypatch.setenv(name, value)
    arguments = [f"--store=sqlite:///{tmp_path}/leader.db"] if command == ["gowork-leader"] else []
    process = subprocess.run(
        [COMMANDS / command[0], *command[1:], *arguments], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert value in line
    assert "OTEL_" in line


@pytest.fixture(params=["away", "silent", "silent, by HTTP"])
def no_collector(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sends spans to a port that refuses connections, or accepts them and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if request.param != "away":
            listener.listen()
        if "HTTP" in request.param:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")
        yield


@pytest.mark.longer
def test_a_collector_that_takes_nothing_holds_up_no_stop_and_fills_no_log(
    no_collector: None, start_cluster: StartCluster, tmp_path: Path
) -> None:
    cluster = start_cluster()
    worker = cluster.work()
    with Client(cluster.leader.scheduler) as client:
        client.wait(client.schedule_many(range(100), handler="work"))
    for process in (worker, cluster.leader.process):
        began = time.monotonic()
        process.terminate()
        assert process.wait(120) == 0
        # The exporter itself would try for a minute. A worker and its runner wait for 2 s each at most.
        assert time.monotonic() - began < 30
    complaints = [line for line in logs(tmp_path).splitlines() if "encountered while exporting" in line]
    # One of the leader, one of the supervisor, one of its runner; their line at the stop has other words.
    assert len(complaints) <= 3
