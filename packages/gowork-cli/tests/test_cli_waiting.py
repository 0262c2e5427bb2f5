"""What is said while tasks are waited for."""

from __future__ import annotations

import threading

import pytest

from gowork.cli.waiting import telling
from gowork.client import CallError, Explanation, TaskInfo, TaskStatus, WaitCode, WaitReason


class FakeClient:
    """A leader with a task that no worker has a handler for."""

    def __init__(self, *, fails: int = 0) -> None:
        self.fails = fails
        self.asked = threading.Event()

    def explain(self, id: str) -> Explanation:
        if self.fails:
            self.fails -= 1
            raise CallError("not now")
        reason = WaitReason(WaitCode.NO_HANDLER, "no worker has the handler 'doubel'", "", None)
        return Explanation(id, TaskStatus.PENDING, (reason,), (), 0)

    def members(self) -> list[object]:
        return []

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


def test_nothing_is_told_of_what_ends_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    client = FakeClient()
    with telling(client, lambda: "t"):  # type: ignore[arg-type]
        pass
    assert not client.asked.is_set()
    assert capsys.readouterr().err == ""
