"""Real runner processes: crashes, kills, limits, and who outlives whom."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._core.selection import Selection
from gowork.worker._fleet import process as runner_process
from gowork.worker._runner.columns import ROWS_MIN
from gowork.worker._supervisor.instances import InstanceLocks

MODULES = Path(__file__).parent.parent / "modules"

ProcessExists = Callable[[int], bool]


async def test_handlers_run_in_the_runner_processes(leader: Any, start_worker: Any) -> None:
    service = await start_worker(slots=4, runners=2)
    scripted = await leader.session()
    await scripted.until(lambda: scripted.credit == 4)
    assert {"add", "add_async", "noop"} <= {info.name for info in scripted.hello.handlers}
    for fence in range(1, 5):
        scripted.grant(fence, "pid")
    pids = {json.loads((await scripted.report(fence)).result) for fence in range(1, 5)}
    assert pids <= set(service.supervisor.fleet.pids)
    assert os.getpid() not in pids


@pytest.mark.parametrize(("handler", "columns"), [("add", True), ("add_async", True), ("add", False)])
async def test_thousands_of_tasks_are_all_reported_once(
    leader: Any, start_worker: Any, handler: str, columns: bool
) -> None:
    leader.reads_completions = columns
    await start_worker(slots=8, runners=2)
    scripted = await leader.session()
    granted = 0
    while granted < 2000:
        await scripted.until(lambda seen=granted: scripted.credit > seen)
        for fence in range(granted + 1, min(scripted.credit, 2000) + 1):
            scripted.grant(fence, handler, f"[{fence}, 1]")
        granted = min(scripted.credit, 2000)
    await scripted.until(lambda: len(scripted.reports) == 2000)
    by_columns = sum(len(each.ids) for frame in scripted.frames for each in frame.completions)
    assert sum(len(frame.reports) for frame in scripted.frames) + by_columns == 2000
    # On a machine that is very busy some wait too long and are handed back.
    ran = {fence: report for fence, report in scripted.reports.items() if report.result}
    assert len(ran) > 1000
    assert all(report.result == str(fence + 1) for fence, report in ran.items())


@pytest.mark.parametrize("columns", [True, False])
async def test_what_ends_together_is_reported_by_columns_to_a_leader_that_reads_them(
    leader: Any, start_worker: Any, columns: bool
) -> None:
    leader.reads_completions = columns
    await start_worker(slots=ROWS_MIN, runners=1)
    scripted = await leader.session()
    await scripted.until(lambda: scripted.credit == ROWS_MIN)
    for fence in range(1, ROWS_MIN + 1):
        scripted.grant(fence, "meet", str(ROWS_MIN))
    await scripted.until(lambda: len(scripted.reports) == ROWS_MIN)
    assert all(report.result == str(ROWS_MIN) for report in scripted.reports.values())
    by_columns = sum(len(each.ids) for frame in scripted.frames for each in frame.completions)
    assert by_columns == (ROWS_MIN if columns else 0)


async def test_crash_loses_what_ran_and_returns_what_had_not_started(leader: Any, start_worker: Any) -> None:
    service = await start_worker(slots=2, runners=1)
    scripted = await leader.session()
    scripted.grant(1, "stubborn")
    scripted.grant(2, "until_cancelled")
    pid = int(await scripted.started(1))
    await scripted.started(2)
    scripted.grant(3, "noop")
    # It is answered after the grant was passed on.
    scripted.send(pings=[1])
    await scripted.until(lambda: scripted.pongs)
    os.kill(pid, signal.SIGKILL)
    first, second, third = [await scripted.report(fence) for fence in (1, 2, 3)]
    assert first.outcome == second.outcome == tasks.ATTEMPT_OUTCOME_LOST
    assert "signal 9 (SIGKILL)" in first.reason
    assert third.outcome == tasks.ATTEMPT_OUTCOME_INTERRUPTED
    scripted.grant(4, "pid")
    report = await scripted.report(4)
    assert json.loads(report.result) != pid
    assert service.supervisor.measures.runners_lost == 1


async def test_crash_takes_only_its_own_tasks(leader: Any, start_worker: Any) -> None:
    await start_worker(slots=2, runners=2)
    scripted = await leader.session()
    # Both runners are ready then.
    await scripted.until(lambda: scripted.credit == 2)
    scripted.grant(1, "stubborn")
    await scripted.started(1)
    scripted.grant(2, "until_cancelled")
    pids = [int(await scripted.started(fence)) for fence in (1, 2)]
    assert pids[0] != pids[1]
    os.kill(pids[0], signal.SIGKILL)
    assert (await scripted.report(1)).outcome == tasks.ATTEMPT_OUTCOME_LOST
    scripted.send(cancelled=[2])
    assert (await scripted.report(2)).outcome == tasks.ATTEMPT_OUTCOME_CANCELLED


async def test_loss_while_the_kernel_ran_out_of_memory_says_so(
    leader: Any, start_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The kernel's counter before and after: a test can't have it run out of memory.
    counts = itertools.chain([7], itertools.repeat(8))
    monkeypatch.setattr(runner_process, "_oom_kills", lambda: next(counts))
    await start_worker(slots=1, runners=1)
    scripted = await leader.session()
    scripted.grant(1, "stubborn")
    os.kill(int(await scripted.started(1)), signal.SIGKILL)
    report = await scripted.report(1)
    assert report.outcome == tasks.ATTEMPT_OUTCOME_LOST
    assert "SIGKILL" in report.reason
    assert "ran out of memory" in report.reason


async def test_crash_loses_what_had_just_ended_and_was_not_reported(
    leader: Any, start_worker: Any, eventually: Any, tmp_path: Path
) -> None:
    service = await start_worker(slots=2, runners=1)
    scripted = await leader.session()
    await scripted.until(lambda: scripted.credit == 2)
    (runner,) = service.supervisor.fleet.runners.values()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # The first keeps the loop from sending the second one's report.
    work = [tasks.Task(id="1", handler="hog", payload="20"), tasks.Task(id="2", handler="tell", payload=str(pipe))]
    grants = [session.Grant(fence=int(task.id), id=task.id, task=task.SerializeToString()) for task in work]
    scripted.send(grants=grants)
    # The second one waits until somebody reads: by then the first one has the loop.
    await eventually(lambda: {row.fence for row in runner.running()} == {1, 2})
    assert await asyncio.to_thread(pipe.read_text) == "told"
    await eventually(lambda: [row.fence for row in runner.running()] == [1])
    assert not scripted.reports
    os.kill(runner.pid, signal.SIGKILL)
    for fence in (1, 2):
        assert (await scripted.report(fence)).outcome == tasks.ATTEMPT_OUTCOME_LOST


async def test_exit_code_of_a_lost_runner_is_reported(leader: Any, start_worker: Any) -> None:
    await start_worker(slots=1, runners=1)
    scripted = await leader.session()
    scripted.grant(1, "exit_with", "7")
    report = await scripted.report(1)
    assert (report.outcome, report.reason) == (tasks.ATTEMPT_OUTCOME_LOST, "the runner exited with code 7")


async def test_cancel_past_the_grace_ends_the_runner_and_interrupts_its_neighbours(
    leader: Any, start_worker: Any, process_exists: ProcessExists
) -> None:
    await start_worker(slots=2, runners=1)
    scripted = await leader.session()
    scripted.grant(1, "stubborn_for_long")
    scripted.grant(2, "forever")
    pid = int(await scripted.started(1))
    await scripted.started(2)
    scripted.send(cancelled=[1])
    report = await scripted.report(1)
    assert report.outcome == tasks.ATTEMPT_OUTCOME_CANCELLED
    assert not process_exists(pid)
    assert (await scripted.report(2)).outcome == tasks.ATTEMPT_OUTCOME_INTERRUPTED


async def test_cancelled_token_stops_a_thread_within_its_grace(leader: Any, start_worker: Any) -> None:
    await start_worker(slots=1, runners=1)
    scripted = await leader.session()
    scripted.grant(1, "until_cancelled")
    pid = await scripted.started(1)
    scripted.send(cancelled=[1])
    assert (await scripted.report(1)).outcome == tasks.ATTEMPT_OUTCOME_CANCELLED
    scripted.grant(2, "pid")
    assert (await scripted.report(2)).result == pid


async def test_time_limit_ends_the_runner_of_a_thread_that_does_not_heed_it(leader: Any, start_worker: Any) -> None:
    await start_worker(slots=1, runners=1)
    scripted = await leader.session()
    scripted.grant(1, "stubborn_past_its_limit")
    report = await scripted.report(1)
    assert (report.outcome, report.failure.kind) == (tasks.ATTEMPT_OUTCOME_TIMED_OUT, tasks.FAILURE_KIND_TIMEOUT)


async def test_isolated_task_runs_alone_in_a_process_of_its_own(leader: Any, start_worker: Any) -> None:
    await start_worker(slots=2, runners=1)
    scripted = await leader.session()
    scripted.grant(1, "pid")
    scripted.grant(2, "isolated_pid")
    ordinary, isolated = [(await scripted.report(fence)).result for fence in (1, 2)]
    assert ordinary != isolated


async def test_isolated_task_imports_its_own_plugin_alone(leader: Any, start_worker: Any, tmp_path: Path) -> None:
    shared = "from gowork.worker import lifespan\n@lifespan\ndef pool(state): yield\n"
    for name, text in (("worker_beside_sample", ""), ("worker_shared_sample", shared)):
        (tmp_path / f"{name}.py").write_text(text)
    imports = ("worker_sample", "worker_beside_sample", "worker_shared_sample")
    sys.path.insert(0, str(tmp_path))
    try:
        await start_worker(slots=1, runners=1, selection=Selection(imports=imports, plugins=("echo",)))
        scripted = await leader.session()
        for fence, module in enumerate(imports, 1):
            scripted.grant(fence, "isolated_knows", payload=module)
        known = [(await scripted.report(fence)).result for fence in (1, 2, 3)]
    finally:
        sys.path.remove(str(tmp_path))
    assert known == ["true", "false", "true"]


async def test_task_that_the_leader_wants_alone_runs_in_another_process(leader: Any, start_worker: Any) -> None:
    await start_worker(slots=1, runners=1)
    scripted = await leader.session()
    scripted.grant(1, "pid")
    ordinary = (await scripted.report(1)).result
    scripted.grant(2, "pid", alone=True)
    assert (await scripted.report(2)).result != ordinary


async def test_isolated_task_waits_for_a_slot(leader: Any, start_worker: Any) -> None:
    await start_worker(slots=1, runners=1)
    scripted = await leader.session()
    scripted.grant(1, "until_cancelled")
    await scripted.started(1)
    scripted.grant(2, "isolated_pid")
    scripted.grant(3, "isolated_pid")
    scripted.send(cancelled=[3], pings=[1])
    assert (await scripted.report(3)).outcome == tasks.ATTEMPT_OUTCOME_CANCELLED
    assert 2 not in scripted.reports
    scripted.send(cancelled=[1])
    assert (await scripted.report(2)).outcome == tasks.ATTEMPT_OUTCOME_COMPLETED


async def test_cancelled_isolated_task_is_ended_with_its_process_soon(
    leader: Any, start_worker: Any, process_exists: ProcessExists
) -> None:
    await start_worker(slots=2, runners=1)
    scripted = await leader.session()
    scripted.grant(1, "isolated_stubborn")
    scripted.grant(2, "forever")
    pid = int(await scripted.started(1))
    await scripted.started(2)
    scripted.send(cancelled=[1])
    assert (await scripted.report(1)).outcome == tasks.ATTEMPT_OUTCOME_CANCELLED
    assert not process_exists(pid)
    assert 2 not in scripted.reports


async def test_blocked_runner_is_told_and_recovers(leader: Any, start_worker: Any) -> None:
    await start_worker(slots=1, runners=1)
    scripted = await leader.session()
    scripted.grant(1, "hog", "5")
    await scripted.until(lambda: scripted.condition.blocked)
    assert 1 not in scripted.reports
    await scripted.report(1)
    await scripted.until(lambda: not scripted.condition.blocked)


async def test_blocked_runner_is_given_nothing_while_others_answer(leader: Any, start_worker: Any) -> None:
    service = await start_worker(slots=4, runners=2)
    scripted = await leader.session()
    await scripted.until(lambda: scripted.credit == 4)
    scripted.grant(1, "hog", "6")
    await scripted.until(lambda: scripted.condition.blocked)
    supervisor = service.supervisor
    (blocked,) = (
        runner for runner in supervisor.fleet.runners.values() if supervisor.desk.roster.runners[runner.id].is_blocked
    )
    # At once: they would fill the free slots of both.
    task = tasks.Task(id="a", handler="pid").SerializeToString()
    scripted.send(grants=[session.Grant(fence=fence, id="a", attempt=1, task=task) for fence in (2, 3, 4)])
    pids = {json.loads((await scripted.report(fence)).result) for fence in (2, 3, 4)}
    assert len(pids) == 1
    assert blocked.pid not in pids
    assert scripted.condition.blocked
    assert 1 not in scripted.reports


async def test_plugin_that_does_not_import_is_named_and_hides_no_other(
    leader: Any, start_worker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "worker_broken_sample.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    await start_worker(
        slots=1, runners=1, selection=Selection(imports=("worker_broken_sample", "worker_sample"), plugins=("echo",))
    )
    hello = (await leader.session()).hello
    assert [error for error in hello.plugin_errors if error.startswith("worker_broken_sample: ModuleNotFoundError")]
    assert "noop" in {info.name for info in hello.handlers}


class Command:
    """The command `gowork-worker` as a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, facts: dict[str, Any]) -> None:
        self.process = process
        self.facts = facts


@pytest.fixture
async def start_command(leader: Any) -> AsyncIterator[Callable[..., Awaitable[Command]]]:
    """Starts the command for the scripted leader, and leaves none behind."""
    started: list[asyncio.subprocess.Process] = []

    async def start(*options: str) -> Command:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "gowork.worker", "--leader", leader.address, "--print-ready", "--plugin", "echo"),
            *("--import", "worker_sample", "--slots", "2", *options),
            stdout=asyncio.subprocess.PIPE,
            cwd=MODULES,
        )
        started.append(process)
        assert process.stdout is not None
        async with asyncio.timeout(120):
            line = await process.stdout.readline()
        return Command(process, json.loads(line))

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.wait()


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("runners", ["1", "2"])
async def test_nothing_outlives_a_killed_supervisor(
    leader: Any, start_command: Any, process_exists: ProcessExists, eventually: Any, runners: str
) -> None:
    command = await start_command("--runners", runners)
    scripted = await leader.session()
    await scripted.until(lambda: scripted.credit == 2)
    scripted.grant(1, "with_child")
    runner, child = map(int, (await scripted.started(1)).split())
    assert runner in command.facts["runners"]
    assert process_exists(child)
    command.process.kill()
    await command.process.wait()
    await eventually(lambda: not any(process_exists(pid) for pid in (*command.facts["runners"], child)))


async def test_what_a_handler_left_behind_does_not_hold_the_lock_that_its_runner_held(
    leader: Any, start_command: Any, eventually: Any, tmp_path: Path
) -> None:
    command = await start_command("--runners", "1", "--name", "n", "--state-dir", str(tmp_path))
    scripted = await leader.session()
    scripted.grant(1, "with_escaped_child")
    child = int(await scripted.started(1))
    try:
        successor = InstanceLocks(tmp_path, "n", "successor")
        assert successor.ended() == []
        command.process.kill()
        assert await eventually(successor.ended) == [scripted.hello.instance]
    finally:
        os.kill(child, signal.SIGKILL)


async def test_loss_of_a_runner_is_reported_when_what_its_wardens_guard_has_ended(
    leader: Any, start_worker: Any, process_exists: ProcessExists, eventually: Any
) -> None:
    roster = (await start_worker(slots=1, runners=1)).supervisor.desk.roster
    scripted = await leader.session()
    scripted.grant(1, "with_guarded_child")
    runner, warden, child = map(int, (await scripted.started(1)).split())
    os.kill(warden, signal.SIGSTOP)
    try:
        os.kill(runner, signal.SIGKILL)
        # The supervisor knows it, and has time to tell.
        await eventually(lambda: not roster.ready())
        scripted.send(pings=[1])
        await scripted.until(lambda: scripted.pongs)
        assert not scripted.reports
        assert process_exists(child)
    finally:
        os.kill(warden, signal.SIGCONT)
    assert (await scripted.report(1)).outcome == tasks.ATTEMPT_OUTCOME_LOST
    # It has been killed; to be gone it needs a processor once more.
    await eventually(lambda: not process_exists(child))


async def test_lock_is_held_until_the_groups_of_a_killed_worker_have_ended(
    leader: Any, start_command: Any, process_exists: ProcessExists, eventually: Any, tmp_path: Path
) -> None:
    command = await start_command("--runners", "1", "--name", "n", "--state-dir", str(tmp_path))
    scripted = await leader.session()
    scripted.grant(1, "with_child")
    runner, child = map(int, (await scripted.started(1)).split())
    (warden,) = (each.pid for each in psutil.Process(command.process.pid).children() if each.name() == "sh")
    successor = InstanceLocks(tmp_path, "n", "successor")
    os.kill(warden, signal.SIGSTOP)
    try:
        command.process.kill()
        await command.process.wait()
        await eventually(lambda: not process_exists(runner))
        # The child may have ended: a runner that sees the end of its pipe in time ends its group itself.
        assert successor.ended() == []
    finally:
        os.kill(warden, signal.SIGCONT)
    assert await eventually(successor.ended) == [scripted.hello.instance]
    # It was sent SIGKILL before, and does nothing more; the kernel may still be clearing it away.
    await eventually(lambda: not process_exists(child))
    successor.close(left=True)


async def test_restarted_worker_names_its_predecessor_until_it_is_welcomed(
    leader: Any, start_command: Any, tmp_path: Path
) -> None:
    options = ("--runners", "1", "--name", "n", "--state-dir", str(tmp_path))
    command = await start_command(*options)
    first = await leader.session()
    assert not first.hello.ended_instances
    command.process.kill()
    await command.process.wait()
    command = await start_command(*options)
    second = await leader.session()
    assert list(second.hello.ended_instances) == [first.hello.instance]
    second.end(grpc.StatusCode.UNAVAILABLE)
    third = await leader.session()
    assert not third.hello.ended_instances
    third.send(drains=[session.Drain()])
    assert await command.process.wait() == 0
    assert files_in(tmp_path) == []


async def test_default_name_has_no_predecessor(leader: Any, start_command: Any, tmp_path: Path) -> None:
    await start_command("--runners", "1", "--state-dir", str(tmp_path))
    assert files_in(tmp_path) == []


async def test_children_of_a_killed_runner_end_with_it(
    leader: Any, start_command: Any, process_exists: ProcessExists, eventually: Any
) -> None:
    command = await start_command("--runners", "1")
    scripted = await leader.session()
    scripted.grant(1, "with_child")
    runner, child = map(int, (await scripted.started(1)).split())
    os.kill(runner, signal.SIGKILL)
    assert (await scripted.report(1)).outcome == tasks.ATTEMPT_OUTCOME_LOST
    await eventually(lambda: not process_exists(child))
    command.process.terminate()
    assert await command.process.wait() == 0


async def test_sigterm_drains_and_exits_with_zero(
    leader: Any, start_command: Any, process_exists: ProcessExists, eventually: Any
) -> None:
    command = await start_command("--runners", "2", "--drain-timeout", "0.1")
    scripted = await leader.session()
    await scripted.until(lambda: scripted.credit == 2)
    assert scripted.hello.name == command.facts["name"]
    scripted.grant(1, "forever")
    scripted.grant(2, "stubborn")
    await scripted.started(1)
    await scripted.started(2)
    command.process.terminate()
    for fence in (1, 2):
        assert (await scripted.report(fence)).outcome == tasks.ATTEMPT_OUTCOME_INTERRUPTED
    assert await command.process.wait() == 0
    assert scripted.condition.leaving
    await eventually(lambda: not any(process_exists(pid) for pid in command.facts["runners"]))


async def test_script_of_three_lines_is_a_worker(leader: Any, tmp_path: Path) -> None:
    script = tmp_path / "three_lines.py"
    script.write_text(
        "from gowork.worker import Worker, handler\n"
        "@handler\n"
        "def double(number: int) -> int: return 2 * number\n"
        f"Worker({leader.address!r}, handlers=[double], slots=1, runners=1, plugins=['echo']).run()\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, str(script))
    scripted = await leader.session()
    scripted.grant(1, "double", "21")
    assert (await scripted.report(1)).result == "42"
    process.terminate()
    assert await process.wait() == 0


@pytest.mark.parametrize(
    ("handler", "runners"), [("waits", 1), ("waits_async", 1), ("waits_isolated", 1), ("waits", 0), ("waits_async", 0)]
)
async def test_task_that_waits_for_others_makes_room_for_one_more(
    leader: Any, start_worker: Any, eventually: Any, handler: str, runners: int
) -> None:
    imports = Selection(imports=("worker_sample",))
    service = await start_worker(slots=1, runners=runners, selection=imports)
    scripted = await leader.session()
    await scripted.until(lambda: scripted.credit == 1)
    scripted.grant(1, handler)
    await scripted.until(lambda: scripted.credit == 2)
    assert service.supervisor.slots() == {"busy": 0, "free": 1, "withheld": 0, "blocked": 0, "starting": 0}
    # One that waits in its turn makes room too.
    scripted.grant(2, handler)
    await scripted.until(lambda: scripted.credit == 3)
    scripted.grant(3, "noop")
    assert (await scripted.report(3)).outcome == tasks.ATTEMPT_OUTCOME_COMPLETED
    scripted.send(cancelled=[1, 2])
    await scripted.report(1)
    await scripted.report(2)
    await eventually(lambda: not any(runner.waiting for runner in service.supervisor.desk.roster.runners.values()))
    scripted.grant(4, "noop")
    assert (await scripted.report(4)).outcome == tasks.ATTEMPT_OUTCOME_COMPLETED


async def test_process_that_dies_while_its_tasks_wait_lends_no_more(leader: Any, start_worker: Any) -> None:
    service = await start_worker(slots=1, runners=1)
    scripted = await leader.session()
    scripted.grant(1, "waits")
    pid = int(await scripted.started(1))
    await scripted.until(lambda: scripted.credit == 2)
    os.kill(pid, signal.SIGKILL)
    assert (await scripted.report(1)).outcome == tasks.ATTEMPT_OUTCOME_LOST
    scripted.grant(2, "noop")
    assert (await scripted.report(2)).outcome == tasks.ATTEMPT_OUTCOME_COMPLETED
    assert [runner.waiting for runner in service.supervisor.desk.roster.runners.values()] == [0]
