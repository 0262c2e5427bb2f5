"""When the supervisor gives a runner up."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from gowork.worker._core.plugins import Selection
from gowork.worker._runner import messages, pulse
from gowork.worker._runner.table import SlotTable
from gowork.worker._supervisor.event_log import EventLog
from gowork.worker._supervisor.process import DEAF_TICKS, PIPE_END_GRACE, STOP_GRACE, ProcessRunner, describe_exit
from gowork.worker._supervisor.runner import Runner
from gowork.worker._supervisor.watch import Watch


class Rig:
    """A runner whose process is only said to be there; times are the test's own."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.runner = ProcessRunner(
            "r",
            2,
            None,  # type: ignore[arg-type]
            setup=lambda slots, spare: messages.Setup("w", slots, spare, Selection(), ()),
            warden=None,
            blocked_timeout=600.0,
        )
        self.table = self.runner._table = SlotTable.private(2)
        self.pipe = SimpleNamespace(ended_at=None, write=self.sent.append)
        self.runner._process = SimpleNamespace(returncode=None, pid=0)  # type: ignore[assignment]
        self.runner._pipe = self.pipe  # type: ignore[assignment]
        self.runner.is_ready = True

    def ping_at(self, now: float) -> None:
        self.runner.check_pulse(now)
        assert self.sent

    def ailment_at(self, now: float) -> str:
        self.runner.check_pulse(now)
        return self.runner.ailment(now)


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.runner.close()
    rig.table.close()


def test_runner_that_answers_is_kept(rig: Rig) -> None:
    assert rig.ailment_at(1000.0) == ""


def test_runner_that_is_blocked_is_given_up_after_its_timeout_and_not_before(rig: Rig) -> None:
    rig.ping_at(1000.0)
    assert rig.ailment_at(1600.0) == ""
    assert "600 s" in rig.ailment_at(1600.5)


def test_blocked_runner_is_kept_while_a_task_with_a_time_limit_runs_there(rig: Rig) -> None:
    rig.ping_at(1000.0)
    clock = time.monotonic_ns()
    rig.table.start(0, 1, clock, clock + 3600 * 10**9)
    assert rig.ailment_at(2000.0) == ""
    rig.table.end(0)
    assert rig.ailment_at(2000.0) != ""


def test_time_limit_that_has_passed_keeps_no_blocked_runner(rig: Rig) -> None:
    rig.ping_at(1000.0)
    clock = time.monotonic_ns()
    rig.table.start(0, 1, clock - 2, clock - 1)
    assert rig.ailment_at(2000.0) != ""


def test_runner_whose_loop_ticks_and_does_not_hear_is_given_up_soon(rig: Rig) -> None:
    rig.ping_at(1000.0)
    for tick in range(DEAF_TICKS - 1):
        rig.table.tick(tick + 1)
        assert rig.ailment_at(1004.0 + tick) == ""
    # The same tick seen twice is one.
    assert rig.ailment_at(1004.0 + DEAF_TICKS) == ""
    rig.table.tick(1000)
    assert "did not hear" in rig.ailment_at(1005.0 + DEAF_TICKS)


def test_supervisor_that_was_stopped_itself_takes_no_runner_for_deaf(rig: Rig) -> None:
    rig.ping_at(1000.0)
    rig.table.tick(500)
    assert rig.ailment_at(1500.0) == ""


def test_runner_that_outlives_its_pipe_is_given_up(rig: Rig) -> None:
    rig.pipe.ended_at = 1000.0
    assert rig.ailment_at(1000.0 + PIPE_END_GRACE) == ""
    assert "pipe" in rig.ailment_at(1000.1 + PIPE_END_GRACE)


def test_runner_that_does_not_end_though_it_was_told_to_is_given_up(rig: Rig) -> None:
    rig.runner.was_stopped, rig.runner.stopped_at = True, 1000.0
    rig.runner.is_ready = False
    assert rig.ailment_at(1000.0 + STOP_GRACE) == ""
    assert "told to stop" in rig.ailment_at(1000.1 + STOP_GRACE)


def test_runner_that_has_ended_has_no_ailment(rig: Rig) -> None:
    rig.pipe.ended_at = 1.0
    rig.runner._process.returncode = 0  # type: ignore[union-attr, misc]
    assert rig.ailment_at(1000.0) == ""


def test_exit_of_a_runner_that_lost_descriptors_is_put_in_words() -> None:
    assert "descriptors" in describe_exit(messages.DESCRIPTORS_LOST_EXIT)


class AilingRunner(Runner):
    """One that can't be talked to."""

    def __init__(self) -> None:
        super().__init__("ailing", 1, None)  # type: ignore[arg-type]
        self.killed = 0

    def ailment(self, now: float) -> str:
        return "it is deaf"

    def running(self) -> list[Any]:
        return []

    def kill(self) -> bool:
        self.killed += 1
        return True


def test_runner_that_is_given_up_is_ended_once_and_nobody_says_that_it_was_on_purpose() -> None:
    runner = AilingRunner()
    solo = SimpleNamespace(retire=lambda now: None, pump=lambda now: None)
    watch = Watch(SimpleNamespace(every=lambda: [runner], solo=solo), lambda: None, EventLog())  # type: ignore[arg-type]
    watch.look(0.0, recall=False)
    watch.look(1.0, recall=False)
    assert (runner.killed, runner.fault, runner.ended_on_purpose) == (1, "it is deaf", False)


def test_descriptors_that_are_closed_or_replaced_are_found() -> None:
    from gowork.worker._runner.descriptors import OwnDescriptors, open_descriptors

    before = open_descriptors()
    reader, writer = os.pipe()
    assert open_descriptors() - before == {reader, writer}
    own = OwnDescriptors([reader, writer])
    assert own.intact()
    other = os.open(os.devnull, os.O_RDONLY)
    os.dup2(other, reader)
    os.close(other)
    assert not own.intact()
    own = OwnDescriptors([reader, writer])
    os.close(writer)
    assert not own.intact()
    os.close(reader)


async def test_runner_that_could_not_be_started_leaves_no_descriptor_open(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gowork.worker._runner.descriptors import open_descriptors

    async def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
    before = open_descriptors()
    with pytest.raises(OSError, match="open files"):
        await rig.runner.run()
    rig.runner.close()
    assert open_descriptors() == before


async def test_runner_looks_at_its_descriptors_as_often_as_it_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr(pulse, "leave", lambda: left.append(1))
    own = SimpleNamespace(intact=lambda: True)
    beating = pulse.Pulse(own)  # type: ignore[arg-type]
    assert left == []
    own.intact = lambda: False
    beating._tick()
    assert left == [1]
