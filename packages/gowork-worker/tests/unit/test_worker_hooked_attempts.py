"""Attempts with hooks around them: what the hooks are told is what is reported, and whose exceptions count."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker import Context, handler, hookimpl
from gowork.worker._core.context import Place
from gowork.worker._core.plugins import load
from gowork.worker._core.selection import Selection
from gowork.worker._runner.executor import Executor
from gowork.worker._runner.messages import StopKind
from gowork.worker._runner.outcomes import STATUS
from gowork.worker._runner.table import SlotTable
from gowork.worker.testing import Fault, Outcome, Status, cancel, drain, run_handler

HANDLERS = """
import asyncio
from gowork.worker import Cancel, Retry, Snooze, WaitFor, handler

def end(how):
    match how:
        case "raises": raise ValueError("mine")
        case "retries": raise Retry(delay=1)
        case "snoozes": raise Snooze(delay=1)
        case "cancels": raise Cancel
        case "waits for others": return WaitFor([], then="next")
        case "returns what cannot be a result": return object()
        case "exits": raise SystemExit(1)
    return how

@handler
def plain(ctx, how: str):
    if how == "waits":
        ctx.cancelled.wait()
    if how == "ignores":
        ctx.progress(0.5)
    return end(how)

@handler
async def waits(ctx, how: str):
    if how == "waits":
        await asyncio.sleep(1e9)
    if how == "ignores":
        ctx.progress(0.5)
    return end(how)
"""
HOOKS = """
from contextlib import contextmanager
from gowork.worker import hookimpl
seen = []

@hookimpl
def gowork_around_task(ctx):
    seen.append(ctx.outcome)
    try:
        yield
    finally:
        # That a hook looks at the token makes no difference.
        bool(ctx.cancelled)
        seen.append(ctx.outcome)

@hookimpl
async def gowork_around_own_task(ctx):
    try:
        yield
    finally:
        seen.append("own " + ctx.outcome)
"""

Run = Callable[..., tuple[Outcome, list[str]]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs one of HANDLERS with hooks, and returns its outcome with what the hooks have seen."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(name: str, how: str, hooks: str = HOOKS, **options: Any) -> tuple[Outcome, list[str]]:
        sys.modules.pop("hooked_sample", None)
        (tmp_path / "hooked_sample.py").write_text(HANDLERS + hooks)
        # A file of the same second and length would be taken for the same.
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        outcome = run_handler(name, how, imports=["hooked_sample"], **options)
        return outcome, list(getattr(sys.modules["hooked_sample"], "seen", []))

    yield run
    sys.modules.pop("hooked_sample", None)


@pytest.mark.parametrize("name", ["plain", "waits"])
@pytest.mark.parametrize(
    ("how", "status", "faults"),
    [
        ("returns", Status.COMPLETED, []),
        ("raises", Status.FAILED, []),
        ("exits", Status.FAILED, []),
        ("retries", Status.FAILED, []),
        ("returns what cannot be a result", Status.FAILED, []),
        ("snoozes", Status.SNOOZED, []),
        ("cancels", Status.CANCELLED, []),
        ("waits for others", Status.WAITING, []),
        ("waits", Status.TIMED_OUT, []),
        ("waits", Status.CANCELLED, [cancel(after=1)]),
        ("waits", Status.INTERRUPTED, [drain(after=1)]),
        ("ignores", Status.COMPLETED, [cancel(at_progress=1)]),
    ],
)
def test_hooks_are_told_the_outcome_that_is_reported(
    run: Run, name: str, how: str, status: Status, faults: list[Fault]
) -> None:
    outcome, seen = run(name, how, faults=faults, time_limit=60)
    assert outcome.status is status
    assert seen == ["", f"own {status}", status]


def test_a_fault_of_a_hook_of_ones_own_is_the_attempts_and_counts_as_one(run: Run) -> None:
    hooks = (
        "from gowork.worker import hookimpl\nseen = []\n"
        "@hookimpl\ndef gowork_around_own_task(ctx):\n    yield\n    raise OSError('no room')\n"
        "@hookimpl\ndef gowork_around_task(ctx):\n"
        "    try:\n        yield\n    finally:\n        seen.append(ctx.outcome)\n"
    )
    for name in ("plain", "waits"):
        outcome, seen = run(name, "returns", hooks, max_attempts=2)
        assert outcome.failure is not None
        assert (outcome.failure.type, outcome.failure.message) == ("OSError", "no room")
        assert "the hook gowork_around_own_task of the plugin hooked_sample" in outcome.failure.traceback
        assert outcome.next.startswith("retry")
        assert seen == ["failed"]


@pytest.mark.parametrize("name", ["plain", "waits"])
def test_a_hook_of_ones_own_may_end_a_failure_well(run: Run, name: str) -> None:
    hooks = (
        "from gowork.worker import hookimpl\nseen = []\n"
        "@hookimpl\ndef gowork_around_own_task(ctx):\n"
        "    try:\n        yield\n    except ValueError:\n        ctx.schedule('look', handler='doctor')\n"
        "@hookimpl\ndef gowork_around_task(ctx):\n    yield\n    seen.append(ctx.outcome)\n"
    )
    outcome, seen = run(name, "raises", hooks)
    assert (outcome.result, seen) == (None, ["completed"])
    assert [task.handler for task in outcome._report.follow_ups] == ["doctor"]


@pytest.mark.parametrize("name", ["plain", "waits"])
@pytest.mark.parametrize("hook", ["gowork_around_own_task", "gowork_around_task"])
def test_what_a_hook_schedules_at_last_is_scheduled(run: Run, name: str, hook: str) -> None:
    hooks = f"from gowork.worker import hookimpl\n@hookimpl\ndef {hook}(ctx):\n    yield\n    ctx.schedule('x')\n"
    outcome, _ = run(name, "returns", hooks)
    assert (outcome.result, len(outcome._report.follow_ups)) == ("returns", 1)


@pytest.mark.parametrize("name", ["plain", "waits"])
def test_a_hook_of_others_fails_no_task_whatever_it_does(run: Run, name: str) -> None:
    for body in (
        "raise KeyError",
        "return 5",
        "yield\n    raise SystemExit(3)",
        "yield\n    yield",
        "if False: yield",
        "try: yield\n    except ValueError: pass",
    ):
        hooks = f"from gowork.worker import hookimpl\n@hookimpl\ndef gowork_around_task(ctx):\n    {body}\n"
        outcome, _ = run(name, "returns", hooks)
        assert outcome.result == "returns", body
        outcome, _ = run(name, "raises", hooks)
        assert outcome.failure is not None, body
        assert outcome.failure.message == "mine", body


def test_a_hook_of_others_may_steer(run: Run) -> None:
    hooks = (
        "from gowork.worker import hookimpl, Snooze\n"
        "@hookimpl\ndef gowork_around_task(ctx):\n    raise Snooze('too many at once', delay=5)\n    yield\n"
    )
    outcome, _ = run("plain", "returns", hooks)
    assert (outcome.status, outcome.reason, outcome.snooze_delay) == (Status.SNOOZED, "too many at once", 5.0)


class Plugin:
    """Has a hook that waits while it is left."""

    def __init__(self) -> None:
        self.leaves = asyncio.Event()
        self.told = ""

    @hookimpl
    async def gowork_around_task(self, ctx: Context) -> Any:
        yield
        self.told = ctx.outcome
        self.leaves.set()
        await asyncio.Event().wait()


@pytest.mark.parametrize("name", ["plain", "on_loop"])
async def test_a_stop_that_comes_while_hooks_are_left_comes_too_late(make_rig: Any, name: str) -> None:
    @handler
    def plain() -> str:
        return "done"

    @handler
    async def on_loop() -> str:
        return "done"

    rig, plugin = make_rig(), Plugin()
    loaded = load(Selection(plugins=("echo",)), [plain, on_loop])
    loaded.hooks.register(plugin, "slow")
    rig.executor = Executor(loaded, Place("w"), SlotTable.private(1), rig.outbox, lambda *_: None, print, print, print)
    rig.feed((1, name))
    await plugin.leaves.wait()
    rig.executor._jobs.stop(rig.executor._jobs.held[1], StopKind.TIMEOUT, "too late")
    if name == "plain":
        # A thread waits for the hook until the hook's own time is over, or its task is cancelled.
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
    report = await rig.report(1)
    assert STATUS[report.outcome] == plugin.told == "completed"


async def test_a_handler_knows_that_an_attempt_before_may_have_crashed_its_runner(make_rig: Any) -> None:
    seen: dict[int, bool] = {}

    @handler
    def looks(ctx: Context) -> None:
        seen[ctx.fence] = ctx.after_crash

    rig = make_rig(looks)
    task = tasks.Task(id="t", handler="looks").SerializeToString()
    rig.executor.feed(
        [session.Grant(fence=1, id="t", task=task), session.Grant(fence=2, id="t", task=task, alone=True)]
    )
    await rig.report(1)
    await rig.report(2)
    assert seen == {1: False, 2: True}
    assert Context().after_crash is False
