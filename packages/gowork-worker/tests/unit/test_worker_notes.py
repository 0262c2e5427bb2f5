"""What the supervisor writes to the log."""

from __future__ import annotations

import logging

import pytest

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._desk.instructions import Level, Note, NoteLoss, NoteTimedOut
from gowork.worker._desk.runner import RunnerId
from gowork.worker._runner import endings
from gowork.worker._runner.failure_log import HANDLER_LINES_MAX, Detail, FailureLog
from gowork.worker._runner.messages import Ready
from gowork.worker._supervisor.event_log import EVENT_LINES_MAX, EventLog
from gowork.worker._supervisor.measures import Measures
from gowork.worker._supervisor.notes import Notes

LOST = "task lost with its runner"
RUNNER = RunnerId(1)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def notes(clock: Clock) -> Notes:
    notes = Notes(Measures(), "type", lambda runner: {"runner": "fake", "runner_pid": None})
    notes._events = EventLog(clock)
    notes._failures = FailureLog(Detail.TYPE, clock)
    return notes


def granted(fence: int) -> session.Grant:
    task = tasks.Task(id=f"t{fence}", handler="slow").SerializeToString()
    return session.Grant(fence=fence, id=f"t{fence}", task=task)


def test_a_runner_that_takes_many_tasks_along_leaves_few_lines_and_their_number(
    notes: Notes, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for fences in (range(1, 1001), range(1001, 1003)):
        for fence in fences:
            notes.take(NoteLoss(RUNNER, granted(fence), endings.lost(fence, f"t{fence}", "it crashed")))
        clock.now += 1.5
    lines = [record for record in caplog.records if record.message == LOST]
    assert len(lines) == EVENT_LINES_MAX + 2
    assert [getattr(line, "suppressed", 0) for line in lines[-2:]] == [1000 - EVENT_LINES_MAX, 0]
    assert [line.__dict__["task_id"] for line in (lines[0], lines[-1])] == ["t1", "t1002"]
    assert {line.__dict__["runner"] for line in lines} == {"fake"}


@pytest.mark.parametrize(("is_set_up", "event"), [(True, "plugin error"), (False, "plugin error: it is broken")])
def test_a_program_that_has_set_up_no_logging_reads_what_is_wrong_with_a_plugin(
    notes: Notes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, is_set_up: bool, event: str
) -> None:
    monkeypatch.setattr(logging.getLogger("gowork.worker"), "hasHandlers", lambda: is_set_up)
    notes.learn(Ready((), "", ("it is broken",)))
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert (record.message, record.__dict__["plugin_error"]) == (event, "it is broken")


def test_what_the_supervisor_left_out_of_the_log_is_told(
    notes: Notes, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(EVENT_LINES_MAX + 3):
        notes.take(Note(Level.WARNING, "time limit ran out", {"grace_ms": 1}, None, granted(1)))
        notes.take(NoteTimedOut(granted(1), endings.timed_out(1, "t1", 5)))
    del caplog.records[:]
    for clock.now in (0.5, 1.5, 2.5):
        notes.look_after()
    assert [(record.message, record.__dict__["suppressed"]) for record in caplog.records] == [
        ("lines were left out", 3),
        ("failed attempts were not logged one by one", EVENT_LINES_MAX + 3 - HANDLER_LINES_MAX),
    ]
