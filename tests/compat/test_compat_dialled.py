"""Callback workers of 0.1.0 with a leader of the work tree, and the other way round."""

from __future__ import annotations

from pathlib import Path

import pytest
from compat_versions import NEW, Version, cluster, unpack_old

from gowork.client import Client, TaskInfo, TaskStatus


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return unpack_old(tmp_path_factory.mktemp("0.1.0"))


def work(folder: Path, leader: Version, worker: Version) -> list[TaskInfo]:
    """Returns the ends of two tasks whose handler snoozes once before it completes."""
    with (
        cluster(folder, leader, worker, default_handler="napping") as running,
        Client(running.scheduler) as client,
    ):
        return client.wait([client.schedule("work", id=id) for id in ("a", "b")], timeout=120)


def test_a_new_worker_has_an_old_leader_take_a_snoozed_task_back(old: Version, tmp_path: Path) -> None:
    assert [task.status for task in work(tmp_path, old, NEW)] == [TaskStatus.COMPLETED] * 2


def test_an_old_worker_ends_its_tasks_at_a_new_leader_as_it_did_at_its_own(old: Version, tmp_path: Path) -> None:
    # The old worker reports an error when the handler snoozes.
    assert [task.status for task in work(tmp_path, NEW, old)] == [TaskStatus.ERROR] * 2
