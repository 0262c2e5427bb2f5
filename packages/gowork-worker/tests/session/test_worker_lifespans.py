"""What runners set up and take down, in process and in runner processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.worker import Context, handler, lifespan
from gowork.worker._core.selection import Selection

HOOKED = """
from pathlib import Path
from gowork.worker import handler, hookimpl, lifespan

NOTES = Path({path!r})

def note(word):
    with NOTES.open("a") as notes:
        notes.write(word + "\\n")

@lifespan
async def setup(state):
    state.word = "ready"
    note("entered")
    yield
    note("left")

@hookimpl
def gowork_runner_started(state):
    note("started " + state.word)

@hookimpl
def gowork_runner_stopping(state):
    note("stopping " + state.word)

@handler
def word(ctx):
    return ctx.state.word
"""


async def test_lifespans_of_both_kinds_fill_the_state(leader: Any, start_worker: Any) -> None:
    left: list[str] = []

    @lifespan
    async def outer(state: Any) -> AsyncIterator[None]:
        state.words = ["outer"]
        yield
        left.append("outer")

    @lifespan
    def inner(state: Any) -> Iterator[None]:
        state.words.append("inner")
        yield
        left.append("inner")

    @handler
    def words(ctx: Context) -> Any:
        return ctx.state.words

    service = await start_worker([outer, inner, words])
    scripted = await leader.session()
    scripted.grant(1, "words")
    assert (await scripted.report(1)).result == '["outer","inner"]'
    service.stop()
    async with asyncio.timeout(120):
        await service.task
    assert left == ["inner", "outer"]


async def test_runner_process_calls_the_hooks_in_order(
    leader: Any, start_worker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = tmp_path / "notes"
    (tmp_path / "worker_hooked_sample.py").write_text(HOOKED.format(path=str(notes)))
    monkeypatch.syspath_prepend(str(tmp_path))
    service = await start_worker(runners=1, slots=1, selection=Selection(imports=("worker_hooked_sample",)))
    scripted = await leader.session()
    scripted.grant(1, "word")
    assert (await scripted.report(1)).result == '"ready"'
    service.stop()
    async with asyncio.timeout(120):
        await service.task
    assert notes.read_text().split("\n") == ["entered", "started ready", "stopping ready", "left", ""]


async def test_runner_whose_lifespan_fails_is_started_again(
    leader: Any, start_worker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    once = tmp_path / "once"
    (tmp_path / "worker_failing_sample.py").write_text(
        "from pathlib import Path\n"
        "from gowork.worker import lifespan\n"
        "@lifespan\n"
        "def fails_once(state):\n"
        f"    once = Path({str(once)!r})\n"
        "    if not once.exists():\n"
        "        once.touch()\n"
        "        raise RuntimeError('not yet')\n"
        "    yield\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    selection = Selection(imports=("worker_failing_sample",), plugins=("echo",))
    await start_worker(runners=1, slots=1, selection=selection)
    scripted = await leader.session()
    scripted.grant(1, "echo", "x")
    assert (await scripted.report(1)).outcome == tasks.ATTEMPT_OUTCOME_COMPLETED
    assert "runner ended" in caplog.text


async def test_plugin_that_cannot_start_is_refused_and_others_work(
    leader: Any, start_worker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "worker_unable_sample.py").write_text(
        "from gowork.worker import handler, hookimpl\n"
        "@handler\ndef unable() -> None: ...\n"
        "@hookimpl\nasync def gowork_runner_started(state):\n    raise OSError('no database')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    selection = Selection(imports=("worker_unable_sample",), plugins=("echo",))
    await start_worker(runners=1, slots=1, selection=selection)
    scripted = await leader.session()
    assert [handler.name for handler in scripted.hello.handlers] == ["echo"]
    (error,) = scripted.hello.plugin_errors
    assert error.startswith("worker_unable_sample: gowork_runner_started: OSError: no database")
    scripted.grant(1, "echo", "x")
    assert (await scripted.report(1)).outcome == tasks.ATTEMPT_OUTCOME_COMPLETED
    assert "runner ended" not in caplog.text
