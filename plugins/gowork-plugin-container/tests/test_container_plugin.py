"""The handler `container`, with an executable that stands in for an engine, as a worker would run it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import msgspec
import psutil
import pytest

from gowork.proto.cluster.v1 import leader_pb2, leader_pb2_grpc
from gowork.proto.worker.v1 import worker_pb2, worker_pb2_grpc
from gowork.worker.errors import PluginError
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
from gowork_plugin_container import ContainerFailed, ContainerJob, ContainerResult
from gowork_plugin_container.engine import Engine
from gowork_plugin_container.output import LINE_BYTES_MAX, LINES_MAX, Output
from gowork_plugin_container.plugin import Containers
from gowork_plugin_container.settings import (
    CPUS_VARIABLE,
    ENGINE_VARIABLE,
    IMAGES_VARIABLE,
    MEMORY_VARIABLE,
    NETWORKS_VARIABLE,
    PATTERNS_MAX,
    PULL_VARIABLE,
    Settings,
)

PLUGIN = "gowork_plugin_container.plugin"
VARIABLES = (
    CPUS_VARIABLE, ENGINE_VARIABLE, IMAGES_VARIABLE, MEMORY_VARIABLE, NETWORKS_VARIABLE, PULL_VARIABLE,
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the engine that stands in. Images of test.local may be run."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    engine = tmp_path / "engine"
    shutil.copy(Path(__file__).with_name("stand_in_engine.sh"), engine)
    monkeypatch.setenv(ENGINE_VARIABLE, str(engine))
    monkeypatch.setenv(IMAGES_VARIABLE, "test.local/*")
    monkeypatch.setenv("STAND_IN", str(tmp_path))
    return tmp_path


def calls(folder: Path) -> list[str]:
    """What the engine was asked to do."""
    return read(folder / "calls").splitlines()


async def attempt(args: list[str] | None = None, *, options: dict[str, Any] | None = None, **job: Any) -> Outcome:
    payload = {"image": "test.local/tool:1", "args": args or [], **job}
    return await run_handler_async("container", payload, imports=[PLUGIN], max_attempts=2, **(options or {}))


async def run(*args: str, **job: Any) -> ContainerResult:
    return (await attempt([*args], **job)).result_as(ContainerResult)


def failed(outcome: Outcome, kind: str, *, retried: bool) -> str:
    """The message of a failure of this type."""
    assert outcome.failure is not None
    assert (outcome.failure.type, outcome.will_retry) == (kind, retried)
    return outcome.failure.message


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


async def appears(path: Path, seconds: float = 30.0) -> str:
    """Waits until a process has written a file. It asks now and then, because no event tells of it."""
    async with asyncio.timeout(seconds):
        while not (text := read(path)):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    return text


async def gone(pid: int, seconds: float = 30.0) -> None:
    """Waits until a process has ended."""
    async with asyncio.timeout(seconds):
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_a_container_is_run_with_nothing_that_it_was_not_given(folder: Path) -> None:
    result = await run("sh", "-c", 'cat; echo "$WORD"; echo wrong >&2', stdin="in\n", env={"WORD": "a b=ü"})
    assert (result.exit_code, result.stdout, result.stderr) == (0, "in\na b=ü\n", "wrong\n")
    assert not result.stdout_truncated
    (line,) = calls(folder)
    options = line.partition(" test.local/tool:1 ")[0].split()
    assert options[:2] == ["run", "--rm"]
    assert {
        "--pull=missing", "--network=none", "--memory=512m", "--memory-swap=512m", "--cpus=1", "--pids-limit=512",
        "--cap-drop=all", "--security-opt=no-new-privileges", "--log-driver=none",
    } <= set(options)  # fmt: skip
    assert not [option for option in options if re.match("--(volume|mount|privileged|device|userns|pid|ipc)=", option)]


async def test_podman_does_not_hand_the_workers_proxies_to_containers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run("true")
    assert "--http-proxy" not in calls(folder)[0]  # Docker has no such option, and hands none over.
    (folder / "podman").symlink_to("engine")
    monkeypatch.setenv(ENGINE_VARIABLE, str(folder / "podman"))
    await run("true")
    assert "--http-proxy=false" in calls(folder)[-1].partition(" test.local/tool:1 ")[0].split()


async def test_a_container_is_called_after_its_fence(folder: Path) -> None:
    for fence, id in ((7, "a"), (8, "a"), (8, "b")):
        await attempt(["true"], options={"fence": fence, "id": id})
    names = [re.search(r"--name=(\S+)", line)[1] for line in calls(folder)]  # type: ignore[index]
    assert [name.split("-")[1] for name in names] == ["7", "8", "8"]
    assert len(set(names)) == 3


async def test_exit_codes_fail_the_task(folder: Path) -> None:
    outcome = await attempt(["sh", "-c", "echo right; echo wrong >&2; exit 3"])
    assert failed(outcome, "ContainerFailed", retried=True) == "exit code 3\nstderr: wrong\nstdout: right"
    assert isinstance(outcome.error, ContainerFailed)
    assert outcome.error.result.exit_code == 3
    assert (await run("sh", "-c", "exit 3", check=False)).exit_code == 3
    assert "memory_mib" in failed(await attempt(["sh", "-c", "exit 137"]), "ContainerFailed", retried=True)


async def test_the_exit_code_is_known_though_another_handler_has_ignored_sigchld(folder: Path) -> None:
    settings = Settings.read(os.environ)
    # In this thread, which is the main one, as in a runner.
    context = FakeContext(state={"gowork_container": Engine(settings.engine)})
    job = ContainerJob(image="test.local/tool", args=["sh", "-c", "exit 3"], check=False)
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert (await Containers(settings).run(context, job)).exit_code == 3
    finally:
        signal.signal(signal.SIGCHLD, before)
        context.state.gowork_container.close()


@pytest.mark.parametrize("check", [True, False])
async def test_a_failure_of_the_engine_is_none_of_the_container(folder: Path, check: bool) -> None:
    said = failed(await attempt(image="test.local/absent", check=check), "Fail", retried=True)
    assert said == "the engine failed: no such image"


async def test_an_engine_that_is_not_there_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENGINE_VARIABLE, "no-such-engine")
    assert "no-such-engine" in failed(await attempt(), "Fail", retried=True)


async def test_lines_go_to_the_log_of_the_task(folder: Path) -> None:
    outcome = await attempt(["sh", "-c", "echo one; printf two; echo three >&2"])
    told = [record for record in outcome.logs if record.name == "gowork_plugin_container.output"]
    lines = {(vars(record)["output"], vars(record)["line"]) for record in told}
    assert lines == {("stdout", "one"), ("stdout", "two"), ("stderr", "three")}


def test_the_log_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    output = Output("stdout", 10)
    output.feed(b"x" * 100_000 + b"\n")
    for _ in range(3):
        output.feed(b"y\n" * 1000)
    output.end()
    assert len(caplog.records) == LINES_MAX + 1
    assert len(vars(caplog.records[0])["line"]) == LINE_BYTES_MAX
    assert caplog.records[-1].message == "further container output is not logged"


def test_a_line_that_comes_in_pieces_is_cut_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    output = Output("stdout", 10)
    for _ in range(5):
        output.feed(b"x" * (LINE_BYTES_MAX - 1))
    output.feed(b"\n")
    (record,) = caplog.records
    assert len(vars(record)["line"]) == LINE_BYTES_MAX


@pytest.mark.parametrize("step", [1, 7, 1000])
@pytest.mark.parametrize("length", [0, 9, 10, 11, 50])
def test_output_is_bounded_however_it_comes(step: int, length: int) -> None:
    data = bytes(range(65, 65 + length))
    output = Output("stdout", 10)
    for start in range(0, length, step):
        output.feed(data[start : start + step])
    output.end()
    assert output.truncated is (length > 10)
    if length <= 10:
        assert output.text() == data.decode()
    else:
        assert output.text() == f"{data[:5].decode()}\n[{length - 10} bytes left out]\n{data[-5:].decode()}"


def test_output_takes_no_more_memory_than_its_bound_and_a_little() -> None:
    output = Output("stdout", 1000)
    for _ in range(100):
        output.feed(b"x" * 65536)
    assert len(output._tail) < 200_000


async def test_output_of_control_characters_still_fits_into_a_result(folder: Path) -> None:
    result = await run("head", "-c", "400000", "/dev/zero", output_bytes_max=400_000)
    assert result.stdout_truncated
    assert len(msgspec.json.encode(result)) <= 1 << 20


def container_of(folder: Path) -> Path:
    """The file of the only container that runs."""
    (path,) = folder.glob("gowork-*")
    return path


async def test_cancel_stops_and_removes_the_container(folder: Path) -> None:
    stop = Switch()
    script = f"trap 'echo clean >{folder}/clean; exit 0' TERM; echo $$ >{folder}/pid; tail -f /dev/null & wait"
    running = asyncio.ensure_future(attempt(["sh", "-c", script], options={"faults": [cancel(on=stop)]}))
    pid = int(await appears(folder / "pid"))
    stop.flip()
    outcome = await running
    assert (outcome.status, outcome.was_killed) == (Status.CANCELLED, False)
    await gone(pid)
    assert (folder / "clean").read_text() == "clean\n"
    assert [line.split()[0] for line in calls(folder)] == ["run", "stop"]


@pytest.mark.longer
async def test_time_limit_removes_a_container_that_does_not_stop(folder: Path) -> None:
    clock = FakeClock()
    script = f"trap '' TERM; echo $$ >{folder}/pid; while :; do tail -f /dev/null; done"
    running = asyncio.ensure_future(attempt(["sh", "-c", script], options={"time_limit": 3600, "clock": clock}))
    pid = int(await appears(folder / "pid"))
    clock.advance(3600)
    outcome = await running
    assert (outcome.status, outcome.was_killed) == (Status.TIMED_OUT, False)
    await gone(pid)
    assert [line.split()[0] for line in calls(folder)] == ["run", "stop", "rm"]


async def test_cancel_ends_a_pull(folder: Path) -> None:
    stop = Switch()
    running = asyncio.ensure_future(attempt(image="test.local/pulled", options={"faults": [cancel(on=stop)]}))
    pid = int(await appears(folder / "pulling"))
    stop.flip()
    assert (await running).status is Status.CANCELLED
    await gone(pid)
    assert [line.split()[0] for line in calls(folder)] == ["run", "stop", "rm"]


async def test_a_container_does_not_outlive_its_command(folder: Path) -> None:
    script = f"echo $$ >{folder}/pid; echo $PPID >{folder}/command; tail -f /dev/null >/dev/null 2>&1"
    running = asyncio.ensure_future(attempt(["sh", "-c", script]))
    pid = int(await appears(folder / "pid"))
    os.kill(int(await appears(folder / "command")), signal.SIGKILL)
    assert "exit code 137" in failed(await running, "ContainerFailed", retried=True)
    await gone(pid)


class OneMember(leader_pb2_grpc.LeaderServiceServicer):
    """As much of a leader as a callback worker needs to join."""

    async def Join(self, request: Any, context: Any) -> Any:
        return leader_pb2.JoinResponse()

    async def Heartbeat(self, request_iterator: Any, context: Any) -> Any:
        async for _ in request_iterator:
            yield leader_pb2.HeartbeatResponse()


@pytest.mark.parametrize("image", ["tool:1", "pulled"])
@pytest.mark.parametrize("victim", ["supervisor", "runner"])
async def test_containers_end_with_a_killed_worker(folder: Path, victim: str, image: str) -> None:
    server = grpc.aio.server()
    leader_pb2_grpc.add_LeaderServiceServicer_to_server(OneMember(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gowork.worker", "--leader", f"127.0.0.1:{port}", "--listen", "127.0.0.1:0"),
        *("--plugin", "container", "--default-handler", "container", "--runners", "1", "--print-ready"),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert worker.stdout is not None
        facts = json.loads(await worker.stdout.readline())
        async with grpc.aio.insecure_channel(facts["listen"]) as channel:
            args = ["sh", "-c", f"echo $$ >{folder}/pid; tail -f /dev/null"]
            payload = json.dumps({"image": f"test.local/{image}", "args": args})
            answer = await worker_pb2_grpc.WorkerServiceStub(channel).StartWork(
                worker_pb2.StartWorkRequest(id="1", payload=payload)
            )
            assert answer.success
            pid = int(await appears(folder / ("pulling" if image == "pulled" else "pid")))
            os.kill(worker.pid if victim == "supervisor" else facts["runners"][0], signal.SIGKILL)
            await gone(pid)
            async with asyncio.timeout(30):
                while not calls(folder)[-1].startswith("rm --force gowork-"):  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
    finally:
        if worker.returncode is None:
            worker.kill()
        await worker.wait()
        await server.stop(None)


@pytest.mark.parametrize(
    ("patterns", "image", "is_allowed"),
    [
        ("", "alpine", False),
        ("alpine", "alpine", True),
        ("alpine", "alpine:3.20", False),
        ("alpine", "evil.test/alpine", False),
        ("a.test/b:1, c.test/d:2", "c.test/d:2", True),
        ("a.test/b:*", "a.test/b:2", True),
        ("a.test/b:*", "a.test/b", True),
        ("a.test/b:*", "a.test/b@sha256:00", True),
        ("a.test/b:*", "a.test/b:1@sha256:00", True),
        ("a.test/b:*", "a.test/bc:1", False),
        ("a.test/b:*", "a.test/b/c:1", False),
        ("a.test:5000/b:*", "a.test:5000/b:1", True),
        ("a.test:*", "a.test:5000/b", False),
        ("a.test/b/*", "a.test/b/c/d:1", True),
        ("a.test/b/*", "a.test/bc", False),
        ("a.test/b/*", "a.test/b/../c", False),
        ("a.test/*", "--privileged", False),
        ("a.test/*", "a.test/b c", False),
        ("a.test/*", "a.test/" + "b" * 500, False),
    ],
)
def test_images_are_compared_with_the_patterns(patterns: str, image: str, is_allowed: bool) -> None:
    settings = Settings.read({IMAGES_VARIABLE: patterns, ENGINE_VARIABLE: "x"})
    if is_allowed:
        settings.check(image, "none", 512, 1.0)
    else:
        with pytest.raises(ValueError, match=f"image: .* is not allowed on this worker; {IMAGES_VARIABLE}"):
            settings.check(image, "none", 512, 1.0)


def test_an_engine_beside_the_worker_is_found_from_any_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings.read({ENGINE_VARIABLE: "bin/engine"}).engine == os.path.join(os.getcwd(), "bin/engine")
    assert Settings.read({ENGINE_VARIABLE: "engine"}).engine == "engine"


@pytest.mark.parametrize(
    ("job", "word"),
    [
        ({"image": "other.local/tool"}, IMAGES_VARIABLE),
        ({"network": "host"}, NETWORKS_VARIABLE),
        ({"network": "container:other"}, NETWORKS_VARIABLE),
        ({"memory_mib": 4097}, MEMORY_VARIABLE),
        ({"cpus": 4.1}, CPUS_VARIABLE),
    ],
)
async def test_what_the_worker_does_not_allow_is_not_run(folder: Path, job: dict[str, Any], word: str) -> None:
    assert word in failed(await attempt(**job), "Fail", retried=False)
    assert calls(folder) == []


async def test_the_settings_may_allow_more(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        NETWORKS_VARIABLE: "bridge", MEMORY_VARIABLE: "8192", CPUS_VARIABLE: "8", PULL_VARIABLE: "never"
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    await run("true", network="bridge", memory_mib=8192, cpus=7.5)
    options = {"--network=bridge", "--memory=8192m", "--memory-swap=8192m", "--cpus=7.5", "--pull=never"}
    assert options <= set(calls(folder)[0].split())


@pytest.mark.parametrize(
    "setting",
    [
        {IMAGES_VARIABLE: "*"},
        {IMAGES_VARIABLE: "a.test*"},
        {IMAGES_VARIABLE: "-v/:/host"},
        {IMAGES_VARIABLE: "a/*/b"},
        {IMAGES_VARIABLE: "a " * (PATTERNS_MAX + 1)},
        {NETWORKS_VARIABLE: "--privileged"},
        {PULL_VARIABLE: "sometimes"},
        {MEMORY_VARIABLE: "much"},
        {MEMORY_VARIABLE: "nan"},
        {CPUS_VARIABLE: "0"},
        {CPUS_VARIABLE: "inf"},
    ],
)
async def test_a_setting_that_cannot_be_read_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, setting: Mapping[str, str]
) -> None:
    ((name, value),) = setting.items()
    monkeypatch.setenv(name, value)
    with pytest.raises(PluginError, match=name):
        await attempt()


@pytest.mark.parametrize(
    ("job", "word"),
    [
        ({"image": ""}, "image"),
        ({"args": "ls"}, "args"),
        ({"args": ["\0"]}, "NUL"),
        ({"env": {"A=B": ""}}, "equals sign"),
        ({"env": {"": ""}}, "empty"),
        ({"memory_mib": 5}, "memory_mib"),
        ({"cpus": 0}, "cpus"),
        ({"cpus": -1}, "cpus"),
        ({"output_bytes_max": 1 << 20}, "output_bytes_max"),
        ({"mounts": []}, "mounts"),
        ({"volumes": ["/:/host"]}, "volumes"),
    ],
)
async def test_payload_that_cannot_be_is_refused_by_field(folder: Path, job: dict[str, Any], word: str) -> None:
    outcome = await attempt(**job)
    assert outcome.failure is not None
    assert (outcome.failure.kind, outcome.will_retry) == (FailureKind.REJECTED, False)
    assert word in outcome.failure.message


def test_the_code_of_the_readme_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(IMAGES_VARIABLE, "")
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
