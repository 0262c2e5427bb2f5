"""When the desk gives a runner up."""

from __future__ import annotations

import pytest
from desk_stage import Stage

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.worker._desk.events import PipeEnded, RunnerGone
from gowork.worker._desk.pulse import DEAF_TICKS, PIPE_END_GRACE, STOP_GRACE, Pulse
from gowork.worker._runner.messages import Running

#: Now, on the clock of the rows.
CLOCK = 10**9


class Beat:
    """A pulse, and what is seen of its runner."""

    def __init__(self) -> None:
        self.pulse = Pulse(answers=True)
        self.ticks = 0
        self.rows: list[Running] = []
        self.stopped_at: float | None = None

    def tick(self, ticks: int) -> None:
        self.ticks = ticks

    def ping_at(self, now: float) -> None:
        assert self.pulse.check(now)

    def ailment_at(self, now: float) -> str:
        self.pulse.check(now)
        if self.pulse.is_blocked:
            self.pulse.see_ticks(self.ticks)
        return self.pulse.ailment(now, self.stopped_at, 600.0, self.rows, CLOCK)


@pytest.fixture
def beat() -> Beat:
    return Beat()


def test_runner_that_answers_is_kept(beat: Beat) -> None:
    assert beat.ailment_at(1000.0) == ""


def test_runner_that_is_blocked_is_given_up_after_its_timeout_and_not_before(beat: Beat) -> None:
    beat.ping_at(1000.0)
    assert beat.ailment_at(1600.0) == ""
    assert "600 s" in beat.ailment_at(1600.5)


def test_blocked_runner_is_kept_while_a_task_with_a_time_limit_runs_there(beat: Beat) -> None:
    beat.ping_at(1000.0)
    beat.rows = [Running(1, CLOCK, CLOCK + 3600 * 10**9)]
    assert beat.ailment_at(2000.0) == ""
    beat.rows = []
    assert beat.ailment_at(2000.0) != ""


def test_time_limit_that_has_passed_keeps_no_blocked_runner(beat: Beat) -> None:
    beat.ping_at(1000.0)
    beat.rows = [Running(1, CLOCK - 2, CLOCK - 1)]
    assert beat.ailment_at(2000.0) != ""


def test_runner_whose_loop_ticks_and_does_not_hear_is_given_up_soon(beat: Beat) -> None:
    beat.ping_at(1000.0)
    for tick in range(DEAF_TICKS - 1):
        beat.tick(tick + 1)
        assert beat.ailment_at(1004.0 + tick) == ""
    # The same tick seen twice is one.
    assert beat.ailment_at(1004.0 + DEAF_TICKS) == ""
    beat.tick(1000)
    assert "did not hear" in beat.ailment_at(1005.0 + DEAF_TICKS)


def test_ticks_before_an_answer_do_not_make_a_runner_deaf(beat: Beat) -> None:
    beat.ping_at(1000.0)
    for tick in range(1, DEAF_TICKS):
        beat.tick(tick)
        assert beat.ailment_at(1004.0) == ""
    assert beat.pulse.answered(1005.0) == 5.0
    beat.ping_at(1006.0)
    beat.tick(DEAF_TICKS)
    assert beat.ailment_at(1010.0) == ""


def test_supervisor_that_was_stopped_itself_takes_no_runner_for_deaf(beat: Beat) -> None:
    beat.ping_at(1000.0)
    beat.tick(500)
    assert beat.ailment_at(1500.0) == ""


def test_runner_that_outlives_its_pipe_is_given_up(beat: Beat) -> None:
    beat.pulse.pipe_ended(1000.0)
    assert beat.ailment_at(1000.0 + PIPE_END_GRACE) == ""
    assert "pipe" in beat.ailment_at(1000.1 + PIPE_END_GRACE)


def test_runner_that_does_not_end_though_it_was_told_to_is_given_up(beat: Beat) -> None:
    beat.stopped_at = 1000.0
    assert beat.ailment_at(1000.0 + STOP_GRACE) == ""
    assert "told to stop" in beat.ailment_at(1000.1 + STOP_GRACE)


def test_runner_that_has_ended_has_no_ailment() -> None:
    stage = Stage()
    runner = stage.ready()
    stage.tell(PipeEnded(runner.id))
    stage.tell(RunnerGone(runner.id))
    stage.now = 1000.0
    stage.look()
    assert runner.ended == []


def test_runner_that_is_given_up_is_ended_once_and_its_tasks_are_lost() -> None:
    stage = Stage()
    runner = stage.ready()
    stage.grant(1)
    runner.runs = {1}
    stage.tell(PipeEnded(runner.id))
    for stage.now in (5.0, 6.0):
        stage.look()
    assert runner.ended == ["the runner closed its pipe and went on"]
    stage.end(runner, runner.ended[0])
    assert stage.reported() == {1: tasks.ATTEMPT_OUTCOME_LOST}
