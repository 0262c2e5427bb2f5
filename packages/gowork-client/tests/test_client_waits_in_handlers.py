"""A handler that waits for other tasks keeps its slot: it is said when that lasts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from gowork.base import running
from gowork.client import _waits
from gowork.client._async import streams as async_streams
from gowork.client._calls import CallSettings
from gowork.client._sync import streams
from gowork.client._waits import Wait


class Expired(grpc.RpcError):
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.fixture(autouse=True)
def nobody_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_waits, "_warned", set())


@pytest.fixture
def inside() -> Iterator[None]:
    """As within a handler."""
    token = running.attempt.set(SimpleNamespace(id="parent-1", handler="parent"))
    yield
    running.attempt.reset(token)


def a_wait(end: float | None = None) -> Wait[Any]:
    settings = CallSettings.of("127.0.0.1:1", None, 60.0, None)
    return Wait(settings, [SimpleNamespace(id="child-1")], end)


def test_a_long_wait_within_a_handler_is_said_once_for_each_handler(
    inside: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert a_wait().timeout() == _waits.LONG_WAIT_SECONDS
    monkeypatch.setattr(_waits, "LONG_WAIT_SECONDS", 0.0)
    with caplog.at_level(logging.WARNING, "gowork.client"):
        for _ in range(2):
            wait = a_wait()
            assert wait.pause_after(Expired()) == 0.0
            wait.pause_after(Expired())
            assert wait.timeout() == 60.0
    (record,) = caplog.records
    said = vars(record)
    assert (said["handler"], said["task_id"], said["waits_for"]) == ("parent", "parent-1", "child-1")


def test_a_short_wait_within_a_handler_is_not_said(inside: None, caplog: pytest.LogCaptureFixture) -> None:
    a_wait().pause_after(Expired())
    assert not caplog.records


def test_a_wait_of_a_program_is_no_handler_s(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    assert a_wait().timeout() == 60.0
    monkeypatch.setattr(_waits, "LONG_WAIT_SECONDS", 0.0)
    a_wait().pause_after(Expired())
    assert not caplog.records


class Attempt:
    """As a worker's context: counts the waits that it is in, and keeps its slot if the test says so."""

    id, handler = "parent-1", "parent"

    def __init__(self, keeps_slot: bool = False) -> None:
        self.keeps_slot = keeps_slot
        self.waits = 0
        #: How many there were each time something was waited for.
        self.seen: list[int] = []

    @contextmanager
    def waiting(self) -> Iterator[None]:
        self.waits += 1
        try:
            yield
        finally:
            self.waits -= 1


@pytest.fixture
def attempt() -> Iterator[Attempt]:
    attempt = Attempt()
    token = running.attempt.set(attempt)
    yield attempt
    running.attempt.reset(token)


@pytest.mark.parametrize("keeps_slot", [True, False])
def test_a_long_wait_is_said_only_where_the_slot_is_kept(
    attempt: Attempt, keeps_slot: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    attempt.keeps_slot = keeps_slot
    monkeypatch.setattr(_waits, "LONG_WAIT_SECONDS", 0.0)
    a_wait().pause_after(Expired())
    assert len(caplog.records) == keeps_slot


@pytest.mark.parametrize("chunk_max", [9, 1])
def test_a_handler_waits_while_it_asks_for_the_next_task_and_not_while_it_works_on_one(
    attempt: Attempt, chunk_max: int
) -> None:
    handles = [SimpleNamespace(id=str(number)) for number in range(3)]

    class Stream:
        def __init__(self, chunk: list[Any]) -> None:
            self._chunk = chunk

        def __iter__(self) -> Iterator[list[Any]]:
            if chunk_max > 1:
                attempt.seen.append(attempt.waits)
            yield self._chunk

        def close(self) -> None:
            pass

    for _ in streams.merged(handles, chunk_max, Stream):  # type: ignore[arg-type]
        assert attempt.waits == 0
    assert attempt.seen == ([1] if chunk_max > 1 else [])
    assert attempt.waits == 0


@pytest.mark.parametrize("chunk_max", [9, 1])
async def test_an_async_handler_waits_while_it_asks_for_the_next_task_and_not_while_it_works_on_one(
    attempt: Attempt, chunk_max: int
) -> None:
    async def handles() -> AsyncIterator[Any]:
        for number in range(3):
            yield SimpleNamespace(id=str(number))

    async def stream(chunk: list[Any]) -> AsyncIterator[list[Any]]:
        await asyncio.sleep(0)
        attempt.seen.append(attempt.waits)
        yield chunk

    async for _ in async_streams.merged(handles(), chunk_max, stream):
        assert attempt.waits == 0
    assert 1 in attempt.seen
    assert attempt.waits == 0
