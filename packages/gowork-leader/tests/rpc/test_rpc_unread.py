"""What workers and waiters have not read is bounded over all of them."""

from __future__ import annotations

import pytest

from gowork.leader._core import effects as ef
from gowork.leader._core.model import LaneKey, Priority, Spec, Standing, Status, Task
from gowork.leader._engine import subscriptions
from gowork.leader._engine.subscriptions import Subscriptions, Waiter
from gowork.leader._rpc import sessions
from gowork.leader._rpc.sessions import _Stream, _Unread


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "FENCES_UNREAD_MAX", 1_000)
    monkeypatch.setattr(sessions, "FENCES_UNREAD_ALL_MAX", 2_000)
    monkeypatch.setattr(sessions, "FENCES_SHARE", 10)
    monkeypatch.setattr(subscriptions, "WAITERS_BYTES_MAX", 1_000)


def cancel(stream: _Stream, fences: int) -> None:
    stream.add(ef.CancelTasks(1, tuple(range(fences))))


async def test_a_worker_that_does_not_read_is_ended_by_the_bound_over_all_workers() -> None:
    unread = _Unread()
    streams = [_Stream(unread) for _ in range(5)]
    for stream in streams[:4]:
        cancel(stream, 600)
    assert unread.fences == 2_400
    assert all(stream.ending is None for stream in streams)
    # One more for a worker that has not read much: it is not the one.
    cancel(streams[4], 5)
    cancel(streams[4], 5)
    assert streams[4].ending is None
    cancel(streams[0], 5)
    ending = streams[0].ending
    assert ending is not None
    assert ending.refusal is not None
    assert "has not read 600 grants and answers; the limit is 10" in ending.refusal.message


async def test_what_a_worker_reads_or_leaves_is_counted_no_more() -> None:
    unread = _Unread()
    reading, leaving = _Stream(unread), _Stream(unread)
    cancel(reading, 600)
    cancel(leaving, 600)
    await reading.take()
    assert unread.fences == 600
    leaving.end()
    leaving.end()
    assert unread.fences == 0


def completed(id: str, result: str) -> Task:
    return Task(
        1, Spec(id, LaneKey("default", Priority.LOW, "", ()), b""), Standing(Status.COMPLETED, 0, result=result), 1
    )


async def test_results_beyond_the_bound_over_all_waiters_are_kept_as_ids() -> None:
    follows = Subscriptions()
    first, second = Waiter(follows.waiting), Waiter(follows.waiting)
    follows.add_waiter(first, ["a", "b"])
    follows.add_waiter(second, ["c", "d"])
    follows.publish([completed("a", "x" * 600), completed("b", "x" * 600), completed("c", "x"), completed("d", "x")], 1)
    taken, beyond = await first.take()
    assert ([ended.id for ended in taken], beyond) == (["a", "b"], [])
    # One is kept for each waiter: those who wait for one task look for nothing in the store.
    taken, beyond = await second.take()
    assert ([ended.id for ended in taken], beyond) == (["c"], ["d"])
    # Held until they have been sent, or the waiter is gone.
    assert follows.waiting.bytes == 1_201
    first.end()
    second.end()
    assert follows.waiting.bytes == 0
