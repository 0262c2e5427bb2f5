"""The unix socket for probes: where it is, who is found there, and what is said when nobody answers."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gowork.base import local_probes
from gowork.base.local_listener import LocalListener
from gowork.base.local_probes import PATH_BYTES_MAX, check, is_plain_check, prefix_of, short_path

PATIENCE = 60.0
#: In a test nothing else on the machine is found.
NOWHERE = "no worker runs here"


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that turns in another thread, as a process's does."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that systemd makes for the process."""
    directory = tmp_path / "run"
    directory.mkdir(mode=0o700)
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(directory))
    # Whatever else runs on this machine is in none of these.
    monkeypatch.setattr(local_probes, "_own_in", lambda directory: directory / "gowork-of-this-test" / "probes")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return directory


def listening(
    loop: asyncio.AbstractEventLoop, name: str = "a", answer: tuple[bool, str] = (True, "ready")
) -> LocalListener:
    return LocalListener("worker", name, lambda: answer, loop)


def left_behind(directory: Path, name: str = "gone") -> Path:
    """A socket whose owner was killed a while ago."""
    path = directory / f"{prefix_of('worker', name)}0.sock"
    with socket.socket(socket.AF_UNIX) as owner, short_path(path) as short:
        owner.bind(short)
    os.utime(path, (0, 0))
    return path


@pytest.mark.parametrize("answer", [(True, "ready"), (False, "no session with a leader")])
def test_the_answer_and_the_words_are_the_process_s_own(
    loop: asyncio.AbstractEventLoop, answer: tuple[bool, str]
) -> None:
    with listening(loop, answer=answer):
        assert check("worker") == answer
        assert check("worker", "a", "alive") == (True, "alive")


def test_only_the_user_may_connect_and_nothing_is_left_behind(loop: asyncio.AbstractEventLoop, run: Path) -> None:
    with listening(loop):
        (path,) = run.iterdir()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(run.iterdir()) == []
    assert check("worker")[0] is False


def test_metrics_are_not_served_there(loop: asyncio.AbstractEventLoop) -> None:
    with listening(loop) as listener, socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(PATIENCE)
        assert listener.path is not None
        with short_path(listener.path) as path:
            caller.connect(path)
        caller.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert caller.recv(4096).startswith(b"HTTP/1.1 404 ")


def test_what_was_left_behind_is_passed_over_and_removed(loop: asyncio.AbstractEventLoop, run: Path) -> None:
    path = left_behind(run)
    assert not check("worker")[0]
    with listening(loop):
        assert not path.exists()
        assert check("worker") == (True, "ready")


def test_the_old_socket_of_another_process_stays_and_its_connection_is_closed(
    loop: asyncio.AbstractEventLoop, run: Path
) -> None:
    with listening(loop, "a") as older:
        assert older.path is not None
        os.utime(older.path, (0, 0))
        with listening(loop, "b"):
            # A connection that was left open is a warning, which fails the test.
            gc.collect()
            assert older.path.exists()


def test_a_new_socket_whose_owner_does_not_listen_yet_is_left(loop: asyncio.AbstractEventLoop, run: Path) -> None:
    path = left_behind(run)
    now = time.time()
    os.utime(path, (now, now))
    with listening(loop):
        assert path.exists()


def test_several_are_told_apart_by_their_names(loop: asyncio.AbstractEventLoop) -> None:
    with listening(loop, "a"), listening(loop, "b", (False, "draining")):
        good, words = check("worker")
        assert not good
        assert words == f"2 workers run here, processes {os.getpid()}, {os.getpid()}; say which by --name"
        assert check("worker", "a") == (True, "ready")
        assert check("worker", "b") == (False, "draining")
        assert check("worker", "c") == (False, "no worker with the name 'c' runs here")


def test_a_leader_is_no_worker(loop: asyncio.AbstractEventLoop) -> None:
    with LocalListener("leader", "a", lambda: (True, "ready"), loop):
        assert check("worker", "a")[0] is False
        assert check("leader", "a") == (True, "ready")


def test_a_path_that_is_too_long_for_the_system_does(
    loop: asyncio.AbstractEventLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 200)
    deep.mkdir(mode=0o700)
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(deep))
    with listening(loop) as listener:
        assert len(os.fsencode(listener.path or "")) > PATH_BYTES_MAX
        assert check("worker", "a") == (True, "ready")
    assert list(deep.iterdir()) == []


def test_the_next_directory_is_taken_when_one_can_t_be_written(
    loop: asyncio.AbstractEventLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = tmp_path / "session"
    session.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(session))
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "gone"))
    with listening(loop) as listener:
        assert listener.path is not None
        assert listener.path.parent == session / "gowork"
        assert stat.S_IMODE(listener.path.parent.stat().st_mode) == 0o700
        assert check("worker", "a") == (True, "ready")


def test_a_process_starts_where_no_socket_can_be_made_and_says_why(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # No user may make anything there, not even root.
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/proc/gowork")
    monkeypatch.setattr(local_probes, "_own_in", lambda _: Path("/proc/gowork/probes"))
    with caplog.at_level(logging.WARNING), listening(loop) as listener:
        assert listener.path is None
    (record,) = caplog.records
    assert record.getMessage() == "can't be asked by --check"
    assert "/proc/gowork" in vars(record)["reason"]


def test_a_machine_where_nothing_can_be_written_is_no_error(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere() -> str:
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    monkeypatch.setattr(local_probes, "_TEMPORARY", Path("/proc/gowork"))
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/proc/gowork")
    with listening(loop) as listener:
        assert listener.path is None
        assert check("worker", "a") == (False, "no worker with the name 'a' runs here")


def test_a_directory_that_others_may_write_to_is_not_used(
    loop: asyncio.AbstractEventLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/proc/gowork")
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    monkeypatch.setattr(local_probes, "_own_in", lambda _: shared / "probes")
    with listening(loop) as listener:
        assert listener.path is None


def test_another_user_s_directory_among_temporary_files_is_not_believed(
    loop: asyncio.AbstractEventLoop, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening(loop):
        monkeypatch.delenv("RUNTIME_DIRECTORY")
        monkeypatch.setattr(local_probes, "_own_in", lambda _: run)
        assert check("worker", "a") == (True, "ready")
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        assert check("worker", "a") == (False, "no worker with the name 'a' runs here")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_user_who_may_not_ask_is_told_so(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> None:
    program = """
import os, sys
from gowork.base import local_probes
local_probes._own_in = lambda directory: directory / "nothing"
os.setgroups([]); os.setgid(65534); os.setuid(65534)
local_probes.check_and_exit("worker", "a")
"""
    with listening(loop):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert "no worker with the name 'a' can be asked by this user: " in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_process_that_does_not_answer_is_told_so(
    loop: asyncio.AbstractEventLoop, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_probes, "ANSWER_SECONDS", 0.05)
    with socket.socket(socket.AF_UNIX) as owner, short_path(run / f"{prefix_of('worker', 'a')}0.sock") as path:
        owner.bind(path)
        owner.listen()
        assert check("worker", "a") == (False, "the worker has not answered for 0.05 s")


def test_a_process_that_ends_meanwhile_is_told_so(run: Path) -> None:
    with socket.socket(socket.AF_UNIX) as owner, short_path(run / f"{prefix_of('worker', 'a')}0.sock") as path:
        owner.bind(path)
        owner.listen()

        def end() -> None:
            owner.accept()[0].close()

        ending = threading.Thread(target=end)
        ending.start()
        good, words = check("worker", "a")
        ending.join()
    assert not good
    assert words.startswith("the worker ended before it answered")


@pytest.mark.parametrize(
    ("arguments", "variables", "whether"),
    [
        (["--check"], {}, True),
        (["--check"], {"GOWORK_NAME": "a", "GOWORK_LOG": "etcd://a/b"}, True),
        (["--check"], {"GOWORK_CONFIG": "/etc/gowork/leader.toml"}, False),
        (["--check"], {"GOWORK_CHECK": "alive"}, False),
        (["--check=alive"], {}, False),
        (["--check", "--name", "a"], {}, False),
        ([], {}, False),
    ],
)
def test_a_plain_check_is_known_without_the_program(
    arguments: list[str], variables: dict[str, str], whether: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOWORK_CONFIG", "GOWORK_CHECK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_plain_check(arguments) is whether


def test_the_question_loads_neither_grpc_nor_the_listener() -> None:
    program = (
        "import sys, gowork.base.local_probes; sys.exit(bool({'grpc', 'click', 'gowork.base.http'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=PATIENCE).returncode == 0
