"""A schedule that a handler declares runs it, with nothing else to set up."""

from __future__ import annotations

import threading

from gowork.client import Every as ClientEvery
from gowork.testing import Cluster
from gowork.worker import Context, Every, Schedule, handler

RAN = threading.Event()


@handler(schedule=Schedule(Every(1), {"kind": "daily"}, name="nightly", labels={"by": "code"}))
def report(ctx: Context, job: dict[str, str]) -> str:
    RAN.set()
    return job["kind"]


def test_a_declared_schedule_makes_tasks() -> None:
    with Cluster(handlers=[report]) as cluster:
        assert RAN.wait(60)
        (schedule,) = cluster.client.schedules.list()
        assert (schedule.name, schedule.when, schedule.declared_by_handler) == ("nightly", ClientEvery(1), "report")
        task = next(iter(cluster.client.tasks(labels={"by": "code"})))
        assert task.id.startswith("nightly/")
        assert cluster.client.handle(task.id).result(timeout=60) == "daily"
