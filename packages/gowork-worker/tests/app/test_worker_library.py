"""A worker within a program: its loop, and what the program hears when the worker ends."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
import uvloop

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker import Worker, WorkerFailed
from gowork.worker._core.selection import Selection
from gowork.worker._desk.events import Event, Looked, Reported, RunnerReady
from gowork.worker._desk.instructions import StartRunner
from gowork.worker._desk.runner import RunnerId
from gowork.worker._desk.watch import Watch
from gowork.worker._fleet.process import ProcessRunner
from gowork.worker._runner import messages


def test_runner_process_works_on_a_loop_of_another_make() -> None:
    async def run() -> str:
        ready = asyncio.Event()
        reports: asyncio.Queue[session.Report] = asyncio.Queue()

        def note(event: Event) -> None:
            match event:
                case RunnerReady():
                    ready.set()
                case Reported():
                    for report in event.reports:
                        reports.put_nowait(report)
                case _:
                    pass

        setup = messages.Setup("w", 1, 0, Selection(plugins=("echo",)), ())
        start = StartRunner(RunnerId(1), "runner", 1, 0)
        runner = ProcessRunner(start, setup, note, lambda executed: None, warden=None)
        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            group.create_task(runner.run())
            await ready.wait()
            task = tasks.Task(id="1", handler="echo", payload="heard").SerializeToString()
            runner.start_tasks([session.Grant(fence=1, id="1", task=task)])
            report = await reports.get()
            runner.send(messages.Stop())
        runner.close()
        return report.result

    assert json.loads(uvloop.run(run()))["payload"] == "heard"


def fail(self: Watch, now: float, looked: Looked, *, recall: bool) -> None:
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


def test_keys_are_read_from_the_folder_in_which_the_worker_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = os.getcwd()
    assert Worker(keys="keys")._options["encryption"].keys == os.path.join(here, "keys")
    # What another codec needs may be no path.
    assert Worker(keys="keys", codec="other")._options["encryption"].keys == "keys"
