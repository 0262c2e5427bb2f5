"""The command `gowork up`, with real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from gowork.base.key_files import write_file
from gowork.cli.commands.up import _worker_pages
from gowork.cli.processes import _write
from gowork.client import Client

FREE_PORTS = (
    *("--cluster-listen", "127.0.0.1:0"),
    *("--scheduler-listen", "127.0.0.1:0"),
    *("--http-listen", "127.0.0.1:0"),
    *("--workers-http-port", "0"),
)
#: How long processes may take to be gone, in seconds; waited for, not slept.
GONE_S = 20


def family(pid: int) -> list[psutil.Process]:
    """A process and all that it has started, directly or not."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def children_by_module(pid: int) -> dict[str, list[psutil.Process]]:
    """The direct children that run a module of gowork, by its name."""
    found: dict[str, list[psutil.Process]] = {}
    for child in psutil.Process(pid).children():
        command = child.cmdline()
        if "-m" in command:
            found.setdefault(command[command.index("-m") + 1], []).append(child)
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_and_leaves_nothing(up_in, tmp_path: Path, number: signal.Signals) -> None:
    with up_in(tmp_path, "--workers", "2") as up:
        processes = family(up.process.pid)
        assert len(children_by_module(up.process.pid)["gowork.worker"]) == 2
        assert up.stop(number) == 0
    gone, alive = psutil.wait_procs(processes, timeout=GONE_S)
    assert not alive
    assert len(gone) >= 4


def test_everything_ends_with_it_however_it_dies(up_in, tmp_path: Path) -> None:
    with up_in(tmp_path) as up:
        processes = family(up.process.pid)
        up.stop(signal.SIGKILL)
    _, alive = psutil.wait_procs(processes, timeout=GONE_S)
    assert not alive


@pytest.mark.longer
def test_tasks_are_there_again_at_the_next_start(up_in, invoke, tmp_path: Path) -> None:
    with up_in(tmp_path) as up:
        assert invoke(["--leader", up.scheduler, "add", "kept", "21", "--handler", "double", "--wait"]).exit_code == 0
        up.stop()
    with up_in(tmp_path, "--workers", "0") as up:
        assert up.addresses["workers"] == []
        result = invoke(["--leader", up.scheduler, "show", "kept", "-o", "json"])
        assert json.loads(result.stdout)["result"] == 42


def test_the_end_of_the_leader_ends_all(up_in, tmp_path: Path) -> None:
    with up_in(tmp_path) as up:
        processes = family(up.process.pid)
        (leader,) = children_by_module(up.process.pid)["gowork.leader"]
        leader.kill()
        assert up.process.wait() == 1
        assert "the leader ended with exit code -9" in up.process.stderr.read()
    _, alive = psutil.wait_procs(processes, timeout=GONE_S)
    assert not alive


@pytest.mark.longer
def test_a_worker_that_ends_is_reported_and_not_restarted(up_in, invoke, tmp_path: Path) -> None:
    with up_in(tmp_path, "--workers", "2") as up:
        worker = children_by_module(up.process.pid)["gowork.worker"][0]
        worker.kill()
        up.told("worker-1 ended with exit code -9")
        assert invoke(["--leader", up.scheduler, "add", "21", "--handler", "double", "--wait"]).stdout == "42\n"
        assert len(children_by_module(up.process.pid)["gowork.worker"]) == 1
        assert up.stop() == 0


def test_what_handlers_print_is_seen(up_in, invoke, tmp_path: Path) -> None:
    with up_in(tmp_path) as up:
        invoke(["--leader", up.scheduler, "add", "--handler", "shout", "heard", "--wait"])
        assert up.told("heard") == "heard\n"
        up.stop()


def test_workers_have_the_keys_that_are_given(up_in, invoke, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    write_file(keys, {"k1": b"1" * 32})
    with up_in(tmp_path, "--keys", str(keys)) as up:
        result = invoke(["--leader", up.scheduler, "add", "--keys", str(keys), "hello", "--wait"])
        assert (result.exit_code, '"payload":"hello"' in result.stdout) == (0, True), result.output


@pytest.mark.longer
def test_leader_and_workers_can_be_scraped(up_in, tmp_path: Path) -> None:
    with up_in(tmp_path, "--workers", "2") as up:
        pages = [up.addresses["http"], *up.addresses["workers_http"]]
        assert len(set(pages)) == 3
        for address, name in zip(pages, ("gowork_members", "gowork_worker_slots", "gowork_worker_slots"), strict=True):
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=120) as page:
                assert name in page.read().decode()
        up.stop()


def test_workers_pages_follow_the_first_ones_port() -> None:
    assert _worker_pages("127.0.0.1:9464", 9465, 2) == ["127.0.0.1:9465", "127.0.0.1:9466"]
    assert _worker_pages("[::1]:9464", 0, 2) == ["[::1]:0", "[::1]:0"]


def test_a_port_that_is_taken_is_one_clear_error(tmp_path: Path, taken_address: str) -> None:
    listen = ("--cluster-listen", "127.0.0.1:0", "--scheduler-listen", taken_address, "--http-listen", "127.0.0.1:0")
    done = subprocess.run(
        [sys.executable, "-m", "gowork.cli", "up", "--data-dir", str(tmp_path), *listen],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert f"{taken_address}: Address already in use" in done.stderr
    assert "Choose another port by --scheduler-listen" in done.stderr
    assert "the leader could not start" in done.stderr
    # Two lines for two causes; none of gRPC's own.
    assert len(done.stderr.splitlines()) == 2


def test_for_people_it_says_where_all_is_and_what_to_do_next(tmp_path: Path) -> None:
    free = [part for name in ("cluster", "scheduler", "http") for part in (f"--{name}-listen", "127.0.0.1:0")]
    free += ["--workers-http-port", "0"]
    with subprocess.Popen(
        [sys.executable, "-m", "gowork.cli", "up", "--data-dir", str(tmp_path), *free],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        try:
            assert process.stdout is not None
            lines: list[str] = []
            while "Ctrl-C stops the cluster" not in (line := process.stdout.readline()):
                assert line, lines
                lines.append(line)
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait() == 0
    text = "".join(lines)
    address = text.split("export GOWORK_LEADER=")[1].split()[0]
    assert f"leader    {address} for clients" in text
    assert "gowork add 'some work' --wait" in text
    assert f"tasks     kept in {tmp_path / 'gowork.db'}\n" in text


@pytest.mark.longer
@pytest.mark.parametrize(
    ("options", "variables"), [(["--log-format", "json"], {}), ([], {"GOWORK_LOG_FORMAT": "json"})]
)
def test_leader_and_workers_log_in_the_form_that_is_asked_for(
    up_in, tmp_path: Path, options: list[str], variables: dict[str, str]
) -> None:
    with up_in(tmp_path, "--log-level", "info", *options, **variables) as up:
        up.stop()
        entries = [json.loads(line) for line in up.process.stderr]
    assert {"store opened", "session open"} <= {entry["event"] for entry in entries}
    assert "worker-1" in {entry.get("worker") for entry in entries}


def test_workers_log_of_a_failure_what_is_asked_for(up_in, invoke, tmp_path: Path) -> None:
    (tmp_path / "cli_test_fails.py").write_text(
        "from gowork.worker import handler\n\n@handler\ndef fails():\n    raise ValueError('private')\n"
    )
    with up_in(tmp_path, "--import", "cli_test_fails", "--log-format", "json", "--log-failures", "type") as up:
        invoke(["--leader", up.scheduler, "add", "x", "--handler", "fails", "--wait"])
        up.stop()
        entries = [json.loads(line) for line in up.process.stderr]
    assert [entry["error"] for entry in entries if entry["event"] == "attempt failed"] == ["ValueError"]
    assert "private" not in json.dumps(entries)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (None, "No module named 'cli_test_broken'"),
        ("import no_such_thing\n", "cli_test_broken.py:1"),
        ("x = 1\ndef f(:\n", "cli_test_broken.py, line 2"),
    ],
)
def test_an_import_that_does_not_load_ends_it_with_1_and_names_the_line(
    tmp_path: Path, source: str | None, words: str
) -> None:
    if source is not None:
        (tmp_path / "cli_test_broken.py").write_text(source)
    done = subprocess.run(
        [sys.executable, "-m", "gowork", "up", *FREE_PORTS, "--data-dir", "data", "--import", "cli_test_broken"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
    error = done.stderr.splitlines()[-1]
    assert error.startswith("gowork: --import cli_test_broken does not load: ")
    assert words in error


HALF_USABLE = """
from gowork.worker import handler

@handler
def usable(n: int) -> int:
    return n + 1

@handler
def unusable(a, b, c): ...
"""


def test_a_module_with_a_handler_that_is_unusable_is_run_for_the_others(up_in, invoke, tmp_path: Path) -> None:
    (tmp_path / "cli_test_half.py").write_text(HALF_USABLE)
    with up_in(tmp_path, "--import", "cli_test_half", "--log-level", "error") as up:
        assert invoke(["--leader", up.scheduler, "add", "1", "--handler", "usable", "--wait"]).stdout == "2\n"
        up.stop()
        (told,) = [line for line in up.process.stderr if line.startswith("gowork: --import")]
    assert told.startswith("gowork: --import cli_test_half: HandlerDefinitionError: handler 'unusable' takes (a, b, c)")
    assert told.endswith("; its other handlers are offered\n")


def test_of_the_installed_plugins_those_that_are_named_alone_are_loaded(up_in, tmp_path: Path) -> None:
    with up_in(tmp_path, "--plugin", "echo", "--plugin", "python") as up:
        with Client(up.scheduler, keys="") as client:
            (member,) = client.members()
        up.stop()
    assert {plugin.name for plugin in member.plugins} == {"echo", "python", "cli_test_handlers"}


def test_an_interrupt_while_it_starts_exits_with_130(tmp_path: Path) -> None:
    (tmp_path / "cli_test_slow.py").write_text("print('begun', flush=True)\nimport signal\nsignal.pause()\n")
    with subprocess.Popen(
        [sys.executable, "-m", "gowork", "up", *FREE_PORTS, "--data-dir", "data", "--import", "cli_test_slow"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        while "begun" not in (line := process.stderr.readline()):
            assert line
        processes = family(process.pid)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130
    assert "Traceback" not in rest
    _, alive = psutil.wait_procs(processes, timeout=GONE_S)
    assert not alive


def test_output_that_nobody_reads_ends_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        for _ in range(2):
            _write(b"heard\n")
