"""What real worker processes write to standard error."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gowork.proto.scheduler.v1.scheduler_pb2 import RetryPolicy

MODULES = Path(__file__).parent.parent / "modules"


class Logged:
    """A worker's process, and what it has written once it has been stopped."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def stop(self) -> list[str]:
        self._process.terminate()
        _, errors = await self._process.communicate()
        assert self._process.returncode == 0
        return errors.decode().splitlines()

    async def entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in await self.stop()]


Start = Callable[..., Awaitable[Logged]]


@pytest.fixture
async def start(leader: Any) -> AsyncIterator[Start]:
    processes: list[asyncio.subprocess.Process] = []

    async def start(*options: str) -> Logged:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gowork.worker", "--leader", leader.address, "--name", "w"),
            *("--plugin", "echo", "--import", "worker_sample", "--runners", "1", "--slots", "2", *options),
            cwd=MODULES,
            stderr=asyncio.subprocess.PIPE,
        )
        processes.append(process)
        return Logged(process)

    yield start
    for process in processes:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.mark.parametrize("handler", ["log_in_thread", "log_on_loop", "log_alone"])
@pytest.mark.parametrize("runners", ["1", "0"])
async def test_what_a_handler_logs_names_its_attempt(leader: Any, start: Start, handler: str, runners: str) -> None:
    worker = await start("--log-format", "json", "--runners", runners)
    scripted = await leader.session()
    for fence in (7, 8):
        scripted.grant(fence, handler, queue="mail")
        await scripted.report(fence)
    scripted.grant(9, "noop")
    await scripted.report(9)
    entries = [entry for entry in await worker.entries() if entry["event"] == "asked"]
    assert {entry["fence"] for entry in entries} == {7, 8}
    for entry in entries:
        del entry["time"]
        assert entry == {
            "level": "info",
            "logger": "some.library",
            "event": "asked",
            "worker": "w",
            "task_id": f"task-{entry['fence']}",
            "attempt": 1,
            "fence": entry["fence"],
            "handler": handler,
            "queue": "mail",
            "raw": "\\xff",
            "extra_task_id": "theirs",
        }


async def test_text_has_the_same_fields(leader: Any, start: Start) -> None:
    worker = await start()
    scripted = await leader.session()
    scripted.grant(7, "log_in_thread")
    await scripted.report(7)
    (line,) = [line for line in await worker.stop() if "asked" in line]
    fields = "worker=w task_id=task-7 attempt=1 fence=7 handler=log_in_thread queue=default"
    assert line.split("Z ", 1)[1].startswith(f"info    asked {fields} raw=")


@pytest.mark.parametrize("runners", ["1", "0"])
async def test_failed_attempts_are_logged_as_it_is_asked_for(leader: Any, start: Start, runners: str) -> None:
    worker = await start("--log-format", "json", "--runners", runners, "--log-failures", "type")
    scripted = await leader.session()
    scripted.grant(7, "fail_for_good", retry=RetryPolicy(max_attempts=3, initial_delay_ms=2000))
    await scripted.report(7)
    (entry,) = [entry for entry in await worker.entries() if entry["event"] == "attempt failed"]
    assert (entry["task_id"], entry["handler"], entry["fence"]) == ("task-7", "fail_for_good", 7)
    assert entry["next"] == "failed for good"
    assert " " not in entry["error"]
    assert "exception" not in entry


async def test_attempt_that_is_ended_with_its_runner_leaves_its_line_too(leader: Any, start: Start) -> None:
    worker = await start("--log-format", "json")
    scripted = await leader.session()
    scripted.grant(7, "stubborn_past_its_limit", retry=RetryPolicy(max_attempts=3, initial_delay_ms=2000))
    await scripted.report(7)
    (entry,) = [entry for entry in await worker.entries() if entry["event"] == "attempt failed"]
    assert (entry["handler"], entry["outcome"]) == ("stubborn_past_its_limit", "timed_out")
    assert entry["next"] == "retry in 2 s, attempt 2 of 3"


async def test_every_line_of_a_worker_names_it(leader: Any, start: Start) -> None:
    worker = await start("--log-format", "json")
    scripted = await leader.session()
    scripted.grant(1, "noop")
    await scripted.report(1)
    entries = await worker.entries()
    assert {"session open", "draining"} <= {entry["event"] for entry in entries}
    assert {entry["worker"] for entry in entries} == {"w"}


async def test_a_task_that_is_lost_or_past_its_limit_is_named(leader: Any, start: Start) -> None:
    worker = await start("--log-format", "json")
    scripted = await leader.session()
    scripted.grant(1, "stubborn")
    os.kill(int(await scripted.started(1)), signal.SIGKILL)
    await scripted.report(1)
    scripted.grant(2, "stubborn_past_its_limit")
    await scripted.report(2)
    entries = await worker.entries()
    told = {
        event: [(entry["task_id"], entry["attempt"], entry["fence"]) for entry in entries if entry["event"] == event]
        for event in ("task lost with its runner", "time limit ran out", "runner ended for a task that did not stop")
    }
    first, second = [("task-1", 1, 1)], [("task-2", 1, 2)]
    assert list(told.values()) == [first, second, second]


_SCRIPT = """
import logging
{setup}
from gowork.worker import Worker, handler

@handler
def ask() -> None:
    logging.getLogger("some.library").info("asked")

Worker({leader!r}, handlers=[ask], name="w", slots=1, runners=1, plugins=["echo"]).run()
"""


async def log_of_script(leader: Any, tmp_path: Path, setup: str = "") -> list[str]:
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT.format(leader=leader.address, setup=setup))
    process = await asyncio.create_subprocess_exec(sys.executable, str(script), stderr=asyncio.subprocess.PIPE)
    scripted = await leader.session()
    scripted.grant(7, "ask")
    await scripted.report(7)
    process.terminate()
    _, errors = await process.communicate()
    assert process.returncode == 0
    return errors.decode().splitlines()


async def test_a_script_that_sets_up_no_logging_has_the_workers(leader: Any, tmp_path: Path) -> None:
    (line,) = [line for line in await log_of_script(leader, tmp_path) if "asked" in line]
    assert line.endswith("info    asked worker=w task_id=task-7 attempt=1 fence=7 handler=ask queue=default")


async def test_a_script_that_sets_up_logging_keeps_it(leader: Any, tmp_path: Path) -> None:
    setup = 'logging.basicConfig(format="theirs: %(message)s", level="INFO")'
    lines = await log_of_script(leader, tmp_path, setup)
    assert {"theirs: asked", "theirs: draining"} <= set(lines)
    assert all(line.startswith("theirs: ") for line in lines)


async def test_a_worker_whose_standard_error_is_full_works_and_stops(leader: Any) -> None:
    reader, end = os.pipe()
    os.set_blocking(end, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(end, b"x" * 4096)
    os.set_blocking(end, True)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gowork.worker", "--leader", leader.address, "--name", "w"),
        *("--plugin", "echo", "--runners", "1", "--slots", "2", "--log-level", "debug"),
        stderr=end,
    )
    try:
        scripted = await leader.session()
        scripted.grant(7, "echo")
        await scripted.report(7)
        process.terminate()
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(reader)
        os.close(end)


async def test_what_handlers_print_comes_whole_also_when_it_is_their_last(leader: Any, start: Start) -> None:
    worker = await start()
    scripted = await leader.session()
    scripted.grant(1, "last_words")
    await scripted.report(1)
    lines = await worker.stop()
    spoken = [line for line in lines if line in {"printed", "said", "written", "echoed", "without an end"}]
    assert spoken == ["printed", "said", "written", "echoed", "without an end"]
    (ended,) = [number for number, line in enumerate(lines) if "runner ended" in line]
    assert ended > lines.index("without an end")


async def test_handlers_print_though_nobody_reads_and_what_is_dropped_is_counted(leader: Any) -> None:
    reader, end = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gowork.worker", "--leader", leader.address, "--name", "w", "--runners", "1"),
        *("--plugin", "echo", "--import", "worker_sample", "--slots", "1", "--log-format", "json"),
        cwd=MODULES,
        stderr=end,
    )
    os.close(end)
    try:
        scripted = await leader.session()
        scripted.grant(1, "shout", "20000")
        assert (await scripted.report(1)).result == "20000"
        process.terminate()
        with os.fdopen(reader, "rb") as file:
            lines = await asyncio.to_thread(file.readlines)
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    entries = [json.loads(line) for line in lines if line.startswith(b"{")]
    dropped = sum(entry["lines"] for entry in entries if entry["event"] == "log lines were dropped")
    printed = [line for line in lines if line[:6].isdigit()]
    assert all(len(line) == 1024 for line in printed)
    assert 0 < len(printed) < 20000
    # The worker's own lines found no room either.
    assert dropped >= 20000 - len(printed)


async def test_import_that_blocks_is_named_with_its_line(leader: Any, start: Start, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # It waits until somebody writes, as for a database that does not answer.
    (tmp_path / "worker_waits_deep.py").write_text(f"\nopen({str(pipe)!r}).read()\n")
    (tmp_path / "worker_waits.py").write_text("import worker_waits_deep\n")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gowork.worker", "--leader", leader.address, "--import", "worker_waits"),
        *("--plugin", "echo", "--runners", "1", "--slots", "1", "--log-format", "json"),
        cwd=tmp_path,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(120):
            while (entry := json.loads(await process.stderr.readline()))["event"] != "not ready yet":
                assert entry["event"] in {"starting"}
        assert entry["doing"] == "importing handlers"
        assert entry["importing"] == "worker_waits_deep"
        assert entry["at"] == f"{tmp_path / 'worker_waits_deep.py'}:2"
        process.send_signal(signal.SIGINT)
        _, rest = await process.communicate()
        assert process.returncode == 0
        assert b"Traceback" not in rest
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_worker_names_the_handlers_that_it_has_loaded(leader: Any, start: Start) -> None:
    worker = await start("--log-format", "json")
    await leader.session()
    (entry,) = [entry for entry in await worker.entries() if entry["event"] == "handlers loaded"]
    names = entry["names"].split(", ")
    assert {"echo", "add", "noop"} <= set(names)
    assert entry["handlers"] == len(names)
