"""Runners that can't be talked to any more, and children that handlers fork."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.worker._desk import pulse


@pytest.mark.parametrize("handler", ["close_descriptors", "close_descriptors_async"])
async def test_runner_whose_descriptors_a_handler_closed_is_ended_and_its_tasks_are_lost(
    leader: Any, start_worker: Any, handler: str
) -> None:
    await start_worker(slots=1, runners=1)
    scripted = await leader.session()
    scripted.grant(1, handler, "3")
    report = await scripted.report(1)
    assert report.outcome == tasks.ATTEMPT_OUTCOME_LOST
    assert report.reason == "a handler closed descriptors that are the runner's own"
    scripted.grant(2, "add", "[2]")
    assert (await scripted.report(2)).result == "2"


async def test_runner_without_its_pipe_is_ended_also_while_a_warden_holds_that_open(
    leader: Any, start_worker: Any
) -> None:
    await start_worker(slots=1, runners=1)
    scripted = await leader.session()
    scripted.grant(1, "close_pipe_with_child")
    assert (await scripted.report(1)).outcome == tasks.ATTEMPT_OUTCOME_LOST


@pytest.mark.parametrize("handler", ["scribble", "scribble_columns"])
async def test_runner_that_sends_what_is_no_frame_is_ended_and_its_tasks_are_lost(
    leader: Any, start_worker: Any, handler: str
) -> None:
    await start_worker(slots=1, runners=1)
    scripted = await leader.session()
    scripted.grant(1, handler)
    report = await scripted.report(1)
    assert report.outcome == tasks.ATTEMPT_OUTCOME_LOST
    assert "cannot be read" in report.reason


async def test_runner_that_is_blocked_for_too_long_is_ended_and_its_tasks_are_lost(
    leader: Any, start_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulse, "BLOCKED_AFTER", 0.1)
    service = await start_worker(slots=1, runners=1)
    scripted = await leader.session()
    service.supervisor.desk._watch._blocked_timeout = 0.2
    scripted.grant(1, "hog", "1000")
    report = await scripted.report(1)
    assert report.outcome == tasks.ATTEMPT_OUTCOME_LOST
    assert "--blocked-timeout" in report.reason
    scripted.grant(2, "add", "[2]")
    assert (await scripted.report(2)).result == "2"


@pytest.mark.parametrize("handler", ["fork_and_return", "fork_and_return_async"])
async def test_forked_child_that_returns_is_ended_and_its_parent_answers(
    leader: Any, start_worker: Any, process_exists: Any, eventually: Any, handler: str
) -> None:
    await start_worker(slots=2, runners=1)
    scripted = await leader.session()
    scripted.grant(1, handler)
    word, child = json.loads((await scripted.report(1)).result).split(" of ")
    assert word == "parent"
    await eventually(lambda: not process_exists(int(child)))
    for fence in range(2, 22):
        scripted.grant(fence, "add_async" if fence % 2 else "add", "[1]")
    for fence in range(2, 22):
        assert (await scripted.report(fence)).outcome == tasks.ATTEMPT_OUTCOME_COMPLETED
    assert sum(report.fence == 1 for frame in scripted.frames for report in frame.reports) == 1


async def test_forked_child_that_raises_ends_with_an_error(leader: Any, start_worker: Any) -> None:
    await start_worker(slots=1, runners=1)
    scripted = await leader.session()
    scripted.grant(1, "fork_and_raise")
    assert (await scripted.report(1)).result == "1"


async def test_forked_child_that_waits_for_the_loop_is_ended_and_runs_nobody_elses_steps(
    leader: Any, start_worker: Any, tmp_path: Path
) -> None:
    await start_worker(slots=4, runners=1)
    scripted = await leader.session()
    notes = tmp_path / "notes"
    scripted.grant(1, "fork_and_wait", str(notes))
    pid = await scripted.started(1)
    scripted.grant(2, "who", str(notes))
    assert json.loads((await scripted.report(1)).result) == "70"
    scripted.send(cancelled=[2])
    await scripted.report(2)
    assert set(notes.read_text().split()) == {pid}


async def test_multiprocessing_works_with_fork_and_its_children_can_be_terminated(
    leader: Any, start_worker: Any
) -> None:
    await start_worker(slots=1, runners=1)
    scripted = await leader.session()
    scripted.grant(1, "multiprocessing_fork")
    assert json.loads((await scripted.report(1)).result) == [1, 2, -signal.SIGTERM]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it looks into /proc")
async def test_forked_child_holds_neither_pipe_nor_lock_of_its_runner(
    leader: Any, start_worker: Any, tmp_path: Path
) -> None:
    await start_worker(slots=1, runners=1, state_dir=tmp_path)
    scripted = await leader.session()
    scripted.grant(1, "lock_left_behind")
    assert json.loads((await scripted.report(1)).result).split() == [os.devnull, os.devnull]
