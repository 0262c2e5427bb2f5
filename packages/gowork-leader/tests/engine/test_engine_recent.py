"""Tasks that completed a moment ago are kept for those who come to wait for them."""

from __future__ import annotations

from typing import Any

from gowork.leader._core.model import Failure, FailureKind, LaneKey, Priority, Spec, Standing, Status, Task
from gowork.leader._engine.subscriptions import RECENT_BYTES_MAX, RECENT_TASKS_MAX, Subscriptions


def task(id: str, status: Status = Status.COMPLETED, body: bytes = b"body", **standing: Any) -> Task:
    spec = Spec(id, LaneKey("default", Priority.LOW, "", ()), body)
    return Task(1, spec, Standing(status, 0, **standing), 1)


def test_a_completed_task_is_kept() -> None:
    subscriptions = Subscriptions()
    subscriptions.publish([task("a", result='"done"')], 1)
    kept = subscriptions.recent("a", with_body=True)
    assert kept is not None
    assert kept.standing.result == '"done"'


def test_a_task_that_goes_on_is_not_kept_any_more() -> None:
    subscriptions = Subscriptions()
    subscriptions.publish([task("a")], 1)
    subscriptions.publish([task("a", Status.PENDING)], 2)
    assert subscriptions.recent("a", with_body=True) is None


def test_a_task_that_fails_after_it_completed_under_the_same_id_is_not_kept_as_completed() -> None:
    subscriptions = Subscriptions()
    subscriptions.publish([task("a")], 1)
    subscriptions.publish([task("a", Status.ERROR, failure=Failure(FailureKind.HANDLER))], 2)
    assert subscriptions.recent("a", with_body=True) is None


def test_a_large_result_is_not_kept() -> None:
    subscriptions = Subscriptions()
    subscriptions.publish([task("a", result="x" * (RECENT_BYTES_MAX + 1))], 1)
    assert subscriptions.recent("a", with_body=False) is None


def test_a_large_body_is_not_kept_though_its_result_is() -> None:
    subscriptions = Subscriptions()
    subscriptions.publish([task("a", body=b"x" * (RECENT_BYTES_MAX + 1), result='"done"')], 1)
    assert subscriptions.recent("a", with_body=True) is None
    kept = subscriptions.recent("a", with_body=False)
    assert kept is not None
    assert (kept.body, kept.standing.result) == (None, '"done"')


def test_the_latest_are_kept_and_older_ones_forgotten() -> None:
    subscriptions = Subscriptions()
    count = 3 * RECENT_TASKS_MAX
    subscriptions.publish([task(str(number)) for number in range(count)], 1)
    kept = [number for number in range(count) if subscriptions.recent(str(number), with_body=True) is not None]
    assert kept[-RECENT_TASKS_MAX:] == list(range(count - RECENT_TASKS_MAX, count))
    assert len(kept) <= 2 * RECENT_TASKS_MAX
