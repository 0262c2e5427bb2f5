"""A handler that waits for other tasks keeps its slot: it is said when that lasts."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from gowork.client import _waits
from gowork.client._waits import Wait
from gowork.rpc import running


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
    settings: Any = SimpleNamespace(timeout=60.0)
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
