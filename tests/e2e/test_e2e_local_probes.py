"""Leader and worker are asked on their own machine, and tell a service manager how they are."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from clusters import COMMANDS, RunningLeader, kill, start_leader, start_worker, stopped_cleanly

PATIENCE = 120.0
#: Names that no other process of this machine has, because all of them are asked.
LEADER, WORKER = (f"{role}-{uuid.uuid4().hex}" for role in ("leader", "worker"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What RUNTIME_DIRECTORY names for all processes of a test."""
    with tempfile.TemporaryDirectory(prefix="gowork-") as folder:
        run = Path(folder, "run")
        run.mkdir()
        monkeypatch.setenv("RUNTIME_DIRECTORY", str(run))
        # Leaders and workers of other tests are asked where temporary files are.
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
        yield run


def asked(command: str, *options: str, check: str = "--check") -> tuple[int, str]:
    """What `--check` ends with, and its one line."""
    done = subprocess.run([str(COMMANDS / command), check, *options], capture_output=True, text=True, timeout=PATIENCE)
    said = done.stdout + done.stderr
    assert said.count("\n") == 1, said
    assert (done.stdout == "") == bool(done.returncode)
    return done.returncode, said.rstrip("\n")


@pytest.fixture
def leader(tmp_path: Path, run: Path) -> Iterator[RunningLeader]:
    leader = start_leader(tmp_path, more=["--name", LEADER])
    yield leader
    kill(leader.process)


def test_a_leader_and_a_worker_are_asked_without_their_options(
    tmp_path: Path, leader: RunningLeader, run: Path
) -> None:
    with stopped_cleanly(start_worker(tmp_path, leader, "--name", WORKER)):
        assert asked("gowork-leader") == (0, "ready")
        assert asked("gowork-leader", "--name", LEADER) == (0, "ready")
        assert asked("gowork-leader", check="--check=alive") == (0, "alive")
        assert asked("gowork-worker") == (0, "ok")
        code, said = asked("gowork-leader", "--name", "nobody-has-it")
        assert (code, said) == (1, "no leader with the name 'nobody-has-it' runs here")
    assert asked("gowork-worker", "--name", WORKER) == (1, f"no worker with the name '{WORKER}' runs here")
    kill(leader.process)
    # By its name, because another one may run on this machine.
    assert asked("gowork-leader", "--name", LEADER) == (1, f"no leader with the name '{LEADER}' runs here")
    # The leader was killed, and could not remove its socket.
    assert [path.name.partition("-")[0] for path in run.iterdir()] == ["leader"]


def test_the_options_of_the_instance_may_be_given_too(tmp_path: Path, leader: RunningLeader) -> None:
    same = ["--name", LEADER, f"--store=sqlite:///{tmp_path}/leader.db", "--http-listen", leader.http]
    assert asked("gowork-leader", *same) == (0, "ready")


class Manager:
    """What systemd hears of one process."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.settimeout(PATIENCE)

    def until(self, wanted: str) -> list[str]:
        """All lines up to one that begins so."""
        lines: list[str] = []
        while not any(line.startswith(wanted) for line in lines):
            lines += self._socket.recv(4096).decode().splitlines()
        return lines

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(run: Path) -> Iterator[Manager]:
    manager = Manager(run)
    yield manager
    manager.close()


def begun(command: str, *options: str, manager: Manager, folder: Path) -> subprocess.Popen[str]:
    """A process as systemd starts it: through a command that becomes it, so that WATCHDOG_PID is its own."""
    script = 'WATCHDOG_PID=$$ exec "$0" "$@"'
    variables = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "400000"}
    with (folder / f"{command}.log").open("a") as log:
        return subprocess.Popen(
            ["/bin/sh", "-c", script, str(COMMANDS / command), *options],
            env={**os.environ, **variables},
            stdout=log,
            stderr=log,
            text=True,
        )


FREE: Sequence[str] = [f"--{name}-listen=127.0.0.1:0" for name in ("cluster", "scheduler", "http")]


def test_a_leader_tells_when_it_is_ready_that_its_loop_turns_and_that_it_stops(
    tmp_path: Path, manager: Manager
) -> None:
    process = begun("gowork-leader", *FREE, "--data-dir", str(tmp_path), manager=manager, folder=tmp_path)
    with stopped_cleanly(process):
        assert manager.until("READY=1")
        assert "WATCHDOG=1" in manager.until("WATCHDOG=1")
        process.send_signal(signal.SIGTERM)
        manager.until("STOPPING=1")
        assert process.wait(PATIENCE) == 0


def test_a_leader_that_makes_its_store_from_a_backup_says_so_before_it_is_ready(
    tmp_path: Path, leader: RunningLeader, manager: Manager
) -> None:
    backup = tmp_path / "b.backup"
    ask = [str(COMMANDS / "gowork"), "--leader", leader.scheduler, "store", "backup", str(backup)]
    subprocess.run(ask, check=True, timeout=PATIENCE)
    options = ["--data-dir", str(tmp_path), "--restore", str(backup)]
    process = begun("gowork-leader", *FREE, *options, manager=manager, folder=tmp_path)
    with stopped_cleanly(process):
        told = manager.until("READY=1")
        assert told[:2] == ["EXTEND_TIMEOUT_USEC=30000000", "STATUS=makes the store from the backup"]


def test_a_leader_that_waits_for_the_log_says_so_and_asks_for_more_time(tmp_path: Path, manager: Manager) -> None:
    options = ["--data-dir", str(tmp_path), "--log=etcd://127.0.0.1:1/gowork"]
    process = begun("gowork-leader", *FREE, *options, manager=manager, folder=tmp_path)
    with stopped_cleanly(process):
        told = manager.until("STATUS=the log can't be reached")
        told += manager.until("EXTEND_TIMEOUT_USEC=")
        assert "READY=1" not in told
        code, said = asked("gowork-leader")
        assert code == 1
        assert said.startswith("the log can't be reached")


def test_a_worker_is_ready_with_a_session_and_says_that_it_stops(
    tmp_path: Path, leader: RunningLeader, manager: Manager
) -> None:
    cluster, scheduler, http = leader.cluster, leader.scheduler, leader.http
    kill(leader.process)
    process = begun("gowork-worker", f"--leader={cluster}", "--runners=1", manager=manager, folder=tmp_path)
    with stopped_cleanly(process):
        told = manager.until("STATUS=no session with a leader")
        assert "READY=1" not in told
        assert asked("gowork-worker") == (1, "no session with a leader")
        with stopped_cleanly(start_leader(tmp_path, cluster, scheduler, http).process):
            told += manager.until("READY=1")
            assert "STATUS=ok" in told
            assert manager.until("WATCHDOG=1")
            process.send_signal(signal.SIGTERM)
            manager.until("STOPPING=1")
            assert process.wait(PATIENCE) == 0
