"""The worker of gowork as a callback worker (`--listen`) of gowork's own leader: no task is held for ever."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import RunningLeader, kill, start_worker, stopped_cleanly

from gowork.client import AttemptOutcome, Client, FailureKind, TaskStatus

HANDLERS = Path(__file__).parent


@pytest.fixture
def arguments(leader: RunningLeader, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HANDLERS), *filter(None, [os.environ.get("PYTHONPATH")])]))
    return [
        "--name=dialled",
        "--listen=127.0.0.1:0",
        f"--scheduler={leader.scheduler}",
        "--import=dialled_handlers",
        "--default-handler=ends",
        "--runners=1",
    ]


@pytest.fixture
def client(leader: RunningLeader) -> Iterator[Client]:
    with Client(leader.scheduler) as client:
        yield client


def outcomes(client: Client, id: str) -> list[AttemptOutcome]:
    return [attempt.outcome for attempt in client.get(id).attempts]


def test_each_way_in_which_an_attempt_can_end_frees_the_worker(
    leader: RunningLeader, arguments: list[str], client: Client, tmp_path: Path
) -> None:
    with stopped_cleanly(start_worker(tmp_path, leader, *arguments)):
        for payload in ("cancel", "snooze", "retry", "done"):
            client.schedule(payload, id=payload)
        client.schedule("for ever", id="timed out", time_limit=0.1)
        client.schedule("done", id="last")
        ended = {
            task.id: task.status for task in client.wait(["cancel", "snooze", "retry", "done", "timed out", "last"], 60)
        }
    assert ended == {
        "cancel": TaskStatus.CANCELLED,
        "snooze": TaskStatus.COMPLETED,
        "retry": TaskStatus.COMPLETED,
        "done": TaskStatus.COMPLETED,
        "timed out": TaskStatus.ERROR,
        "last": TaskStatus.COMPLETED,
    }
    assert outcomes(client, "snooze") == [AttemptOutcome.SNOOZED, AttemptOutcome.COMPLETED]
    assert outcomes(client, "retry") == [AttemptOutcome.FAILED, AttemptOutcome.COMPLETED]
    failure = client.get("timed out").failure
    assert failure is not None
    assert failure.kind is FailureKind.TIMEOUT


def test_what_a_dialled_worker_runs_when_it_stops_goes_to_another(
    leader: RunningLeader, arguments: list[str], client: Client, tmp_path: Path
) -> None:
    worker = start_worker(tmp_path, leader, *arguments, "--drain-timeout=0")
    try:
        client.schedule("for ever", id="a")
        for task in client.watch('id = "a"'):
            if task.progress is not None and task.progress.message == "half way":
                break
        worker.terminate()
        assert worker.wait(120) == 0
        task = client.get("a")
        assert (task.status, task.attempts_used) == (TaskStatus.PENDING, 0)
        assert task.attempts[0].outcome is AttemptOutcome.INTERRUPTED
    finally:
        kill(worker)
