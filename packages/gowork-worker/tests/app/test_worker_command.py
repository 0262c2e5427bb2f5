from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import signal
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from gowork.worker import Worker, WorkerError, handler
from gowork.worker._app import daemon, plugins_command
from gowork.worker._app.command import main
from gowork.worker._app.service import Service
from gowork.worker._core import references
from gowork.worker._core.options import LENT_SLOTS_MAX, Options
from gowork.worker._core.plugins import load
from gowork.worker._desk.events import WorkerStarted
from gowork.worker._desk.instructions import StartRunner

MODULES = Path(__file__).parent.parent / "modules"


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(main, list(arguments))


def test_version_and_help_answer() -> None:
    assert invoke("--version").output.startswith("gowork-worker, version ")
    output = invoke("--help").output
    assert "Examples:" in output
    for parameter in main.params:
        assert parameter.opts[0] in output


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--leader", "nowhere"], "HOST:PORT"),
        (["--slots", "0"], "--slots"),
        (["--label", "novalue"], "KEY=VALUE"),
        (["--name", ""], "name"),
        (["--http-listen", "x"], "HOST:PORT"),
        (["--queue", ""], "queues: '' is not 1 to 128 printable bytes"),
        (["--queue", "q", "--listen", "127.0.0.1:0"], "a callback worker is given tasks of all queues"),
        (["--listen", "x"], "--listen 'x' is not HOST:PORT"),
        (["--listen", "127.0.0.1:0", "--advertise", "x"], "--advertise 'x' is not HOST:PORT"),
    ],
)
def test_bad_option_is_a_usage_error_that_names_it(arguments: list[str], word: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert word in result.output


async def test_a_drain_that_a_leader_asks_for_is_no_stop_of_the_process() -> None:
    # It may take longer than a service manager gives a process to stop.
    service = Service(Options(name="a"), ["127.0.0.1:1"])
    service.drain(3600.0)
    assert not service.is_told_to_stop
    service.stop()
    assert service.is_told_to_stop


@pytest.mark.parametrize("option", ["--listen", "--http-listen"])
def test_a_port_that_is_taken_is_told_in_one_line(option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = invoke("--leader", "127.0.0.1:1", option, f"127.0.0.1:{port}")
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert str(port) in result.output
    assert ("Choose another port by --http-listen" in result.output) is (option == "--http-listen")


def test_each_option_is_a_variable_under_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    options = [option for option in main.params if isinstance(option, click.Option) and option.expose_value]
    for option in options:
        name = max(option.opts, key=len).removeprefix("--").replace("-", "_").upper()
        monkeypatch.setenv(f"GOWORK_{name}", "1" if not option.multiple else "a=1 b=2")
    with click.Context(main, auto_envvar_prefix="GOWORK") as context:
        for option in options:
            value = option.value_from_envvar(context)
            assert value == (["a=1", "b=2"] if option.multiple else "1"), option.opts


def test_a_variable_with_a_bad_value_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOWORK_SLOTS", "many")
    result = invoke()
    assert result.exit_code == 2
    assert "Invalid value for '--slots' (variable GOWORK_SLOTS): " in result.output


@pytest.mark.parametrize(
    ("text", "word"), [("slots = 'many'", "--slots"), ("sltos = 3", "sltos"), ("slots =", "Invalid value")]
)
def test_bad_configuration_is_a_usage_error(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "worker.toml"
    path.write_text(text)
    result = invoke("--config", str(path))
    assert result.exit_code == 2
    assert word in result.output


async def test_config_variables_and_options_go_together(leader: Any, tmp_path: Path) -> None:
    path = tmp_path / "worker.toml"
    path.write_text(
        'slots = 7\nname = "from-file"\nrunners = 0\nplugin = ["echo"]\nlabel = ["disk=ssd"]\nqueue = ["b", "a"]\n'
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gowork.worker", "--config", str(path), "--name", "from-option"),
        env={"GOWORK_LEADER": leader.address, "GOWORK_PRINT_READY": "1", "GOWORK_LOG_FORMAT": "json"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    scripted = await leader.session()
    hello = scripted.hello
    assert (hello.name, hello.slots, dict(hello.labels)) == ("from-option", 7, {"disk": "ssd"})
    assert hello.queues == ["b", "a"]
    assert process.stdout is not None
    ready = json.loads(await process.stdout.readline())
    assert (ready["name"], ready["pid"], ready["runners"]) == ("from-option", process.pid, [])
    process.send_signal(signal.SIGINT)
    _, errors = await process.communicate()
    assert process.returncode == 0
    events = [json.loads(line)["event"] for line in errors.decode().splitlines()]
    assert {"session open", "draining"} <= set(events)


async def test_unreachable_leader_is_one_clear_line(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gowork.worker", "--leader", "127.0.0.1:1", "--runners", "0", "--plugin", "echo"),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    told: list[str] = []
    while not told or "no session" not in told[-1]:
        told.append((await process.stderr.readline()).decode())
        assert told[-1]
    # What comes before it says how the worker starts, and with which handlers.
    assert [line.split()[2] for line in told] == ["starting", "handlers", "no"]
    assert "no leader answers at 127.0.0.1:1" in told[-1]
    process.terminate()
    _, rest = await process.communicate()
    assert process.returncode == 0
    assert b"Traceback" not in rest
    assert b"no leader answers" not in rest


def get(address: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=120) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def test_metrics_and_probes_are_served(leader: Any) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gowork.worker", "--leader", leader.address, "--http-listen", "127.0.0.1:0"),
        *("--runners", "1", "--slots", "3", "--plugin", "echo", "--print-ready"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    address = json.loads(await process.stdout.readline())["http"]
    scripted = await leader.session()
    scripted.grant(1, "echo", "x")
    await scripted.report(1)
    assert await asyncio.to_thread(get, address, "/healthz") == (200, "ok\n")
    assert await asyncio.to_thread(get, address, "/readyz") == (200, "ok\n")
    process.terminate()
    # Execution times come about once a second, and at the latest when the runner stops.
    await scripted.until(lambda: scripted.condition.draining)
    await process.wait()


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_a_worker_whose_loop_does_not_turn_is_not_healthy(
    leader: Any, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(daemon, "probe", functools.partial(daemon.probe, seconds=0.05))
    facts: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    listeners = daemon.Listeners(http="127.0.0.1:0")
    options = Options(name="w", runners=0, slots=1)
    working = asyncio.create_task(daemon.run_worker(options, leader.address, listeners, ready=facts.set_result))
    try:
        address = (await facts)["http"]
        # This call is what holds the loop up.
        assert get(address, path) == (503, "the event loop has not turned for 0.05 s\n")
    finally:
        working.cancel()
        await asyncio.wait([working])


@pytest.mark.parametrize(("listen", "lent_slots_max"), [(None, LENT_SLOTS_MAX), ("127.0.0.1:0", 0)])
async def test_a_callback_worker_lends_no_slots(
    monkeypatch: pytest.MonkeyPatch, listen: str | None, lent_slots_max: int
) -> None:
    made: list[Service] = []

    async def run(self: Service, *, own_process: bool) -> None:
        made.append(self)

    monkeypatch.setattr(Service, "run", run)
    listeners = daemon.Listeners(work=listen, scheduler="127.0.0.1:1")
    await daemon.run_worker(Options(name="w", runners=0, slots=1), "127.0.0.1:1", listeners)
    (service,) = made
    (start,) = service.supervisor.desk.handle(WorkerStarted(), 0.0)
    assert isinstance(start, StartRunner)
    assert start.spare == lent_slots_max


def test_plugins_are_listed_as_table_and_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = CliRunner()
    listed = runner.invoke(plugins_command.main, ["--plugin", "echo", "--output", "json"])
    assert listed.exit_code == 0
    (row,) = json.loads(listed.output)
    assert (row["plugin"], row["handlers"][0]["name"], row["handlers"][0]["default"]) == ("echo", "echo", True)
    table = runner.invoke(plugins_command.main, ["--plugin", "echo"]).output
    assert "echo (default)" in table
    by_variable = runner.invoke(plugins_command.main, ["--plugin", "echo"], env={"GOWORK_OUTPUT": "json"})
    assert by_variable.output == listed.output


def test_plugins_are_listed_with_their_hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hooked_listed.py").write_text(
        "from gowork.worker import hookimpl\n"
        "@hookimpl\ndef gowork_around_task(ctx): yield\n"
        "@hookimpl\ndef gowork_runner_started(state): ...\n"
    )
    monkeypatch.chdir(tmp_path)
    arguments = ["--plugin", "echo", "--import", "hooked_listed"]
    table = CliRunner().invoke(plugins_command.main, arguments).output
    (line,) = [line for line in table.splitlines() if "HOOKS" in line]
    assert line.split("HOOKS")[1].strip() == (
        "gowork_around_task (around the tasks of all plugins), gowork_runner_started"
    )
    rows = json.loads(CliRunner().invoke(plugins_command.main, [*arguments, "--output", "json"]).output)
    assert [row["hooks"] for row in rows] == [[], ["gowork_around_task", "gowork_runner_started"]]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("raise SystemExit(0)", None),
        ("import os; os._exit(3)", "it ends the process that loads it (exit code 3)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "it ends the process that loads it (SIGSEGV)"),
    ],
)
def test_a_plugin_that_ends_its_process_hides_no_other(
    line: str, said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handled = "from gowork.worker import handler\n@handler('one')\ndef one(ctx): ...\n"
    (tmp_path / "ending_listed.py").write_text(line + "\n")
    (tmp_path / "whole_listed.py").write_text(handled)
    (tmp_path / "again_listed.py").write_text(f"print('no list')\n{handled}")
    monkeypatch.chdir(tmp_path)
    modules = ("ending_listed", "whole_listed", "again_listed")
    arguments = [word for module in modules for word in ("--import", module)]
    listed = CliRunner().invoke(plugins_command.main, ["--plugin", "echo", *arguments, "--output", "json"])
    assert listed.exit_code == 1
    rows = {row["plugin"]: row for row in json.loads(listed.output)}
    assert rows.keys() == {"echo", *modules}
    assert rows["echo"]["handlers"][0]["name"] == "echo"
    assert rows["ending_listed"]["errors"] == [said] if said else rows["ending_listed"]["errors"]
    # Which plugins have the same handler is found all the same.
    assert "whole_listed" in str(rows["again_listed"]["errors"])


def test_plugins_with_errors_are_listed_and_exit_with_one() -> None:
    listed = CliRunner().invoke(plugins_command.main, ["--plugin", "nobody", "--output", "jsonl"])
    assert listed.exit_code == 1
    assert json.loads(listed.output)["errors"] == ["no plugin of this name is installed"]


def test_console_script_and_command_are_entry_points() -> None:
    from importlib import metadata

    commands = {point.name: point.load() for point in metadata.entry_points(group="gowork.commands")}
    assert commands["worker"] is main
    assert commands["plugins"] is plugins_command.main


async def test_worker_serves_within_an_async_with(leader: Any) -> None:
    @handler
    def local() -> int:
        return 5

    async with Worker(leader.address, handlers=[local], runners=0, slots=1, plugins=["echo"]) as worker:
        await worker.welcomed()
        scripted = await leader.session()
        scripted.grant(1, "local")
        assert (await scripted.report(1)).result == "5"
    assert scripted.condition.leaving


async def test_a_program_offers_the_handlers_that_it_names_and_no_installed_plugin(leader: Any) -> None:
    @handler
    def local() -> int:
        return 5

    async def offered(**options: Any) -> set[str]:
        async with Worker(leader.address, runners=0, **options) as worker:
            await worker.welcomed()
            return {each.name for each in (await leader.session()).hello.handlers}

    assert await offered(handlers=[local]) == {"echo", "local"}
    assert await offered() > {"echo", "shell"}
    assert await offered(handlers=[local], plugins=["shell"]) == {"local", "shell"}


async def test_cancelled_worker_hands_back_what_runs(leader: Any) -> None:
    @handler
    async def endless(ctx: Any) -> None:
        ctx.progress(0.1)
        await asyncio.Event().wait()

    serving = asyncio.ensure_future(Worker(leader.address, handlers=[endless], runners=0, slots=1).serve())
    scripted = await leader.session()
    scripted.grant(1, "endless")
    await scripted.started(1)
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving
    assert scripted.reports[1].reason == "the worker stopped before it had finished"


async def test_library_leaves_signals_and_logging_alone(leader: Any) -> None:
    import logging

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), list(logging.getLogger().handlers)
    async with Worker(leader.address, runners=0, plugins=["echo"]) as worker:
        await worker.welcomed()
        during = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), list(logging.getLogger().handlers)
    assert before == during


async def test_worker_that_does_not_run_has_not_been_welcomed() -> None:
    with pytest.raises(WorkerError, match="does not run"):
        await Worker(runners=0).welcomed()


def test_module_that_starts_a_worker_while_it_is_imported_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "_in_runner", True)
    with pytest.raises(WorkerError, match="__main__"):
        Worker(runners=0).run()


def test_sample_module_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    from gowork.worker._core.selection import Selection

    monkeypatch.syspath_prepend(str(MODULES))
    assert not load(Selection(plugins=("echo",), imports=("worker_sample",))).errors
