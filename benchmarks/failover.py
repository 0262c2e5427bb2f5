"""Measures what a killed leader costs: how long until another one accepts and runs tasks, while many wait or run."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import grpc
from leaders import NAMES, Leaders, etcd_running
from processes import Processes
from report import Bench, Measure

from gowork.base.channels import open_blocking_channel
from gowork.client import Client
from gowork.proto.worker.v1 import session_pb2 as pb
from gowork.proto.worker.v1 import session_pb2_grpc

#: How long a session, or a task, may take after the kill, in seconds.
_PATIENCE_SECONDS = 120.0
#: A follower ends a killed leader's lease at most once in 10 s, so kills are further apart than that.
_BETWEEN_SECONDS = 12.0
_AGAIN_SECONDS = 0.01
#: How many tasks a worker may run at once.
_SLOTS_MAX = 10_000
_PAYLOAD = "x" * 50
_SHOW_EVERY = 10_000
#: What is asked of the first completed new task, in seconds.
TARGET_P50 = 1.0
TARGET_WORST = 4.0


class Took(NamedTuple):
    """Seconds from the kill until each was seen."""

    session: float
    submit: float
    completed: float


def run(bench: Bench) -> list[Measure]:
    """Kills the leader `rounds` times, while `pending` tasks wait and `running` run."""
    pending = bench.pending or 0
    shown = bench.progress.add_task("fail-over", total=pending + bench.running + bench.rounds * _SHOW_EVERY)
    with Processes(bench.directory) as processes, etcd_running(processes.folder) as etcd:
        loaded = 0.0
        if pending:
            loaded = _load(bench, processes, lambda: bench.progress.advance(shown, _SHOW_EVERY))
        leaders = Leaders(processes, etcd.url("bench"))
        began = time.perf_counter()
        for name in NAMES:
            leaders.start(name)
        leaders.wait_ready()
        copied = time.perf_counter() - began
        _start_worker(processes, leaders, "worker", "handlers", 8)
        if bench.running:
            _start_worker(processes, leaders, "holder", "holding", min(bench.running, _SLOTS_MAX))
        with Client(leaders.all("scheduler"), timeout=_PATIENCE_SECONDS) as client:
            list(client.schedule_many((_PAYLOAD for _ in range(bench.running)), handler="bench.hold"))
            _wait_running(client, bench.running)
            bench.progress.advance(shown, bench.running)
            took = []
            for number in range(bench.rounds):
                if number:
                    time.sleep(_BETWEEN_SECONDS)
                took.append(_kill(processes, leaders, client))
                bench.progress.advance(shown, _SHOW_EVERY)
            left = _count(client)
            if left != (pending, bench.running):
                raise RuntimeError(f"{pending:,} tasks waited and {bench.running:,} ran; in the end it were {left}")
    scenario = f"fail-over: SIGKILL of the leader, {pending:,} tasks wait, {bench.running:,} run"
    measures = measured(scenario, took)
    if pending:
        measures += [
            Measure(scenario, "loaded by a leader alone", "tasks/s", [loaded]),
            Measure(scenario, "from the start of 3 leaders until all are ready, 2 copies", "s", [copied]),
        ]
    return measures


def measured(scenario: str, took: list[Took]) -> list[Measure]:
    """The measures of several kills, with what is asked."""
    completed = [each.completed for each in took]
    return [
        Measure(scenario, "kill → a new session is accepted", "s", [each.session for each in took]),
        Measure(scenario, "kill → a submit is acknowledged", "s", [each.submit for each in took]),
        Measure(scenario, "kill → a new task has completed", "s", completed, TARGET_P50, "at most"),
        Measure(scenario, "kill → a new task has completed, worst", "s", [max(completed)], TARGET_WORST, "at most"),
    ]


def _load(bench: Bench, processes: Processes, tell: Callable[[], object]) -> float:
    """Has a leader without a log take tasks that nobody runs, and stops it. Returns how many it took a second.

    The first of several leaders goes on with its store, and the others copy it.
    """
    folder = str(processes.folder / NAMES[0])
    listen = [part for port in ("cluster", "scheduler", "http") for part in (f"--{port}-listen", "127.0.0.1:0")]
    addresses = processes.start("loader", "-m", "gowork.leader", *listen, "--data-dir", folder, "--print-addresses")
    began = time.perf_counter()
    with Client(addresses["scheduler"], timeout=_PATIENCE_SECONDS) as client:
        payloads = (_PAYLOAD for _ in range(bench.pending or 0))
        for place, _ in enumerate(client.schedule_many(payloads, handler="nobody"), 1):
            if not place % _SHOW_EVERY:
                tell()
    took = time.perf_counter() - began
    processes.stop("loader")
    return (bench.pending or 0) / took


def _start_worker(processes: Processes, leaders: Leaders, name: str, module: str, slots: int) -> None:
    processes.start(
        name, "-m", "gowork.worker", "--leader", leaders.all("cluster"), "--runners", "2", "--slots", str(slots),
        "--import", module, "--drain-timeout", "0", "--print-ready",
    )  # fmt: skip


def _kill(processes: Processes, leaders: Leaders, client: Client) -> Took:
    """Kills the leader that leads, measures, and starts it again."""
    leading = client.leaders().leading
    if leading is None:
        raise RuntimeError("no leader leads, though all are ready")
    name = leading.name
    # So that the client is connected, and the worker's credit has come.
    client.schedule(_PAYLOAD, handler="bench.async").result()
    survivors = [addresses["cluster"] for other, addresses in leaders.addresses.items() if other != name]
    killed = threading.Event()
    with ThreadPoolExecutor(2) as threads:
        session = threads.submit(_welcomed_at, survivors, killed)
        task = threads.submit(_completed_at, client, killed)
        began = time.monotonic()
        try:
            processes.kill(name)
        finally:
            killed.set()
        submitted, completed = task.result()
        took = Took(session.result() - began, submitted - began, completed - began)
    leaders.start(name)
    leaders.wait_ready()
    return took


def _completed_at(client: Client, killed: threading.Event) -> tuple[float, float]:
    """Returns when a task that is submitted after the kill was acknowledged, and when it completed."""
    killed.wait()
    handle = client.schedule(_PAYLOAD, handler="bench.async")
    submitted = time.monotonic()
    handle.result()
    return submitted, time.monotonic()


def _welcomed_at(addresses: list[str], killed: threading.Event) -> float:
    """Returns when one of these leaders has accepted a new session."""
    killed.wait()
    until = time.monotonic() + _PATIENCE_SECONDS
    for address in itertools.cycle(addresses):
        if _is_welcome(address):
            return time.monotonic()
        if time.monotonic() > until:
            break
        time.sleep(_AGAIN_SECONDS)
    raise RuntimeError(f"no leader accepted a session within {_PATIENCE_SECONDS:.0f} s of the kill")


def _is_welcome(address: str) -> bool:
    name = f"probe-{uuid.uuid4().hex}"
    hello = pb.ConnectRequest(hello=pb.Hello(name=name, instance=uuid.uuid4().hex, slots=1, version="0"))
    answered = threading.Event()

    def frames() -> Iterator[pb.ConnectRequest]:
        yield hello
        answered.wait()

    channel: grpc.Channel
    with open_blocking_channel([address]) as channel:
        call = session_pb2_grpc.SessionServiceStub(channel).Connect(frames(), timeout=_PATIENCE_SECONDS)
        try:
            return next(call).HasField("welcome")
        except (grpc.RpcError, StopIteration):
            return False
        finally:
            answered.set()
            call.cancel()


def _wait_running(client: Client, running: int) -> None:
    """Returns when `running` tasks run."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while _count(client)[1] < running:
        if time.monotonic() > until:
            raise RuntimeError(f"{_count(client)[1]:,} of {running:,} tasks run after {_PATIENCE_SECONDS:.0f} s")
        time.sleep(_AGAIN_SECONDS)


def _count(client: Client) -> tuple[int, int]:
    """Returns how many tasks wait, and how many run."""
    queues = client.queues()
    return sum(queue.waiting for queue in queues), sum(queue.running for queue in queues)
