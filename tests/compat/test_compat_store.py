"""The work tree opens a store that 0.1.0 made: all its tasks and queues are there, and go on."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from compat_versions import HERE, NEW, cluster, unpack_old

from gowork.client import AttemptOutcome, Client, FailureKind, LeaderTooOld, TaskStatus, WaitCode
from gowork.leader.store._sqlite_lower import downgrade

#: The store grows older with each year; without these options its finished tasks would be removed after seven days.
KEEP = ("--retain-days=36500", "--retain-failed-days=36500")


def old_store(folder: Path) -> Path:
    """A copy of the store that 0.1.0 made."""
    return Path(shutil.copy(HERE / "store-0.1.0" / "gowork.db", folder / "old.db"))


def test_what_a_store_of_0_1_0_holds_is_there(tmp_path: Path) -> None:
    with cluster(tmp_path, NEW, None, old_store(tmp_path), *KEEP) as leader, Client(leader.scheduler) as client:
        assert client.handle("completed").result() == 42
        assert client.handle("bytes").result() == b"cba"
        failed = client.get("failed")
        assert failed.status is TaskStatus.ERROR
        assert failed.failure is not None
        assert (failed.failure.kind, failed.failure.message) == (FailureKind.HANDLER, "fails for good")
        assert [attempt.outcome for attempt in client.get("retried").attempts] == [
            AttemptOutcome.FAILED,
            AttemptOutcome.COMPLETED,
        ]
        assert client.handle("parent-child").result() == 4
        assert client.get("cancelled").status is TaskStatus.CANCELLED
        assert client.get("far").run_at == datetime(2100, 1, 1, tzinfo=UTC)
        assert client.get("expiring").expires_at == datetime(2100, 1, 1, tzinfo=UTC)
        assert client.get("pending").labels == {"kind": "pending"}
        queues = {queue.name: queue for queue in client.queues()}
        assert queues["paused"].paused
        assert (queues["limited"].concurrency_limit, queues["limited"].weight) == (1, 5)
        # The same submit is still the same task, although tasks have more fields since then.
        client.schedule({"value": 21}, handler="double", id="completed")


def test_what_waits_in_a_store_of_0_1_0_goes_on(tmp_path: Path) -> None:
    with cluster(tmp_path, NEW, NEW, old_store(tmp_path), *KEEP) as leader, Client(leader.scheduler) as client:
        assert client.handle("pending").result() == 2
        assert client.handle("delayed").result() == 4
        assert client.handle("expiring").result() == 8
        assert client.handle("limited").result() == 12
        assert client.handle("to-be-retried").result() == "attempt 2"
        assert client.get("far").status is TaskStatus.PENDING
        assert client.get("held").status is TaskStatus.PENDING
        client.resume_queue("paused")
        assert client.handle("held").result() == 10
        # A task that has ended runs once more, and fails again.
        client.retry("failed")
        assert client.handle("failed").wait().status is TaskStatus.ERROR
        assert len(client.get("failed").attempts) == 2


def test_a_store_that_the_work_tree_has_used_can_still_be_read_by_0_1_0(tmp_path: Path) -> None:
    store = old_store(tmp_path)
    with cluster(tmp_path, NEW, NEW, store, *KEEP) as leader, Client(leader.scheduler) as client:
        assert client.handle("pending").result() == 2
        client.resume_queue("paused")
        client.configure_queue("limited", concurrency_limit=7)
    downgrade(store)
    old = unpack_old(tmp_path / "0.1.0")
    with cluster(tmp_path, old, None, store, *KEEP) as leader, Client(leader.scheduler) as client:
        assert client.handle("pending").result() == 2
        assert client.handle("completed").result() == 42
        queues = {queue.name: queue for queue in client.queues()}
        assert not any(queue.paused for queue in queues.values())
        assert (queues["limited"].concurrency_limit, queues["limited"].weight) == (7, 5)


def test_a_store_that_the_work_tree_has_made_goes_to_0_1_0_and_back(tmp_path: Path) -> None:
    store = tmp_path / "new.db"
    with cluster(tmp_path, NEW, None, store, *KEEP) as leader, Client(leader.scheduler) as client:
        client.pause_queue("made by the new one")
        client.schedule(1, queue="made by the new one", id="waits")
    downgrade(store)
    old = unpack_old(tmp_path / "0.1.0")
    with cluster(tmp_path, old, None, store, *KEEP) as leader, Client(leader.scheduler) as client:
        assert [queue.name for queue in client.queues() if queue.paused] == ["made by the new one"]
        assert client.get("waits").status is TaskStatus.PENDING
        client.resume_queue("made by the new one")
        client.pause_queue("made by 0.1.0")
    with cluster(tmp_path, NEW, None, store, *KEEP) as leader, Client(leader.scheduler) as client:
        assert [queue.name for queue in client.queues() if queue.paused] == ["made by 0.1.0"]


@pytest.mark.longer
def test_a_task_that_asks_for_versions_waits_at_an_earlier_leader_and_goes_on_at_the_next(tmp_path: Path) -> None:
    store = tmp_path / "new.db"
    with cluster(tmp_path, NEW, None, store, *KEEP) as leader, Client(leader.scheduler) as client:
        client.schedule({"value": 1}, handler="double", plugin_version=">=1", id="ranged")
    downgrade(store)
    old = unpack_old(tmp_path / "0.1.0")
    with cluster(tmp_path, old, NEW, store, *KEEP) as leader, Client(leader.scheduler) as client:
        # It was scheduled later, and is for the same worker.
        assert client.schedule({"value": 2}, handler="double").result() == 4
        (reason,) = client.explain("ranged").reasons
        assert reason.code is WaitCode.SELECTOR
        with pytest.raises(LeaderTooOld, match="plugin_version"):
            client.schedule({"value": 3}, handler="double", plugin_version=">=1")
    with cluster(tmp_path, NEW, NEW, store, *KEEP) as leader, Client(leader.scheduler) as client:
        (reason,) = client.explain("ranged").reasons
        assert (reason.code, client.get("ranged").plugin_version) == (WaitCode.PLUGIN_VERSION, ">=1")
        client.cancel("ranged")
