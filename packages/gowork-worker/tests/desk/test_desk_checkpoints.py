"""A worker keeps the latest checkpoint of each task that it holds, and tells each session of it."""

from __future__ import annotations

import pytest
from desk_fleet import by_column, completed
from desk_stage import Stage

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._desk import checkpoints
from gowork.worker._desk.events import Progressed, Reported, SessionStarted
from gowork.worker._desk.instructions import Note


@pytest.fixture
def stage() -> Stage:
    return Stage()


def tell(stage: Stage, fence: int, state: bytes) -> None:
    word = session.ProgressReport(fence=fence, id=f"task-{fence}", checkpoint=state, is_checkpoint_alone=True)
    stage.tell(Progressed([word]))


def start_session(stage: Stage, *, keeps: bool = True) -> None:
    stage.tell(SessionStarted(session.ConnectResponse(welcome=session.Welcome(keeps_checkpoints=keeps))))


def told(stage: Stage) -> dict[int, bytes]:
    frame = stage.desk.next_frame(1 << 20, stage.now)
    return {} if frame is None else {word.fence: word.checkpoint for word in frame.progress}


def test_the_latest_checkpoint_is_told_once_in_each_session(stage: Stage) -> None:
    start_session(stage)
    stage.ready()
    stage.grant(1, 2)
    for state in (b"one", b"two"):
        tell(stage, 1, state)
    assert told(stage) == {1: b"two"}
    assert told(stage) == {}
    start_session(stage)
    assert told(stage) == {1: b"two"}
    tell(stage, 3, b"of a task that is not held")
    assert told(stage) == {}


def test_it_goes_with_the_report_of_an_attempt_that_another_may_follow(stage: Stage) -> None:
    state = b"b" * 1_000
    start_session(stage)
    runner = stage.ready()
    stage.grant(1, 2, 3)
    for fence in (1, 2, 3):
        tell(stage, fence, state)
    runner.runs = {1, 2, 3}
    stage.tell(Reported(runner.id, [completed(1, "t1")], 10))
    stage.end(runner)
    frame = stage.take()
    assert {report.fence: report.checkpoint for report in frame.reports} == {1: b"", 2: state, 3: state}
    assert not stage.desk.frame.checkpoints.latest
    assert stage.desk.frame.unacknowledged.bytes > 2_000, "they count as part of their reports"


def test_nothing_is_told_of_a_task_that_was_released(stage: Stage) -> None:
    start_session(stage)
    stage.ready()
    stage.grant(1)
    tell(stage, 1, b"one")
    stage.receive(released=[1])
    tell(stage, 1, b"two")
    assert told(stage) == {}
    assert not stage.desk.frame.checkpoints.latest


def test_a_leader_that_is_too_old_is_told_nothing_and_the_log_says_so_once(stage: Stage) -> None:
    start_session(stage, keeps=False)
    stage.ready()
    stage.grant(1)
    for state in (b"one", b"two"):
        tell(stage, 1, state)
    assert told(stage) == {}
    assert [note.fields["reason"] for note in stage.notes(Note)] == [
        "its leader is too old to keep them, or calls this worker"
    ]
    start_session(stage)
    assert told(stage) == {1: b"two"}


def test_what_a_worker_keeps_is_bounded(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "CHECKPOINTS_BYTES_MAX", 10)
    start_session(stage)
    stage.ready()
    stage.grant(1, 2)
    tell(stage, 1, b"123456")
    tell(stage, 2, b"123456")
    assert told(stage) == {1: b"123456"}
    assert [note.fields["reason"] for note in stage.notes(Note)] == ["there is no room for more in this worker"]
    tell(stage, 1, b"1234")
    tell(stage, 2, b"123456")
    assert told(stage) == {1: b"1234", 2: b"123456"}


def test_a_frame_takes_some_of_many_and_the_next_one_the_rest(stage: Stage) -> None:
    start_session(stage)
    stage.ready(32)
    stage.grant(*range(1, 21))
    for fence in range(1, 21):
        tell(stage, fence, b"b" * 65_536)
    first, second = told(stage), told(stage)
    assert (len(first), len(second)) == (16, 4)
    assert first.keys().isdisjoint(second)


def test_completions_by_columns_end_it_too(stage: Stage) -> None:
    start_session(stage)
    runner = stage.ready()
    stage.grant(1)
    tell(stage, 1, b"one")
    stage.tell(Reported(runner.id, [], 10, [by_column([completed(1, "t1")])]))
    assert stage.take().reports[0].outcome == tasks.ATTEMPT_OUTCOME_COMPLETED
    assert not stage.desk.frame.checkpoints.latest
