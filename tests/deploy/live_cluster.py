"""A real cluster of two leaders with tasks of every kind, and a real Prometheus that watches it by the committed rules.

Scrapes and rules run every second instead of every 15, so that rates are there soon. Otherwise all is as in
deploy/prometheus.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml
from clusters import first_line, kill, start, start_leader, tls_options
from etcd_members import EtcdCluster
from otlp_receiver import Receiver, receiving
from tls_authority import Authority

from gowork.client import Client
from gowork.client.errors import GoworkError

HERE = Path(__file__).parent
DEPLOY = HERE.parents[1] / "deploy"
#: How long to wait for anything, in seconds.
PATIENCE = 120.0
#: The value of `$__rate_interval`: four scrapes and more.
RATE_INTERVAL = "10s"
#: Seconds between two queries, because Prometheus has no way to say when it has new data.
_LOOK_SECONDS = 0.25
_LISTENS = re.compile(r'msg="Listening on".*address=(\S+)')


class Prometheus:
    """A Prometheus that runs."""

    def __init__(self, address: str) -> None:
        """`address` is HOST:PORT."""
        self._address = address

    def ask(self, path: str, **parameters: str) -> Any:
        """The data that its HTTP API answers; see Prometheus' documentation."""
        url = f"http://{self._address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=120) as response:
            answer = json.load(response)
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant vector; a scalar is a series without labels."""
        data = self.ask("query", query=expression)
        if data["resultType"] == "scalar":
            return [{"metric": {}, "value": data["result"]}]
        assert data["resultType"] == "vector", expression
        series: list[dict[str, Any]] = data["result"]
        return series

    def until(self, expression: str) -> list[dict[str, Any]]:
        """Waits until the expression has series, and returns them; an empty list after PATIENCE."""
        deadline = time.monotonic() + PATIENCE
        while not (found := self.query(expression)) and time.monotonic() < deadline:
            threading.Event().wait(_LOOK_SECONDS)
        return found


class Live:
    """The cluster, its Prometheus, and the collector of its traces."""

    def __init__(self, workers: dict[str, subprocess.Popen[str]], prometheus: Prometheus, collector: Receiver) -> None:
        self.workers = workers
        self.prometheus = prometheus
        self.collector = collector
        self.began = time.time()

    def kill_worker(self, name: str) -> None:
        """Kills the worker with SIGKILL, as the loss of its host would."""
        self.workers[name].send_signal(signal.SIGKILL)
        self.workers[name].wait()


def filled_in(expression: str) -> str:
    """A panel's expression as Grafana sends it when all values are chosen."""
    return re.sub(r"\$[a-z]+", ".*", expression.replace("$__rate_interval", RATE_INTERVAL))


@contextmanager
def live(folder: Path) -> Iterator[Live]:
    """Runs etcd, leaders, workers, Prometheus and load, and ends all of them."""
    with ExitStack() as stack:
        shutil.copy(HERE / "live_handlers.py", folder)
        collector = stack.enter_context(receiving())
        stack.enter_context(_exporting_to(collector))
        etcd = stack.enter_context(EtcdCluster(folder))
        leaders = []
        (folder / "snapshots").mkdir()
        shared = [f"--log={etcd.url('gowork')}", f"--snapshots={folder / 'snapshots'}"]
        authority = Authority(folder)
        files, worker_files = authority.client("load", "client", "admin"), authority.client("worker")
        shared += tls_options(authority.server(client_ca=authority.file))
        for name in ("leads", "follows"):
            (folder / name).mkdir()
            leaders.append(start_leader(folder / name, more=[*shared, f"--name={name}"]))
            stack.callback(kill, leaders[-1].process)
        leader = leaders[0]
        workers, pages = {}, []
        for name, slots in (("worker-1", 8), ("worker-2", 8), ("hangs", 1)):
            process = start(
                "gowork-worker",
                f"--leader={leader.cluster}",
                f"--name={name}",
                f"--slots={slots}",
                "--runners=1",
                f"--label=role={'hangs' if name == 'hangs' else 'works'}",
                "--import=live_handlers",
                "--http-listen=127.0.0.1:0",
                "--print-ready",
                *tls_options(worker_files),
                folder=folder,
            )
            stack.callback(kill, process)
            workers[name] = process
            pages.append(json.loads(first_line(process, folder / "gowork-worker.log"))["http"])
        prometheus = stack.enter_context(_prometheus(folder, [each.http for each in leaders], pages))
        client = stack.enter_context(Client(leader.scheduler, tls=files))
        with _load(client):
            yield Live(workers, prometheus, collector)


@contextmanager
def _exporting_to(collector: Receiver) -> Iterator[None]:
    """Has the processes that are started within trace to the collector; this process traces nothing."""
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{collector.address}", "OTEL_BSP_SCHEDULE_DELAY": "50"}
    os.environ |= variables
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


@contextmanager
def _prometheus(folder: Path, leaders: list[str], workers: list[str]) -> Iterator[Prometheus]:
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(DEPLOY / "prometheus/rules/*.yaml")]
    (folder / "targets").mkdir()
    for job, targets in zip(config["scrape_configs"], (leaders, workers), strict=True):
        (name,) = job["file_sd_configs"][0]["files"]
        (folder / name).write_text(yaml.safe_dump([{"targets": targets}]))
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/prometheus",
            "--web.listen-address=127.0.0.1:0",
            "--enable-feature=exemplar-storage",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        found = next(filter(None, map(_LISTENS.search, process.stderr)))
        # Its output is read to the end, so that it never waits for room in the pipe.
        reader = threading.Thread(target=process.stderr.read, daemon=True)
        reader.start()
        yield Prometheus(found[1])
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@contextmanager
def _load(client: Client) -> Iterator[None]:
    """Schedules some of everything that panels and alerts show, for as long as the context lasts."""
    works, hangs = {"role": "works"}, {"role": "hangs"}
    client.configure_queue("narrow", concurrency_limit=1)
    client.pause_queue("paused")
    for queue, handler, selector in (
        ("paused", "resize", works),
        ("narrow", "hang", works),
        ("narrow", "hang", works),
        ("busy", "hang", hangs),
        ("busy", "hang", hangs),
        ("orphans", "nobody-has-it", works),
    ):
        client.schedule("x", handler=handler, queue=queue, selector=selector)
    client.schedule("x", handler="resize", queue="images", delay=3600)
    # Late enough for Prometheus to see an increase.
    client.schedule("x", handler="crash", queue="images", selector=works, delay=5)
    done = threading.Event()

    def submit() -> None:
        with contextlib.suppress(GoworkError):
            while not done.wait(0.5):
                for _ in client.schedule_many(["x"] * 50, handler="resize", queue="images", selector=works):
                    pass
                for queue, handler in (("mail", "send_mail"), ("images", "wander")):
                    client.schedule("x", handler=handler, queue=queue, selector=works)

    thread = threading.Thread(target=submit)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
