"""Tasks that are scheduled one by one, of both clients: the first is a call of its own, the others share a stream."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2

from gowork.base.rotation import Rotation
from gowork.client import (
    AlreadyExists,
    AsyncClient,
    CallError,
    Client,
    ClientClosed,
    DeadlineExceeded,
    InvalidArgument,
    TlsFiles,
)
from gowork.client import _channels as channels
from gowork.client import _lookouts as lookouts
from gowork.client import _submissions as submissions
from gowork.client._async import submitting as async_submitting
from gowork.client._sync import submitting
from gowork.client.errors import error_of
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.status import FieldViolation, Refusal, invalid

#: A length of time after which a test fails, in seconds.
PATIENCE = 60.0
GONE = Refusal(grpc.StatusCode.UNAVAILABLE, "NOT_SERVING", "the leader stops")


pytestmark = pytest.mark.usefixtures("streams")


def test_all_but_the_first_share_a_stream(calling: Any, scripted: Any) -> None:
    caller = calling(scripted.address)
    for id in "abc":
        caller.schedule(id)
    assert list(scripted.tasks) == ["a", "b", "c"]
    assert scripted.seen() == (1, 2)
    assert scripted.streams == 1


async def test_those_that_wait_go_together(scripted: Any) -> None:
    async with AsyncClient(scripted.address, timeout=PATIENCE) as client:
        await client.schedule("p", id="first")
        await asyncio.gather(*(client.schedule("p", id=f"{number}") for number in range(80)))
    assert len(scripted.tasks) == 81
    assert [len(request.submissions) for request in scripted.requests["SubmitTasks"]] == [64, 16]


def test_those_of_threads_that_wait_go_together() -> None:
    held, begun = threading.Event(), SimpleQueue[Iterator[pb.SubmitTasksRequest]]()

    class Call:
        def __init__(self, frames: Iterator[pb.SubmitTasksRequest]) -> None:
            begun.put(frames)

        def __iter__(self) -> Iterator[Any]:
            held.wait()
            return iter(())

        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.OK

        def cancel(self) -> None:
            """It is over."""

    line: Any = channels.Line("a:1", SimpleNamespace(stream_stream=lambda method, **forms: Call))
    stream = submitting._Stream(line, Rotation(("a:1",)), submissions.Choice())
    answers = [submitting._Answer(pb.ScheduleTaskRequest()) for _ in range(80)]
    numbers = [stream.start(answers[0]), *(stream.submit(answer) for answer in answers[1:])]
    assert numbers == list(range(1, 81))
    frames = begun.get()
    assert [len(next(frames).submissions) for _ in range(2)] == [64, 16]
    held.set()
    assert list(frames) == []
    for number, answer in enumerate(answers, 1):
        with pytest.raises(submissions.StreamEnded):
            stream.wait(number, answer, PATIENCE)
    assert stream.submit(answers[0]) is None


def test_an_answer_stands_when_the_stream_ends_at_once() -> None:
    class Call:
        def __init__(self, frames: Iterator[pb.SubmitTasksRequest]) -> None:
            self.frames = frames

        def __iter__(self) -> Iterator[bytes]:
            answers = [pb.SubmissionAnswer(number=each.number) for each in next(self.frames).submissions]
            yield pb.SubmitTasksResponse(answers=answers).SerializeToString()

        def initial_metadata(self) -> tuple[()]:
            return ()

        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.OK

        def cancel(self) -> None:
            """It is over."""

    line: Any = channels.Line("a:1", SimpleNamespace(stream_stream=lambda method, **forms: Call))
    stream = submitting._Stream(line, Rotation(("a:1",)), submissions.Choice())
    answer = submitting._Answer(pb.ScheduleTaskRequest())
    number = stream.start(answer)
    while not stream.has_ended:
        threading.Event().wait(0.001)
    assert not stream.wait(number, answer, PATIENCE).HasField("refusal")


def test_a_refusal_is_that_of_a_call_of_its_own(calling: Any, scripted: Any) -> None:
    caller = calling(scripted.address)
    caller.schedule("first")
    scripted.refused["taken"] = Refusal(grpc.StatusCode.ALREADY_EXISTS, "TASK_EXISTS", "another task has this id")
    scripted.refused["wrong"] = invalid([FieldViolation("task.queue", "is too long")])
    with pytest.raises(AlreadyExists, match="another task has this id") as taken:
        caller.schedule("taken")
    assert taken.value.reason == "TASK_EXISTS"
    with pytest.raises(InvalidArgument) as wrong:
        caller.schedule("wrong")
    assert [violation.field for violation in wrong.value.violations] == ["task.queue"]
    caller.schedule("b")
    assert scripted.seen() == (1, 3)


def test_a_refusal_that_passes_is_tried_again(calling: Any, scripted: Any) -> None:
    caller = calling(scripted.address)
    caller.schedule("first")
    scripted.refused["a"] = GONE
    future = caller.start("p", "a")
    scripted.until_asked("SubmitTasks", 2)
    del scripted.refused["a"]
    assert future.result(PATIENCE).id == "a"
    assert scripted.seen()[0] == 1


def test_a_leader_without_streams_gets_calls(calling: Any, scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted.lacks.add("SubmitTasks")
    caller = calling(scripted.address)
    for id in "abc":
        caller.schedule(id)
    assert list(scripted.tasks) == ["a", "b", "c"]
    assert scripted.seen() == (3, 0)
    # It may be upgraded.
    scripted.lacks.clear()
    caller.schedule("d")
    assert scripted.seen() == (4, 0)
    now = submissions.time.monotonic()
    monkeypatch.setattr(submissions.time, "monotonic", lambda: now + submissions.AVOIDED_SECONDS)
    caller.schedule("e")
    assert scripted.seen() == (4, 1)


def test_what_a_broken_stream_leaves_unanswered_is_called_for(calling: Any, scripted: Any) -> None:
    caller = calling(scripted.address)
    caller.schedule("a")
    scripted.breaks_after("SubmitTasks", GONE)
    caller.schedule("b")
    assert list(scripted.tasks) == ["a", "b"]
    assert scripted.seen() == (2, 1)


def test_a_stream_of_answers_that_are_none_is_ended(calling: Any) -> None:
    ended, called = threading.Event(), list[bytes]()

    def garble(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        context.add_callback(ended.set)
        next(requests)
        yield b"\xff"
        ended.wait(PATIENCE)

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        called.append(request)
        return b""

    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "SubmitTasks": grpc.stream_stream_rpc_method_handler(garble),
        "ScheduleTask": grpc.unary_unary_rpc_method_handler(answer),
    }
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("scheduler.v1.SchedulerService", handlers),)
        )
        caller = calling(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        server.start()
        for id in "abc":
            caller.schedule(id)
        assert len(called) == 3
        assert ended.wait(PATIENCE)
        server.stop(None).wait()


@pytest.mark.parametrize("refusal", [b"", b"\xff", status_pb2.Status(code=0), status_pb2.Status(code=99)])
def test_a_refusal_that_is_none_is_an_unknown_one(refusal: bytes | status_pb2.Status) -> None:
    sent = refusal if isinstance(refusal, bytes) else refusal.SerializeToString()
    typed = error_of(submissions.SubmissionFailed.of(sent), "a:1")
    assert (type(typed), typed.code) == (CallError, grpc.StatusCode.UNKNOWN)


def test_a_stream_that_the_leader_ends_is_opened_again(calling: Any, scripted: Any, ports: Any) -> None:
    caller = calling(scripted.address)
    caller.schedule("a")
    caller.schedule("b")
    ports.stop(scripted.address)
    future = caller.start("p", "c")
    ports.serve(scripted, scripted.address)
    assert future.result(PATIENCE).id == "c"


def test_a_silent_leader_is_left_for_the_next_one(
    calling: Any, scripted: Any, other: Any, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "SILENCE_SECONDS", 0.05)
    monkeypatch.setattr(lookouts, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(lookouts, "PING_SECONDS", 0.3)
    caller = calling(scripted.address, other.address)
    caller.schedule("a")
    scripted.answers_pings = False
    scripted.run_next("SubmitTasks", held.wait)
    other.says_leads(2, other.address, scripted.address)
    for id in ("b", "c"):
        caller.schedule(id)
    assert list(other.tasks) == ["b", "c"]
    assert other.seen() == (1, 1)


def test_a_stream_on_which_no_answer_comes_is_given_up(
    calling: Any, scripted: Any, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (submitting, async_submitting):
        monkeypatch.setattr(module, "ANSWER_SECONDS", 1.0)
    caller = calling(scripted.address)
    caller.schedule("a")
    scripted.run_next("SubmitTasks", held.wait)
    for id in ("b", "c"):
        caller.schedule(id)
    assert list(scripted.tasks) == ["a", "b", "c"]
    assert scripted.seen() == (3, 1)


def test_after_a_stream_was_given_up_calls_are_made_before_its_end_is_read(
    calling: Any, scripted: Any, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (submitting, async_submitting):
        monkeypatch.setattr(module, "ANSWER_SECONDS", 1.0)
        monkeypatch.setattr(module._Stream, "cancel", lambda stream: setattr(stream, "is_over", True))
    caller = calling(scripted.address)
    caller.schedule("a")
    scripted.run_next("SubmitTasks", held.wait)
    for id in ("b", "c"):
        caller.schedule(id)
    assert scripted.seen() == (3, 1)
    held.set()


def test_what_is_tried_again_is_a_call_until_one_is_answered(calling: Any, scripted: Any) -> None:
    caller = calling(scripted.address)
    scripted.fail_next("ScheduleTask", GONE, times=2)
    for id in ("a", "b"):
        caller.schedule(id)
    assert scripted.seen() == (3, 1)


def test_an_answer_that_is_late_fails_its_call_alone(calling: Any, scripted: Any, held: threading.Event) -> None:
    caller = calling(scripted.address)
    for id in "ab":
        caller.schedule(id)
    scripted.run_next("SubmitTasks", held.wait)
    with caller.within(1.5), pytest.raises(DeadlineExceeded):
        caller.schedule("c")
    held.set()
    caller.schedule("d")
    assert scripted.seen() == (1, 3)
    assert scripted.streams == 1


def test_where_no_stream_is_answered_calls_are_made(calling: Any, scripted: Any, held: threading.Event) -> None:
    caller = calling(scripted.address)
    caller.schedule("a")
    scripted.run_next("SubmitTasks", held.wait)
    with caller.within(1.5), pytest.raises(DeadlineExceeded):
        caller.schedule("b")
    caller.schedule("c")
    assert scripted.seen() == (2, 1)


def test_a_task_whose_caller_has_given_up_is_not_sent(calling: Any, scripted: Any, held: threading.Event) -> None:
    caller = calling(scripted.address)
    for id in "ab":
        caller.schedule(id)
    scripted.run_next("SubmitTasks", held.wait)
    # The leader reads no more. How many messages gRPC takes until it lets the client wait is its own affair.
    with caller.within(0.3):
        for first in range(100, 900, 100):
            for future in [caller.start("x" * 30_000, f"{first + number}") for number in range(64)]:
                with pytest.raises(DeadlineExceeded):
                    future.result(PATIENCE)
    held.set()
    caller.schedule("z")
    assert 0 < len([id for id in scripted.tasks if id.isdigit()]) < 8 * 64


def test_a_stream_that_is_not_used_ends(calling: Any, scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (submitting, async_submitting):
        monkeypatch.setattr(module, "IDLE_SECONDS", 0.5)
    caller = calling(scripted.address)
    caller.schedule("a")
    for id in ("b", "c"):
        caller.schedule(id)
        assert scripted.seen()[0] == 1
        scripted.until_streams(0)


def test_a_stream_takes_what_it_was_opened_for_however_soon_it_ends(
    calling: Any, scripted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (submitting, async_submitting):
        monkeypatch.setattr(module, "IDLE_SECONDS", 0.0)
    caller = calling(scripted.address)
    for number in range(20):
        caller.schedule(f"{number}")
    assert scripted.seen() == (1, 19)


def test_a_stream_on_which_an_answer_is_awaited_stays(
    calling: Any, scripted: Any, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (submitting, async_submitting):
        monkeypatch.setattr(module, "IDLE_SECONDS", 0.1)
    caller = calling(scripted.address)
    caller.schedule("a")
    scripted.run_next("SubmitTasks", lambda: held.wait(1.0) and None)
    future = caller.start("p", "b")
    scripted.until_asked("SubmitTasks", 1)
    held.wait(0.5)
    caller.schedule("c")
    assert future.result(PATIENCE).id == "b"
    assert scripted.seen() == (1, 2)
    assert scripted.opened == 1


@pytest.mark.parametrize("most", [0, 1, 2])
def test_a_process_without_threads_makes_calls(scripted: Any, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(submissions, "AVOIDED_SECONDS", 0.0)
    starts, here, started = threading.Thread.start, threading.current_thread(), list[threading.Thread]()

    def start(thread: threading.Thread) -> None:
        if threading.current_thread() is here:
            if sum(each.is_alive() for each in started) >= most:
                raise RuntimeError("can't start new thread")
            started.append(thread)
        starts(thread)

    with Client(scripted.address, timeout=PATIENCE) as client:
        client.schedule("p", id="a")
        with monkeypatch.context() as limited:
            limited.setattr(threading.Thread, "start", start)
            client.schedule("p", id="b")
            client.schedule("p", id="c")
        assert scripted.seen() == (3, 0)
        assert scripted.streams == 0
        client.schedule("p", id="d")
        assert scripted.seen() == (3, 1)


def test_a_stream_that_nobody_could_read_is_not_opened(scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submissions, "AVOIDED_SECONDS", 0.0)
    starts = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name == "gowork-submitted":
            raise RuntimeError("can't start new thread")
        starts(thread)

    with Client(scripted.address, timeout=PATIENCE) as client:
        client.schedule("p", id="a")
        with monkeypatch.context() as limited:
            limited.setattr(threading.Thread, "start", start)
            client.schedule("p", id="b")
        # What was left of it would have come before this one.
        client.schedule("p", id="c")
        assert scripted.seen() == (2, 1)
        assert scripted.opened == 1


def test_a_call_that_is_under_way_when_the_client_is_closed_says_so(
    calling: Any, scripted: Any, held: threading.Event
) -> None:
    caller = calling(scripted.address)
    caller.schedule("a")
    scripted.run_next("SubmitTasks", held.wait)
    future = caller.start("p", "b")
    scripted.until_asked("SubmitTasks", 1)
    caller.close()
    with pytest.raises(ClientClosed):
        future.result(PATIENCE)


def test_a_new_token_is_shown_on_a_stream_of_its_own(calling: Any, scripted: Any, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("former")
    caller = calling(scripted.address, tls=TlsFiles(token=file))
    for id in "abc":
        caller.schedule(id)
    assert scripted.streams == 1
    file.write_text("newest")
    caller.client._settings.tls.refresh(0.0)
    for id in "de":
        caller.schedule(id)
    assert scripted.seen() == (1, 4)
    assert scripted.streams == 2


@pytest.mark.parametrize("is_chosen", [False, True])
@pytest.mark.parametrize("call", [lambda client: client.schedule("p", id="b"), lambda client: client.get("a")])
def test_a_call_that_begins_as_another_thread_closes_the_client_says_so(
    scripted: Any, monkeypatch: pytest.MonkeyPatch, call: Callable[[Client], object], is_chosen: bool
) -> None:
    client = Client(scripted.address, timeout=PATIENCE)
    client.schedule("p", id="a")
    channels = client._connection._routes._channels
    current = channels.current

    def closing() -> Any:
        line = current()
        client.close()
        return line if is_chosen else current()

    monkeypatch.setattr(channels, "current", closing)
    with pytest.raises(ClientClosed):
        call(client)


def test_large_tasks_are_calls_of_their_own(calling: Any, scripted: Any) -> None:
    caller = calling(scripted.address)
    caller.schedule("a")
    caller.schedule("b", "x" * submissions.SUBMISSION_BYTES_MAX)
    caller.schedule("c")
    assert scripted.seen() == (2, 1)


def test_traced_calls_are_their_own(calling: Any, scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submissions, "is_traced", lambda: True)
    caller = calling(scripted.address)
    for id in "abc":
        caller.schedule(id)
    assert scripted.seen() == (3, 0)


async def test_a_caller_that_is_cancelled_leaves_the_others(scripted: Any, held: threading.Event) -> None:
    async with AsyncClient(scripted.address, timeout=PATIENCE) as client:
        await client.schedule("p", id="a")
        scripted.run_next("SubmitTasks", held.wait)
        first, second = (asyncio.create_task(client.schedule("p", id=id)) for id in "bc")
        await asyncio.to_thread(scripted.until_asked, "SubmitTasks", 1)
        first.cancel()
        await asyncio.wait([first])
        assert first.cancelled()
        held.set()
        await second
        assert sorted(scripted.tasks) == ["a", "b", "c"]
