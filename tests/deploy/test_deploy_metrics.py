"""The page docs/metrics.md names every metric that a real cluster shows, and none that it doesn't."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from clusters import first_line, start, start_leader, stopped_cleanly, tls_options
from deploy_metrics import METRICS, Metric, metric
from etcd_members import EtcdCluster
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from tls_authority import Authority

from gowork.client import Client


def shown(address: str) -> dict[str, Metric]:
    """The metrics that have a value on this page: {name: kind and labels}."""
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    with urllib.request.urlopen(
        urllib.request.Request(f"http://{address}/metrics", headers=accept), timeout=120
    ) as page:
        text = page.read().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        if family.samples:
            name = f"{family.name}_total" if family.type == "counter" else family.name
            found[name] = metric(family.type, *labels)
    return found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Metric]]:
    """The metrics of a leader and a worker that have done everything that adds series."""
    folder = tmp_path_factory.mktemp("cluster")
    authority = Authority(folder)
    leader = start_leader(folder, more=tls_options(authority.server(client_ca=authority.file)))
    files = authority.client()
    with stopped_cleanly(leader.process):
        shutil.copy(Path(__file__).with_name("live_handlers.py"), folder)
        more = [
            "--print-ready",
            "--http-listen=127.0.0.1:0",
            "--import=live_handlers",
            *tls_options(authority.client("worker")),
        ]
        worker = start("gowork-worker", f"--leader={leader.cluster}", *more, folder=folder)
        with stopped_cleanly(worker):
            http = json.loads(first_line(worker, folder / "gowork-worker.log"))["http"]
            with Client(leader.scheduler, tls=files) as client:
                client.schedule("p").result(timeout=120)
                client.schedule("p", handler="nobody-has-it")
                client.schedule("p", handler="wander").result(timeout=120)
                # The runner reports its executions once a second.
                worker_page: dict[str, Metric] = {}
                while not worker_page.keys() >= {
                    "gowork_task_execution_seconds",
                    "gowork_worker_loop_lag_seconds",
                    "gowork_worker_settings_restored_total",
                }:
                    worker_page = shown(http)
            yield shown(leader.http) | worker_page


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Metric]]:
    """The metrics of a leader that shares a log."""
    folder = tmp_path_factory.mktemp("shared")
    with EtcdCluster(folder) as etcd:
        place = folder / "snapshots"
        place.mkdir()
        leader = start_leader(folder, more=[f"--log={etcd.url('gowork')}", f"--snapshots={place}"])
        with stopped_cleanly(leader.process):
            found: dict[str, Metric] = {}
            while "gowork_members" not in found:
                # It has the ports before it leads.
                found = shown(leader.http)
            yield found


def of_logs(names: Iterable[str]) -> set[str]:
    return {name for name in names if name.startswith("gowork_log_")}


@pytest.mark.tool("etcd")
def test_a_leader_that_shares_a_log_shows_what_the_page_says_of_logs(shared: dict[str, Metric]) -> None:
    assert of_logs(shared) == of_logs(METRICS) != set()
    assert set(shared) <= set(METRICS)
    assert all(shared[name] == METRICS[name] for name in of_logs(shared))


def test_every_metric_that_is_shown_is_on_the_page(pages: dict[str, Metric]) -> None:
    assert set(pages) - set(METRICS) == set()


def test_every_metric_on_the_page_is_shown(pages: dict[str, Metric]) -> None:
    assert set(METRICS) - set(pages) == of_logs(METRICS)


@pytest.mark.parametrize("name", sorted(set(METRICS) - of_logs(METRICS)))
def test_kind_and_labels_are_as_the_page_says(pages: dict[str, Metric], name: str) -> None:
    assert pages[name] == METRICS[name]
