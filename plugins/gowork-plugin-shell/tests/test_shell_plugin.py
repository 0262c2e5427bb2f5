"""The handler `shell`, with real commands, as a worker would run it; and who outlives whom, with real workers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import msgspec
import pytest

from gowork.proto.cluster.v1 import leader_pb2, leader_pb2_grpc
from gowork.proto.worker.v1 import worker_pb2, worker_pb2_grpc
from gowork.worker import Context
from gowork.worker.processes import Warden
from gowork.worker.testing import (
    FailureKind,
    FakeClock,
    FakeContext,
    Outcome,
    Status,
    Switch,
    cancel,
    run_handler_async,
)
from gowork_plugin_shell import CommandFailed, ShellJob, ShellResult
from gowork_plugin_shell.output import Output
from gowork_plugin_shell.plugin import shell, surroundings


@pytest.fixture
def ctx() -> Iterator[FakeContext]:
    """A context of a runner that has begun when the fixture is made. For direct calls."""
    context = FakeContext()
    lifespan = surroundings(context.state)
    next(lifespan)
    yield context
    assert next(lifespan, None) is None


def exists(pid: int) -> bool:
    if sys.platform.startswith("linux"):
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except (FileNotFoundError, ProcessLookupError):
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def gone(pid: int, seconds: float = 30.0) -> None:
    """Waits until a process has ended. It asks now and then, because no event tells of the end of others' children."""
    async with asyncio.timeout(seconds):
        while exists(pid):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def attempt(job: dict[str, Any], **options: Any) -> Outcome:
    """Runs the handler once."""
    return await run_handler_async("shell", job, imports=["gowork_plugin_shell.plugin"], **options)


async def run(**job: Any) -> ShellResult:
    """Runs a command that succeeds."""
    return (await attempt(job)).result_as(ShellResult)


async def call(ctx: Context, **job: Any) -> ShellResult:
    """Calls the handler in this thread, which is the main one, as in a runner."""
    return await shell(ctx, msgspec.json.decode(msgspec.json.encode(job), type=ShellJob))


async def test_command_is_run_without_a_shell() -> None:
    result = await run(command=["printf", "%s|", "$HOME", "a b", "*"])
    assert (result.exit_code, result.stdout, result.stderr) == (0, "$HOME|a b|*|", "")
    assert not result.stdout_truncated
    assert result.seconds > 0


async def test_shell_interprets_only_when_asked() -> None:
    assert (await run(command="echo $((1 + 2)) | tr 3 4", shell=True)).stdout == "4\n"


async def test_stdin_environment_and_directory_are_the_payloads(tmp_path: Path) -> None:
    result = await run(
        command='sort -n; echo "$WORD"; pwd', shell=True, stdin="3\n1\n2\n", env={"WORD": "ü"}, cwd=str(tmp_path)
    )
    assert result.stdout == f"1\n2\n3\nü\n{tmp_path}\n"


async def test_exit_code_is_known_though_another_handler_has_ignored_sigchld(ctx: Context) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        codes = [(await call(ctx, command=[name], check=False)).exit_code for name in ("true", "false")]
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert codes == [0, 1]


async def test_command_starts_where_and_with_the_umask_that_the_runner_did(ctx: Context, tmp_path: Path) -> None:
    directory = os.getcwd()
    before = os.umask(0o777)
    os.chdir(tmp_path)
    try:
        result = await call(ctx, command="pwd; umask", shell=True)
    finally:
        os.chdir(directory)
        os.umask(before)
    assert result.stdout.split() == [directory, f"{before | 0o002:04o}"]


async def test_a_relative_directory_is_one_of_the_runner_s_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "within").mkdir()
    monkeypatch.chdir(tmp_path)
    context = FakeContext()
    lifespan = surroundings(context.state)
    next(lifespan)
    monkeypatch.chdir("/")
    result = await call(context, command=["pwd"], cwd="within")
    assert result.stdout == f"{(tmp_path / 'within').resolve()}\n"
    assert next(lifespan, None) is None


async def test_large_input_and_output_pass_through() -> None:
    text = "0123456789" * 30_000
    result = await run(command=["cat"], stdin=text, output_bytes_max=400 << 10)
    assert result.stdout == text


async def test_input_that_nobody_reads_is_no_error() -> None:
    assert (await run(command=["true"], stdin="x" * 500_000)).exit_code == 0


async def test_exit_code_fails_the_task_with_the_output() -> None:
    outcome = await attempt({"command": "echo right; echo wrong >&2; exit 3", "shell": True})
    assert outcome.failure is not None
    assert (outcome.status, outcome.failure.type) == (Status.FAILED, "CommandFailed")
    assert outcome.failure.message.endswith("exit code 3\nstderr: wrong\nstdout: right")
    assert isinstance(outcome.error, CommandFailed)
    assert outcome.error.result.exit_code == 3


async def test_exit_code_is_a_result_without_check() -> None:
    assert (await run(command=["false"], check=False)).exit_code == 1


async def test_signal_that_ended_the_command_is_named() -> None:
    outcome = await attempt({"command": "kill -9 $$", "shell": True})
    assert outcome.failure is not None
    assert "killed by signal 9 (SIGKILL)" in outcome.failure.message


@pytest.mark.parametrize(
    ("job", "word"),
    [({"command": ["no-such-program"]}, "no-such-program"), ({"command": ["ls"], "cwd": "/no/x"}, "/no/x")],
)
async def test_what_is_not_there_is_named(job: dict[str, Any], word: str) -> None:
    outcome = await attempt(job, max_attempts=2)
    assert outcome.failure is not None
    assert word in outcome.failure.message
    # Another worker may have it.
    assert (outcome.failure.type, outcome.will_retry) == ("Fail", True)


async def test_program_is_looked_for_in_the_jobs_path_and_directory(tmp_path: Path) -> None:
    program = tmp_path / "mine"
    program.write_text("#!/bin/sh\necho found\n")
    program.chmod(0o755)
    assert (await run(command=["mine"], env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})).stdout == "found\n"
    assert (await run(command=["./mine"], cwd=str(tmp_path))).stdout == "found\n"


@pytest.mark.parametrize(
    ("job", "word"),
    [
        ({"command": "ls"}, "a list"),
        ({"command": ["ls"], "shell": True}, "one line"),
        ({"command": []}, "empty"),
        ({"command": [""]}, "empty"),
        ({"command": ["ls"], "output_bytes_max": 1 << 20}, "output_bytes_max"),
        ({"command": ["ls\0"]}, "NUL"),
        ({"command": ["ls"], "env": {"A=B": "x"}}, "equals sign"),
        ({"command": ["ls"], "comand": 1}, "comand"),
        ({"command": 5}, r"\$\.command"),
        ({}, "command"),
    ],
)
async def test_payload_that_cannot_be_is_refused_by_field(job: dict[str, Any], word: str) -> None:
    outcome = await attempt(job, max_attempts=2)
    assert outcome.failure is not None
    assert (outcome.failure.kind, outcome.will_retry) == (FailureKind.REJECTED, False)
    assert re.search(word, outcome.failure.message)


async def test_long_output_keeps_its_beginning_and_its_end() -> None:
    result = await run(command=["seq", "1", "100000"], output_bytes_max=100)
    assert result.stdout_truncated
    assert result.stdout.startswith("1\n2\n3\n")
    assert result.stdout.endswith("99999\n100000\n")
    assert "bytes left out" in result.stdout
    assert not result.stderr_truncated


@pytest.mark.parametrize("step", [1, 7, 64, 1000])
@pytest.mark.parametrize("length", [0, 9, 10, 11, 50])
def test_output_is_bounded_however_it_comes(step: int, length: int) -> None:
    data = bytes(range(65, 65 + length))
    output = Output(10)
    for start in range(0, length, step):
        output.feed(data[start : start + step])
    assert output.truncated is (length > 10)
    if length <= 10:
        assert output.text() == data.decode()
    else:
        assert output.text() == f"{data[:5].decode()}\n[{length - 10} bytes left out]\n{data[-5:].decode()}"


async def test_output_of_control_characters_still_fits_into_a_result() -> None:
    result = await run(command="head -c 400000 /dev/zero", shell=True, output_bytes_max=400_000)
    assert result.stdout_truncated
    assert len(msgspec.json.encode(result)) <= 1 << 20


async def test_what_a_command_leaves_behind_is_ended() -> None:
    result = await run(command="tail -f /dev/null & echo $!", shell=True)
    await gone(int(result.stdout))


async def test_cancel_ends_the_whole_group(tmp_path: Path) -> None:
    note, stop = tmp_path / "pids", Switch()
    os.mkfifo(note)
    job = {"command": f"tail -f /dev/null & echo $! $$ > {note}; wait", "shell": True}
    running = asyncio.ensure_future(attempt(job, faults=[cancel(on=stop)]))
    child, parent = map(int, (await asyncio.to_thread(note.read_text)).split())
    assert exists(child)
    stop.flip()
    assert (await running).status is Status.CANCELLED
    await gone(child)
    await gone(parent)


async def test_time_limit_ends_the_command(tmp_path: Path) -> None:
    note, clock = tmp_path / "pid", FakeClock()
    os.mkfifo(note)
    job = {"command": f"echo $$ > {note}; tail -f /dev/null", "shell": True}
    running = asyncio.ensure_future(attempt(job, time_limit=3600, clock=clock))
    pid = int(await asyncio.to_thread(note.read_text))
    clock.advance(3600)
    outcome = await running
    assert (outcome.status, outcome.was_killed) == (Status.TIMED_OUT, False)
    await gone(pid)


async def test_command_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    note, stop = tmp_path / "pid", Switch()
    os.mkfifo(note)
    job = {"command": f"trap '' TERM; echo $$ > {note}; while :; do tail -f /dev/null; done", "shell": True}
    running = asyncio.ensure_future(attempt(job, faults=[cancel(on=stop)]))
    pid = int(await asyncio.to_thread(note.read_text))
    stop.flip()
    outcome = await running
    assert (outcome.status, outcome.was_killed) == (Status.CANCELLED, False)
    await gone(pid)


async def test_command_may_clean_up_on_sigterm(tmp_path: Path) -> None:
    note, done, stop = tmp_path / "pid", tmp_path / "done", Switch()
    os.mkfifo(note)
    script = f"trap 'echo clean > {done}; exit 0' TERM; echo $$ > {note}; tail -f /dev/null & wait"
    running = asyncio.ensure_future(attempt({"command": script, "shell": True}, faults=[cancel(on=stop)]))
    await asyncio.to_thread(note.read_text)
    stop.flip()
    await running
    assert done.read_text() == "clean\n"


def test_warden_ends_what_it_guards_when_its_owner_is_killed(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys\n"
        "from gowork.worker.processes import Warden\n"
        "warden = Warden()\n"
        # With an output of its own: tail ends by itself when the pipe that it writes to breaks.
        "quiet = {'stdout': subprocess.DEVNULL, 'start_new_session': True}\n"
        "children = [subprocess.Popen(['tail', '-f', '/dev/null'], **quiet) for _ in range(3)]\n"
        "for child in children: warden.guard(child.pid)\n"
        "warden.release(children[1].pid)\n"
        "print(*[child.pid for child in children], flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        first, released, third = map(int, owner.stdout.readline().split())
        owner.kill()
        owner.wait()
    try:
        asyncio.run(gone(first))
        asyncio.run(gone(third))
        assert exists(released)
    finally:
        os.kill(released, signal.SIGKILL)


class OneMember(leader_pb2_grpc.LeaderServiceServicer):
    """As much of a leader as a callback worker needs to join."""

    async def Join(self, request: Any, context: Any) -> Any:
        return leader_pb2.JoinResponse()

    async def Heartbeat(self, request_iterator: Any, context: Any) -> Any:
        async for _ in request_iterator:
            yield leader_pb2.HeartbeatResponse()


@pytest.mark.parametrize("victim", ["supervisor", "runner"])
async def test_commands_end_with_a_killed_worker(tmp_path: Path, victim: str) -> None:
    note = tmp_path / "pid"
    os.mkfifo(note)
    server = grpc.aio.server()
    leader_pb2_grpc.add_LeaderServiceServicer_to_server(OneMember(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gowork.worker", "--leader", f"127.0.0.1:{port}", "--listen", "127.0.0.1:0"),
        *("--plugin", "shell", "--default-handler", "shell", "--runners", "1", "--print-ready"),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert worker.stdout is not None
        facts = json.loads(await worker.stdout.readline())
        async with grpc.aio.insecure_channel(facts["listen"]) as channel:
            payload = json.dumps({"command": f"echo $$ > {note}; tail -f /dev/null", "shell": True})
            answer = await worker_pb2_grpc.WorkerServiceStub(channel).StartWork(
                worker_pb2.StartWorkRequest(id="1", payload=payload)
            )
            assert answer.success
            pid = int(await asyncio.to_thread(note.read_text))
            os.kill(worker.pid if victim == "supervisor" else facts["runners"][0], signal.SIGKILL)
            await gone(pid)
    finally:
        if worker.returncode is None:
            worker.kill()
        await worker.wait()
        await server.stop(None)


def test_warden_is_started_with_the_first_command_only() -> None:
    state = SimpleNamespace()
    lifespan = surroundings(state)
    next(lifespan)
    held = state.gowork_shell
    assert held._warden is None
    assert isinstance(held.warden(), Warden)
    assert held.warden() is held.warden()
    assert next(lifespan, None) is None


def test_the_code_of_the_readme_is_run() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
