"""Two workers, one of them with an upgraded handler: each task runs where its payload fits."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from clusters import RunningLeader, start_worker, stopped_cleanly

from gowork.client import Client, TaskStatus

MODULE = """
from dataclasses import dataclass

from gowork.worker import handler


@dataclass
class Job:
    {fields}


@handler
def resize(job: Job) -> str:
    return "{version}"
"""
OLD = "path: str"


@pytest.mark.parametrize(
    ("new", "payload"),
    [("path: str\n    grey: bool = False", {"path": "a", "grey": True}), ("url: str", {"url": "a"})],
    ids=["a field more", "a field renamed"],
)
def test_a_payload_finds_the_worker_whose_handler_reads_it(
    tmp_path: Path, leader: RunningLeader, new: str, payload: dict[str, object]
) -> None:
    with ExitStack() as stack, Client(leader.scheduler) as client:
        for version, fields in (("old", OLD), ("new", new)):
            folder = tmp_path / version
            folder.mkdir()
            (folder / "upgraded.py").write_text(MODULE.format(fields=fields, version=version))
            worker = start_worker(folder, leader, "--name", version, "--import", "upgraded", "--runners=1")
            stack.enter_context(stopped_cleanly(worker))
        many = list(client.schedule_many([payload] * 30, handler="resize"))
        assert Counter(task.result for task in client.wait(many, timeout=120)) == {'"new"': 30}
        # A payload that fits no form is refused for good, after each form has seen it.
        misfit = client.schedule({"neither": 1}, handler="resize").wait(timeout=120)
        assert misfit.status is TaskStatus.ERROR
        assert len({attempt.worker for attempt in client.get(misfit.id).attempts}) == 2
