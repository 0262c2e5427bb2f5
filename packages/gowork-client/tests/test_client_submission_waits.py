"""Tasks that are waited for one by one, of both clients: over the stream on which they are scheduled."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest

from gowork.client import AsyncClient, ClientClosed, NotFound, TaskNotFinished, TlsFiles
from gowork.client import _channels as channels
from gowork.client import _lookouts as lookouts
from gowork.client._async import submitting as async_submitting
from gowork.client._sync import submitting
from gowork.proto.status import Refusal

#: A length of time after which a test fails, in seconds.
PATIENCE = 60.0
GONE = Refusal(grpc.StatusCode.UNAVAILABLE, "NOT_SERVING", "the leader stops")

pytestmark = pytest.mark.usefixtures("streams")


@pytest.fixture
def waiting(calling: Any, scripted: Any) -> Any:
    """A caller with a stream, whose tasks "a" and "b" have not finished."""
    scripted.finishes_at_once = False
    caller = calling(scripted.address)
    for id in "ab":
        caller.schedule(id)
    return caller


def calls(leader: Any) -> int:
    """How many calls of WaitTask a leader got."""
    return len(leader.requests.get("WaitTask", ()))


def test_waits_share_the_stream(waiting: Any, scripted: Any) -> None:
    first, second = waiting.wait("a"), waiting.wait("b")
    scripted.until_on_streams("waits", 2)
    scripted.finish("b", result="1")
    (task,) = second.result(PATIENCE)
    assert (task.id, task.value()) == ("b", 1)
    assert not first.done()
    waiting.schedule("c")
    scripted.finish("a", result="2")
    assert first.result(PATIENCE)[0].value() == 2
    assert calls(scripted) == 0
    assert scripted.opened == 1
    assert not any(request.given_up for request in scripted.requests["SubmitTasks"])


def test_a_program_that_schedules_one_task_waits_by_a_call(calling: Any, scripted: Any) -> None:
    caller = calling(scripted.address)
    caller.schedule("a")
    caller.wait("a").result(PATIENCE)
    assert calls(scripted) == 1
    assert scripted.opened == 0


def test_a_large_result_is_called_for(waiting: Any, scripted: Any) -> None:
    scripted.stream_result_max = 10
    scripted.finish("a", result=f'"{"x" * 20}"')
    (task,) = waiting.wait("a").result(PATIENCE)
    assert task.value() == "x" * 20
    assert calls(scripted) == 1


def test_a_refusal_is_that_of_a_call_of_its_own(waiting: Any, scripted: Any) -> None:
    scripted.refused["none"] = Refusal(grpc.StatusCode.NOT_FOUND, "TASK_UNKNOWN", "no task has the id 'none'")
    with pytest.raises(NotFound, match="no task has the id 'none'"):
        waiting.wait("none").result(PATIENCE)
    assert calls(scripted) == 0


def test_a_wait_beyond_its_timeout_is_given_up(waiting: Any, scripted: Any) -> None:
    with pytest.raises(TaskNotFinished):
        waiting.wait("a", 0.3).result(PATIENCE)
    scripted.until_on_streams("given_up", 1)
    assert calls(scripted) == 0


def test_after_a_wait_that_was_late_waits_are_calls_until_the_stream_is_heard(waiting: Any, scripted: Any) -> None:
    with waiting.within(0.5):
        future = waiting.wait("a")
        scripted.until_asked("WaitTask", 2)
    scripted.until_on_streams("given_up", 1)
    scripted.finish("a")
    assert future.result(PATIENCE)[0].id == "a"
    waiting.schedule("c")
    future = waiting.wait("b")
    scripted.until_on_streams("waits", 2)
    scripted.finish("b")
    assert future.result(PATIENCE)[0].id == "b"


async def test_a_wait_whose_caller_is_cancelled_is_given_up(scripted: Any) -> None:
    scripted.finishes_at_once = False
    async with AsyncClient(scripted.address, timeout=PATIENCE) as client:
        handles = [await client.schedule("p", id=id) for id in "ab"]
        first, second = (asyncio.create_task(handle.wait()) for handle in handles)
        await asyncio.to_thread(scripted.until_on_streams, "waits", 2)
        first.cancel()
        await asyncio.wait([first])
        assert first.cancelled()
        await asyncio.to_thread(scripted.until_on_streams, "given_up", 1)
        scripted.finish("b")
        assert (await second).id == "b"


def test_a_wait_on_a_stream_that_breaks_is_made_as_a_call(waiting: Any, scripted: Any) -> None:
    future = waiting.wait("a")
    scripted.until_on_streams("waits", 1)
    scripted.breaks_after("SubmitTasks", GONE)
    waiting.schedule("c")
    scripted.until_asked("WaitTask", 1)
    scripted.finish("a")
    assert future.result(PATIENCE)[0].id == "a"


def test_a_wait_that_is_under_way_when_the_client_is_closed_says_so(waiting: Any, scripted: Any) -> None:
    future = waiting.wait("a")
    scripted.until_on_streams("waits", 1)
    waiting.close()
    with pytest.raises(ClientClosed):
        future.result(PATIENCE)


def test_a_stream_with_an_open_wait_stays(waiting: Any, scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (submitting, async_submitting):
        monkeypatch.setattr(module, "IDLE_SECONDS", 0.7)
    waiting.schedule("c")
    future = waiting.wait("a")
    scripted.until_on_streams("waits", 1)
    threading.Event().wait(1.6)
    opened = scripted.opened
    waiting.schedule("d")
    assert scripted.opened == opened
    scripted.finish("a")
    assert future.result(PATIENCE)[0].id == "a"
    scripted.until_streams(0)


def test_where_a_stream_has_answered_nothing_waits_are_calls(
    calling: Any, scripted: Any, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = calling(scripted.address)
    caller.schedule("a")
    scripted.run_next("SubmitTasks", held.wait)
    future = caller.start("p", "b")
    scripted.until_asked("SubmitTasks", 1)
    assert caller.wait("a").result(PATIENCE)[0].id == "a"
    assert calls(scripted) == 1
    held.set()
    assert future.result(PATIENCE).id == "b"


def test_traced_waits_are_calls(waiting: Any, scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (submitting, async_submitting):
        monkeypatch.setattr(module, "is_traced", lambda: True)
    scripted.finish("a")
    waiting.wait("a").result(PATIENCE)
    assert calls(scripted) == 1


def test_who_has_a_new_token_does_not_wait_on_a_stream_with_the_old_one(
    calling: Any, scripted: Any, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("former")
    caller = calling(scripted.address, tls=TlsFiles(token=file))
    for id in "ab":
        caller.schedule(id)
    file.write_text("newest")
    caller.client._settings.tls.refresh(0.0)
    caller.wait("a").result(PATIENCE)
    assert calls(scripted) == 1


def test_a_silent_leader_is_left_for_the_next_one(
    calling: Any, scripted: Any, other: Any, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "LONG_SILENCE_SECONDS", 0.05)
    monkeypatch.setattr(lookouts, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(lookouts, "PING_SECONDS", 0.3)
    scripted.finishes_at_once = False
    caller = calling(scripted.address, other.address)
    for id in "ab":
        caller.schedule(id)
    other.tasks.update(scripted.tasks)
    scripted.answers_pings = False
    future = caller.wait("a")
    scripted.until_on_streams("waits", 1)
    other.says_leads(2, other.address, scripted.address)
    other.until_asked("WaitTask", 1)
    other.finish("a")
    assert future.result(PATIENCE)[0].id == "a"
