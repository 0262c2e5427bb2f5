"""Clients, leaders and workers of 0.1.0 and of the work tree, in every mixture."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from compat_versions import HERE, NEW, Version, cluster, unpack_old
from compat_work import EXPECTED

from gowork.client import Client


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return unpack_old(tmp_path_factory.mktemp("0.1.0"))


def test_the_wheels_that_are_kept_are_run_as_0_1_0(old: Version, tmp_path: Path) -> None:
    modules = ("client", "leader.app", "worker", "proto", "rpc", "cli")
    program = "import " + ", ".join(f"gowork.{name}" for name in modules) + "; import sys, json; print(json.dumps("
    program += (
        "[m.__file__ for n, m in sys.modules.items() if n.startswith('gowork.') and getattr(m, '__file__', None)]))"
    )
    files = json.loads(old.run("-c", program, folder=tmp_path))
    assert len(files) > 20
    assert [file for file in files if not file.startswith(old.path)] == []


@pytest.mark.parametrize("mixture", ["new leader", "old leader", "old worker alone", "old client alone"])
def test_every_mixture_of_versions_does_the_same_work(old: Version, tmp_path: Path, mixture: str) -> None:
    client, leader, worker = {
        "new leader": (old, NEW, old),
        "old leader": (NEW, old, NEW),
        "old worker alone": (NEW, NEW, old),
        "old client alone": (old, NEW, NEW),
    }[mixture]
    with cluster(tmp_path, leader, worker) as running:
        told = client.run(str(HERE / "compat_work.py"), running.scheduler, folder=tmp_path)
    assert json.loads(told) == EXPECTED


def test_a_worker_that_names_queues_takes_nothing_from_an_earlier_leader(old: Version, tmp_path: Path) -> None:
    with cluster(tmp_path, old, None) as running, Client(running.scheduler) as client:
        arguments = ["gowork.worker", "--leader", running.cluster, "--import", "compat_handlers", "--queue", "images"]
        worker = NEW.start(*arguments, "--runners=1", folder=tmp_path, log="worker.log")
        try:
            task = client.schedule({"value": 1}, handler="double")
            deadline = time.monotonic() + 120
            while "name none" not in (log := (tmp_path / "worker.log").read_text()):
                assert time.monotonic() < deadline, log
                time.sleep(0.02)
            assert client.get(task.id).attempts == ()
            assert "would give it tasks of all queues: upgrade the leader" in log
        finally:
            worker.kill()
            worker.communicate()
