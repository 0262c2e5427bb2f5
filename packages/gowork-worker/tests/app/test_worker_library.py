"""A worker within a program: its loop, and what the program hears when the worker ends."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import uvloop

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker import Worker, WorkerFailed
from gowork.worker._core.plugins import Selection
from gowork.worker._runner import messages
from gowork.worker._supervisor.held import Held
from gowork.worker._supervisor.process import ProcessRunner
from gowork.worker._supervisor.watch import Watch


class NotingOwner:
    """Whoever holds a runner, and notes what it says."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.reports: asyncio.Queue[session.Report] = asyncio.Queue()

    def runner_ready(self, runner: Any, ready: messages.Ready) -> None:
        self.ready.set()

    def runner_reported(self, runner: Any, reports: list[session.Report], size: int) -> None:
        for report in reports:
            self.reports.put_nowait(report)

    def runner_progressed(self, progress: Any) -> None: ...

    def runner_said(self, runner: Any, message: messages.FromRunner) -> None: ...

    def runner_answered(self, runner: Any, lag: float) -> None: ...


def test_runner_process_works_on_a_loop_of_another_make() -> None:
    async def run() -> str:
        owner = NotingOwner()
        runner = ProcessRunner(
            "runner",
            1,
            owner,
            setup=lambda slots, spare: messages.Setup("w", slots, spare, Selection(plugins=("echo",)), ()),
            warden=None,
        )
        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            group.create_task(runner.run())
            await owner.ready.wait()
            task = tasks.Task(id="1", handler="echo", payload="heard").SerializeToString()
            runner.start_tasks([Held(session.Grant(fence=1, id="1", task=task))], 0.0)
            report = await owner.reports.get()
            runner.send(messages.Stop())
        runner.close()
        return report.result

    assert json.loads(uvloop.run(run()))["payload"] == "heard"


def fail(self: Watch, now: float, *, recall: bool) -> None:
    raise RuntimeError("inside")


async def test_what_ends_a_worker_is_raised_out_of_the_async_with(leader: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def program() -> None:
        async with Worker(leader.address, runners=0, plugins=["echo"]) as worker:
            await worker.welcomed()
            monkeypatch.setattr(Watch, "look", fail)
            await asyncio.Event().wait()

    with pytest.raises(WorkerFailed, match="inside"):
        await program()


async def test_what_ends_a_worker_is_raised_out_of_serve(leader: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watch, "look", fail)
    with pytest.raises(WorkerFailed, match="inside"):
        await Worker(leader.address, runners=0, plugins=["echo"]).serve()


async def test_error_of_the_program_comes_out_of_the_async_with_as_it_is(leader: Any) -> None:
    with pytest.raises(KeyError, match="own"):
        async with Worker(leader.address, runners=0, plugins=["echo"]):
            raise KeyError("own")
