"""A worker beside what a program does: in a thread, beside a loop, in a notebook. It takes nothing of the program's."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import types
from typing import Any

import pytest
from opentelemetry import trace
from prometheus_client import REGISTRY

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.worker import Worker, WorkerError, WorkerFailed, handler
from gowork.worker._app import background
from gowork.worker._core.calls import bind
from gowork.worker._core.handlers import options_of
from gowork.worker._core.redefinitions import Redefinitions
from gowork.worker._desk.watch import Watch

PATIENCE = 120.0


@handler
def double(number: int) -> int:
    return 2 * number


# What would block


async def test_run_where_a_loop_runs_says_what_to_use_instead() -> None:
    with pytest.raises(WorkerError, match=r"would block the event loop .*await worker\.serve\(\)"):
        Worker(handlers=[double]).run()


async def test_a_with_where_a_loop_runs_says_what_to_use_instead() -> None:
    with pytest.raises(WorkerError, match="would block the event loop .*`async with Worker"):
        with Worker(handlers=[double]):
            pass


def test_run_in_another_thread_says_what_to_use_instead() -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            Worker(handlers=[double]).run()
        except WorkerError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    (error,) = errors
    assert "only the main thread can: use `with Worker(…)`" in str(error)


# In a thread


@pytest.mark.parametrize("runners", [0, 1])
async def test_a_worker_in_a_thread_runs_until_it_is_stopped(leader: Any, runners: int) -> None:
    worker = Worker(leader.address, runners=runners, plugins=["echo"])
    assert worker.start() is worker
    session = await leader.session()
    session.grant(1, "echo", "heard")
    assert "heard" in (await session.report(1)).result
    assert not worker.join(0)
    with pytest.raises(WorkerError, match="runs already"):
        worker.start()
    worker.stop()
    assert await asyncio.to_thread(worker.join, PATIENCE)
    assert session.condition.leaving
    # Harmless, and another start is one.
    worker.stop()
    worker.start()
    await leader.session()
    worker.stop()
    assert await asyncio.to_thread(worker.join, PATIENCE)


async def test_a_with_drains_the_worker_at_its_end(leader: Any) -> None:
    def program() -> None:
        with Worker(leader.address, handlers=[double], runners=0):
            begun.wait(PATIENCE)

    begun = threading.Event()
    program_ended = asyncio.create_task(asyncio.to_thread(program))
    session = await leader.session()
    session.grant(1, "double", "21")
    assert (await session.report(1)).result == "42"
    begun.set()
    await program_ended
    assert session.condition.draining


async def test_who_joins_hears_what_has_ended_the_worker(leader: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Watch, *args: Any, **options: Any) -> None:
        raise RuntimeError("inside")

    monkeypatch.setattr(Watch, "look", fail)
    worker = Worker(leader.address, runners=0, plugins=["echo"]).start()
    with pytest.raises(WorkerFailed, match="inside"):
        await asyncio.to_thread(worker.join, PATIENCE)


def test_a_join_without_a_start_says_so() -> None:
    with pytest.raises(WorkerError, match=r"start\(\) the worker first"):
        Worker().join()


#: Ends while a task of its worker runs.
ENDING = """
import sys
from gowork.worker import Context, Worker, handler

@handler
def wait(ctx: Context) -> None:
    ctx.progress(0.5, "begun")
    ctx.cancelled.wait()

if __name__ == "__main__":
    Worker(sys.argv[1], handlers=[wait], runners=int(sys.argv[2]), slots=1).start()
    sys.stdin.readline()
"""


@pytest.mark.parametrize("runners", [0, 1])
async def test_a_program_that_ends_hands_its_tasks_back(leader: Any, tmp_path: Any, runners: int) -> None:
    path = tmp_path / "ending.py"
    path.write_text(ENDING)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        path,
        leader.address,
        str(runners),
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    session = await leader.session()
    session.grant(1, "wait")
    assert await session.started(1) == "begun"
    assert process.stdin is not None
    process.stdin.write(b"\n")
    assert process.stderr is not None
    report = await session.report(1)
    assert report.outcome == tasks.ATTEMPT_OUTCOME_INTERRUPTED
    async with asyncio.timeout(PATIENCE):
        assert b"the worker ended" not in await process.stderr.read()
        assert await process.wait() == 0
    assert session.condition.leaving


#: Starts its worker on its top level.
UNGUARDED = """
import os, sys
from gowork.worker import Worker, handler

@handler
def double(number: int) -> int:
    return 2 * number

with Worker(os.environ["TEST_LEADER"], handlers=[double], runners=1, slots=1):
    sys.stdin.readline()
"""


@pytest.mark.parametrize("name", ["script.py", "__main__.py"], ids=["a script", "a folder"])
async def test_a_script_may_start_its_worker_on_its_top_level(leader: Any, tmp_path: Any, name: str) -> None:
    (tmp_path / name).write_text(UNGUARDED)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        tmp_path if name == "__main__.py" else tmp_path / name,
        stdin=asyncio.subprocess.PIPE,
        env={**os.environ, "TEST_LEADER": leader.address},
    )
    session = await leader.session()
    session.grant(1, "double", "21")
    report = await session.report(1)
    assert (report.outcome, report.result) == (tasks.ATTEMPT_OUTCOME_COMPLETED, "42")
    await process.communicate(b"\n")
    assert process.returncode == 0


async def test_a_child_that_is_forked_has_no_worker_to_hand_back(leader: Any) -> None:
    worker = Worker(leader.address, runners=0, plugins=["echo"]).start()
    await leader.session()
    (running,) = background._running
    running._process = os.getpid() + 1  # As the child sees it.
    assert not running.is_running
    background._hand_all_back()
    running._process = os.getpid()
    assert running.is_running
    worker.stop()
    assert await asyncio.to_thread(worker.join, PATIENCE)


# What is the program's


def surroundings() -> dict[str, Any]:
    """What a process has once, and a library must leave alone."""
    return {
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "wakeup": signal.set_wakeup_fd(-1),
        "handlers": list(logging.getLogger().handlers),
        "level": logging.getLogger().level,
        "logger class": logging.getLoggerClass(),
        "factory": logging.getLogRecordFactory(),
        "own handlers": list(logging.getLogger("gowork").handlers),
        "collectors": list(REGISTRY._collector_to_names),
        "tracer": type(trace.get_tracer_provider()),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "hooks": (sys.excepthook, threading.excepthook, sys.unraisablehook),
        "policy": asyncio.get_event_loop_policy(),
        "folder": os.getcwd(),
        "path": list(sys.path),
        "variables": dict(os.environ),
    }


@pytest.mark.parametrize("runners", [0, 1])
async def test_a_worker_takes_nothing_that_a_process_has_once(leader: Any, runners: int) -> None:
    # Has asyncio watch for the ends of children, as any program that starts them does.
    await (await asyncio.create_subprocess_exec("true")).wait()
    before = surroundings()
    async with Worker(leader.address, runners=runners, plugins=["echo"]):
        session = await leader.session()
        session.grant(1, "echo", "heard")
        await session.report(1)
        assert surroundings() == before
    worker = Worker(leader.address, runners=runners, plugins=["echo"]).start()
    session = await leader.session()
    assert surroundings() == before
    worker.stop()
    await asyncio.to_thread(worker.join, PATIENCE)
    assert surroundings() == before


# In a notebook

CELL = """
from gowork.worker import Context, handler

@handler
def count(number: int) -> int:
    return number + 1
"""


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The `__main__` of a notebook, whose cells are run with `exec`."""
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    exec(CELL, vars(main))
    return main


async def test_an_edited_cell_replaces_its_handler(leader: Any, notebook: types.ModuleType) -> None:
    async with Worker(leader.address, handlers=[notebook.count], runners=0, default_handler="count"):
        session = await leader.session()
        session.grant(1, "count", "1")
        assert (await session.report(1)).result == "2"
        exec(CELL.replace("number + 1", "number + 10"), vars(notebook))
        session.grant(2, "count", "1")
        assert (await session.report(2)).result == "11"
        # A task that names no handler, and a handler that becomes another kind.
        exec(CELL.replace("def count", "async def count").replace("number + 1", "number + 20"), vars(notebook))
        session.grant(3, "", "1")
        assert (await session.report(3)).result == "21"


def test_a_definition_that_can_be_no_handler_leaves_the_one_before(
    notebook: types.ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    options = options_of(notebook.count)
    assert options is not None
    first = bind(notebook.count, options, "(code)")
    redefinitions = Redefinitions()
    assert redefinitions.newest(first) is first
    exec(CELL.replace("number: int", "a, b, c"), vars(notebook))
    assert redefinitions.newest(first) is first
    assert redefinitions.newest(first) is first
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    exec(CELL.replace("@handler", "@handler('other')"), vars(notebook))
    assert redefinitions.newest(first) is first
    vars(notebook)["count"] = None
    assert redefinitions.newest(first) is first
    vars(notebook).pop("count")
    assert redefinitions.newest(first) is first
    exec(CELL, vars(notebook))
    assert redefinitions.newest(first).function is notebook.count


def test_a_script_keeps_the_handlers_that_it_has_given(notebook: types.ModuleType) -> None:
    options = options_of(notebook.count)
    assert options is not None
    first = bind(notebook.count, options, "(code)")
    exec(CELL, vars(notebook))
    notebook.__file__ = "script.py"
    assert Redefinitions().newest(first) is first
