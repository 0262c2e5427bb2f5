"""What systemd is told: when a process is ready, how it is, that its loop turns, and that it stops."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gowork.base import service_manager
from gowork.base.service_manager import STATUS_CHARACTERS_MAX, ServiceManager

PATIENCE = 60.0


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_manager, "LOOK_SECONDS", 0.01)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, because a socket's may not be long."""
    with tempfile.TemporaryDirectory(prefix="gowork-") as folder:
        yield Path(folder)


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, folder: Path) -> Iterator[tuple[socket.socket, str]]:
    """What systemd listens on, and NOTIFY_SOCKET."""
    target = str(folder / "notify") if request.param == "path" else f"@gowork-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(target.replace("@", "\0"))
        listening.setblocking(False)
        yield listening, target


async def heard(listening: socket.socket) -> list[str]:
    """The lines of the next message."""
    async with asyncio.timeout(PATIENCE):
        return (await asyncio.get_running_loop().sock_recv(listening, 4096)).decode().splitlines()


async def until(listening: socket.socket, line: str) -> list[list[str]]:
    """The messages up to the one with this line."""
    messages = [await heard(listening)]
    while line not in messages[-1]:
        messages.append(await heard(listening))
    return messages


async def test_it_is_ready_when_the_probe_says_so_and_asks_for_time_until_then(
    manager: tuple[socket.socket, str],
) -> None:
    listening, target = manager
    state = [(False, "takes a copy of the store")]
    async with ServiceManager(target).telling(lambda: state[-1]):
        assert await heard(listening) == ["EXTEND_TIMEOUT_USEC=30000000", "STATUS=takes a copy of the store"]
        assert await heard(listening) == ["EXTEND_TIMEOUT_USEC=30000000"]
        state.append((True, "ready"))
        before = await until(listening, "READY=1")
        assert before[-1] == ["READY=1", "STATUS=ready"]
        assert {line for message in before[:-1] for line in message} <= {"EXTEND_TIMEOUT_USEC=30000000"}
        # It can't be taken back.
        state.append((False, "no session with a leader"))
        assert await heard(listening) == ["STATUS=no session with a leader"]
    assert await heard(listening) == ["STOPPING=1"]


async def test_it_says_that_it_stops_as_soon_as_it_is_asked_to_and_once(manager: tuple[socket.socket, str]) -> None:
    listening, target = manager
    stopped, begun = asyncio.Event(), ServiceManager(target, 60.0)
    async with begun.telling(lambda: (True, "ready"), stopped.is_set):
        await until(listening, "READY=1")
        stopped.set()
        await until(listening, "STOPPING=1")
        # While it stops, its loop still turns.
        assert await heard(listening) == ["WATCHDOG=1"]
    listening.setblocking(False)
    rest = []
    try:
        while True:
            rest.append(listening.recv(4096))
    except BlockingIOError:
        pass
    assert b"STOPPING=1" not in rest


async def test_the_watchdog_hears_of_it_from_the_loop_in_half_of_its_time(
    manager: tuple[socket.socket, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    listening, target = manager
    monkeypatch.setattr(service_manager, "LOOK_SECONDS", 3600.0)
    async with ServiceManager(target, 0.02).telling(lambda: (True, "ready")):
        assert "WATCHDOG=1" in await heard(listening)
        assert await heard(listening) == ["WATCHDOG=1"]


def test_the_variables_are_taken_so_that_no_child_speaks_for_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "@x")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    assert ServiceManager.of_environment()._watchdog_seconds == 3.0
    assert not {"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"} & os.environ.keys()


@pytest.mark.parametrize(
    "variables",
    [
        {"WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": ""},
        {"NOTIFY_SOCKET": ""},
    ],
)
def test_a_watchdog_that_is_another_process_s_or_none_is_not_fed(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "3000000"} | variables).items():
        monkeypatch.setenv(name, value)
    assert ServiceManager.of_environment()._watchdog_seconds is None


@pytest.mark.parametrize("target", ["", "vsock:2:1234"])
async def test_nothing_is_told_where_nobody_is_named_that_can_be_told(target: str) -> None:
    async with ServiceManager(target).telling(lambda: (True, "ready")):
        pass


async def test_a_manager_that_is_gone_is_logged_once_and_told_when_it_is_back(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = asyncio.Event()
    looks = []

    def ready() -> tuple[bool, str]:
        looks.append(1)
        if len(looks) > 3:
            asked.set()
        return True, "ready"

    with caplog.at_level(logging.WARNING):
        async with ServiceManager(str(folder / "notify")).telling(ready):
            async with asyncio.timeout(PATIENCE):
                await asked.wait()
            assert [record.getMessage() for record in caplog.records] == ["service manager can't be told"]
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
                listening.bind(str(folder / "notify"))
                listening.setblocking(False)
                assert await heard(listening) == ["READY=1", "STATUS=ready"]


async def test_a_status_is_one_line_of_bounded_length(manager: tuple[socket.socket, str]) -> None:
    listening, target = manager
    async with ServiceManager(target).telling(lambda: (True, "x\nSTOPPING=1 " + "y" * 5000)):
        ready, status = await heard(listening)
    assert (ready, status[:20]) == ("READY=1", "STATUS=x STOPPING=1 ")
    assert len(status) == len("STATUS=") + STATUS_CHARACTERS_MAX
