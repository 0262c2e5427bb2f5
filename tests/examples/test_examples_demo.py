"""The demo's handlers, one by one and in a cluster, without its processes: those are for `nox -s demo`."""

from __future__ import annotations

import hashlib
import importlib
import socket
from pathlib import Path
from typing import Any

import pytest

from gowork.testing import Cluster
from gowork.worker.testing import FailureKind, Status, run_handler

DEMO = Path(__file__).parents[2] / "examples/demo"
#: Seconds for what comes within one on a machine that is not busy.
SOON = 60.0


@pytest.fixture(autouse=True)
def _demo_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DEMO))


@pytest.fixture
def handlers() -> Any:
    return importlib.import_module("demo_handlers")


@pytest.fixture
def work() -> Any:
    return importlib.import_module("demo_work")


def test_a_file_is_digested(handlers: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    outcome = run_handler(handlers.sha256, {"path": str(path)})
    assert outcome.result_as(handlers.Digest) == handlers.Digest(hashlib.sha256(b"abc").hexdigest(), 3)


def test_a_file_that_is_not_there_fails_the_attempt(handlers: Any, tmp_path: Path) -> None:
    outcome = run_handler(handlers.sha256, handlers.File(str(tmp_path / "absent")))
    assert isinstance(outcome.error, FileNotFoundError)
    assert outcome.status is Status.FAILED


def test_an_answer_is_fetched(handlers: Any, work: Any) -> None:
    with work.squares_server() as port:
        assert run_handler(handlers.fetch, handlers.Url("127.0.0.1", port, "/squares/7")).result["square"] == 49
        failed = run_handler(handlers.fetch, {"host": "127.0.0.1", "port": port})
    assert failed.failure is not None
    assert failed.failure.kind is FailureKind.REJECTED


def test_a_server_that_does_not_answer_is_left_at_the_time_limit(handlers: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = handlers.Url("127.0.0.1", server.getsockname()[1], "/")
        assert run_handler(handlers.fetch, url, time_limit=0.2).status is Status.TIMED_OUT


def test_the_demos_tasks_run_in_a_cluster(work: Any, tmp_path: Path) -> None:
    with work.squares_server() as port:
        jobs = work.make_jobs(tmp_path, port)[:60]
        assert len({job.kind for job in jobs}) == 3
        with Cluster(workers=2, imports=["demo_handlers"], plugins=["shell"]) as cluster:
            handles = list(cluster.client.schedule_many(job.task for job in jobs))
            tasks = {task.id: task for task in cluster.client.wait(handles, timeout=SOON)}
    for job in jobs:
        result = tasks[str(job.task.id)].value()
        assert {field: result[field] for field in job.answer} == job.answer
