"""Two workers, one of them with an upgraded handler: each task runs where its payload fits."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from clusters import RunningLeader, start_worker, stopped_cleanly

from gowork.client import Client, TaskStatus, WaitCode

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


@pytest.mark.longer
def test_a_task_runs_by_a_version_that_it_asks_for_and_keeps_which_it_was(
    tmp_path: Path, leader: RunningLeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack, Client(leader.scheduler) as client:
        for version, fields in (("1.9", OLD), ("1.10", "url: str")):
            folder = tmp_path / version
            installed = folder / f"images-{version}.dist-info"
            installed.mkdir(parents=True)
            (folder / "images_plugin.py").write_text(MODULE.format(fields=fields, version=version))
            (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: images\nVersion: {version}\n")
            (installed / "entry_points.txt").write_text("[gowork.plugins]\nimages = images_plugin\n")
            monkeypatch.setenv("PYTHONPATH", str(folder))
            worker = start_worker(folder, leader, "--name", version, "--plugin", "images", "--runners=1")
            stack.enter_context(stopped_cleanly(worker))
        for payload, wanted, version in (({"path": "a"}, "<1.10", "1.9"), ({"url": "a"}, ">=1.10", "1.10")):
            many = list(client.schedule_many([payload] * 20, handler="resize", plugin_version=wanted))
            assert {task.result for task in client.wait(many, timeout=120)} == {f'"{version}"'}
            # None of them was handed back by the other one.
            attempts = [attempt for handle in many for attempt in client.get(handle.id).attempts]
            assert [(each.plugin, each.plugin_version) for each in attempts] == [("images", version)] * 20
        # Without a range both try it, and the record shows which.
        misfit = client.schedule({"neither": 1}, handler="resize").wait(timeout=120)
        assert {each.plugin_version for each in client.get(misfit.id).attempts} == {"1.9", "1.10"}
        waiting = client.schedule({"url": "a"}, handler="resize", plugin_version=">=2")
        (reason,) = client.explain(waiting.id).reasons
        assert reason.code is WaitCode.PLUGIN_VERSION
        there = reason.message.split("there is ")[1].split(", ")
        assert sorted(there) == ["images 1.10 (1 worker)", "images 1.9 (1 worker)"]
        client.cancel(waiting.id)
