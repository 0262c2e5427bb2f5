"""The hooks of a runner's start and end: their order, their time, and what a failure of theirs does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.worker import handler, hookimpl
from gowork.worker._core import runner_hooks
from gowork.worker._core.context import Place
from gowork.worker._core.plugins import Loaded, load
from gowork.worker._core.selection import Selection
from gowork.worker._runner.executor import Executor
from gowork.worker._runner.main import ready_of
from gowork.worker._runner.table import SlotTable


@handler
def mine() -> None: ...


def loaded_with(**plugins: object) -> Loaded:
    """The built-in plugin, which has the default handler, and these."""
    loaded = load(Selection(plugins=("echo",)), [mine])
    for name, plugin in plugins.items():
        loaded.hooks.register(plugin, name)
    return loaded


class Noting:
    """Notes when its hooks are called."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self._name = name
        self._notes = notes

    @hookimpl
    def gowork_runner_started(self, state: Any) -> None:
        state.started = self._name
        self._notes.append(f"+{self._name}")

    @hookimpl
    def gowork_runner_stopping(self) -> None:
        self._notes.append(f"-{self._name}")


class NotingAsync(Noting):
    """Does so after an await."""

    @hookimpl
    async def gowork_runner_started(self, state: Any) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        super().gowork_runner_started(state)

    @hookimpl
    async def gowork_runner_stopping(self) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        super().gowork_runner_stopping()


async def test_plugins_start_in_order_and_stop_in_reverse() -> None:
    notes: list[str] = []
    doing: list[str] = []
    state = SimpleNamespace()
    loaded = loaded_with(a=Noting("a", notes), b=NotingAsync("b", notes), c=Noting("c", notes))
    assert await runner_hooks.call_started(loaded, state, doing.append) is loaded
    assert doing == [f"calling gowork_runner_started of {name}" for name in "abc"]
    await runner_hooks.call_stopping(loaded, state)
    assert (notes, state.started) == (["+a", "+b", "+c", "-c", "-b", "-a"], "c")


async def hangs() -> None:
    await asyncio.Event().wait()


def exits() -> None:
    raise SystemExit(3)


async def fails() -> None:
    await asyncio.sleep(0)
    raise OSError("no database")


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (hangs, "TimeoutError: it was not done within 0.01 s"),
        (exits, "SystemExit: 3"),
        (fails, "OSError: no database"),
    ],
    ids=["hangs", "exits", "fails"],
)
async def test_a_plugin_that_cannot_start_is_refused_and_no_other(
    start: Callable[[], Any], reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runner_hooks, "STARTED_SECONDS_MAX", 0.01)
    notes: list[str] = []
    broken = SimpleNamespace(
        gowork_runner_started=hookimpl(start),
        gowork_runner_stopping=hookimpl(lambda: notes.append("stopping")),
        gowork_around_task=hookimpl(lambda: notes.append("around")),
    )
    # The plugin of the default handler.
    loaded = load(Selection(plugins=("echo",)), [mine])
    loaded.hooks.unregister(name="echo")
    loaded.hooks.register(broken, "echo")
    loaded.hooks.register(Noting("good", notes), "good")
    left = await runner_hooks.call_started(loaded, SimpleNamespace(), print)
    assert (set(left.handlers), left.default, set(left.refused)) == ({"mine"}, None, {"echo", ""})
    (error,) = left.errors
    assert error.plugin == "echo"
    assert error.reason.startswith(f"gowork_runner_started: {reason}")
    (info,) = [each for each in left.plugins if each.name == "echo"]
    assert (list(info.handlers), list(info.errors)) == ([], [error.reason])
    assert ready_of(left).plugin_errors == (str(error),)
    await runner_hooks.call_stopping(left, SimpleNamespace())
    assert notes == ["+good", "-good"]
    assert not left.hooks.hook.gowork_around_task.get_hookimpls()
    assert [vars(record)["plugin"] for record in caplog.records] == ["echo"]


async def test_a_fault_at_the_end_keeps_no_other_plugin_from_its_own(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runner_hooks, "STOPPING_SECONDS_MAX", 0.01)
    notes: list[str] = []
    plugins = {
        name: SimpleNamespace(gowork_runner_stopping=hookimpl(function))
        for name, function in {"hangs": hangs, "exits": exits, "fails": fails}.items()
    }
    await runner_hooks.call_stopping(loaded_with(first=Noting("a", notes), **plugins), SimpleNamespace())
    assert notes == ["-a"]
    assert [vars(record)["plugin"] for record in caplog.records] == ["fails", "exits", "hangs"]


@pytest.mark.parametrize("call", ["start", "stop"])
async def test_a_runner_that_is_to_stop_waits_for_no_hook(call: str) -> None:
    begun = asyncio.Event()

    async def waits() -> None:
        begun.set()
        await asyncio.Event().wait()

    loaded = loaded_with(
        slow=SimpleNamespace(gowork_runner_started=hookimpl(waits), gowork_runner_stopping=hookimpl(waits))
    )

    async def run() -> None:
        if call == "start":
            await runner_hooks.call_started(loaded, SimpleNamespace(), print)
        else:
            await runner_hooks.call_stopping(loaded, SimpleNamespace())

    task = asyncio.create_task(run())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_tasks_of_a_plugin_that_could_not_start_go_back(make_rig: Any) -> None:
    loaded = loaded_with()
    loaded.hooks.unregister(name="echo")
    loaded.hooks.register(SimpleNamespace(gowork_runner_started=hookimpl(fails)), "echo")
    left = await runner_hooks.call_started(loaded, SimpleNamespace(), print)
    rig = make_rig()
    rig.executor = Executor(left, Place("w"), SlotTable.private(1), rig.outbox, lambda *_: None, print, print, print)
    rig.feed((1, "echo", "x"), (2, "", "x"), (3, "absent", "x"))
    for fence in (1, 2):
        report = await rig.report(fence)
        assert report.outcome == tasks.ATTEMPT_OUTCOME_INTERRUPTED
        assert "no database" in report.reason
    assert (await rig.report(3)).failure.kind == tasks.FAILURE_KIND_REJECTED
