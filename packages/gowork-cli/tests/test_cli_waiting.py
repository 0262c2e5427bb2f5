"""What is said while tasks are waited for."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from gowork.cli.waiting import telling, wait_telling
from gowork.client import CallError, Explanation, TaskInfo, TaskNotFinished, TaskStatus, WaitCode, WaitReason


class FakeClient:
    """A leader with a task that no worker has a handler for."""

    def __init__(self, *, fails: int = 0, handlers: tuple[str, ...] = ()) -> None:
        self.fails = fails
        self.handlers = handlers
        self.asked = threading.Event()

    def explain(self, id: str) -> Explanation:
        if self.fails:
            self.fails -= 1
            raise CallError("not now")
        reason = WaitReason(WaitCode.NO_HANDLER, "no worker has the handler 'doubel'", "", None)
        return Explanation(id, TaskStatus.PENDING, (reason,), (), 0)

    def members(self) -> list[object]:
        return [SimpleNamespace(handlers=self.handlers)] if self.handlers else []

    def get(self, id: str) -> TaskInfo:
        self.asked.set()
        return TaskInfo(id, TaskStatus.PENDING, handler="doubel")


@pytest.mark.parametrize("fails", [0, 2])
def test_why_a_task_is_not_started_is_told_once_it_is_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fails: int
) -> None:
    monkeypatch.setattr("gowork.cli.waiting.QUIET_S", 0.001)
    client = FakeClient(fails=fails)
    # Nothing is scheduled yet when it is looked for the first time.
    ids = iter(["", *["t"] * 10])
    with telling(client, lambda: next(ids)):  # type: ignore[arg-type]
        assert client.asked.wait(120)
    assert capsys.readouterr().err == "gowork: t waits: no worker has the handler 'doubel'\n"


def test_a_handler_that_a_member_has_is_not_called_mistyped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gowork.cli.waiting.QUIET_S", 0.001)
    client = FakeClient(handlers=("double", "doubel"))
    with telling(client, lambda: "t"):  # type: ignore[arg-type]
        assert client.asked.wait(120)
    assert capsys.readouterr().err == "gowork: t waits: no worker has the handler 'doubel'\n"


def test_nothing_is_told_of_what_ends_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    client = FakeClient()
    with telling(client, lambda: "t"):  # type: ignore[arg-type]
        pass
    assert not client.asked.is_set()
    assert capsys.readouterr().err == ""


class Waited:
    """A leader with a task that does not end, whose reasons to wait are given; time passes only while it is waited."""

    def __init__(self, reasons: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.reasons = reasons
        self.waits: list[float] = []
        self._now = 0.0
        monkeypatch.setattr("gowork.cli.waiting.time", SimpleNamespace(monotonic=lambda: self._now))

    def handle(self, id: str) -> str:
        return id

    def wait(self, ids: list[str], timeout: float) -> list[TaskInfo]:
        self.waits.append(timeout)
        self._now += timeout
        if not self.reasons:
            return [TaskInfo(id, TaskStatus.COMPLETED) for id in ids]
        raise TaskNotFinished(ids=ids)

    def explain(self, id: str) -> Explanation:
        reason = WaitReason(WaitCode.NO_SLOT, self.reasons.pop(0), "", None)
        return Explanation(id, TaskStatus.PENDING, (reason,), (), 0)


def test_why_a_task_waits_is_told_when_it_is_another_thing_and_asked_more_and_more_seldom(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = Waited(["busy", "busy", *["pau\x07sed"] * 7], monkeypatch)
    (task,) = wait_telling(client, ["t"], None)  # type: ignore[arg-type]
    assert task.status is TaskStatus.COMPLETED
    assert client.waits == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    busy, paused = capsys.readouterr().err.splitlines()
    assert busy == "gowork: t waits: busy"
    assert paused.startswith("gowork: t waits: pau")
    assert "\x07" not in paused


def test_a_wait_ends_with_its_timeout(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    client = Waited(["busy"] * 9, monkeypatch)
    with pytest.raises(TaskNotFinished):
        wait_telling(client, ["t"], 5.0)  # type: ignore[arg-type]
    assert client.waits == [1, 2, 2]
    assert capsys.readouterr().err == "gowork: t waits: busy\n"
