"""A kind of facts of one's own, as another version of the leader may have it: its Kind, and who decides on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec import Struct

from gowork.leader._core import changes as ch
from gowork.leader._core import commands as cmd
from gowork.leader._core import decide as deciding
from gowork.leader._core.decision import Decision
from gowork.leader._core.effects import Effect
from gowork.leader._core.facts import Kind
from gowork.leader._core.kinds import KINDS, QUEUES
from gowork.leader._core.model import Fact, Now, QueueSettings
from gowork.leader._core.state import State
from gowork.leader._engine import recovery
from gowork.leader._engine.asked import RefusedError
from gowork.leader._engine.counts import Counts
from gowork.leader._engine.loop import Engine
from gowork.leader.store.protocol import Batch, StoreFormatError
from gowork.leader.store.sqlite import SqliteStore

PATIENCE = 60.0


class Note(Struct, frozen=True, array_like=True):
    text: str
    at_ms: int


NOTES = Kind("note", Note, rows_max=2)


def take_note(state: State, command: cmd.PauseQueue, now: Now) -> Decision:
    """Notes that a queue was to be paused, until it is not."""
    decision = Decision()
    if not command.paused:
        decision.changes.append(ch.FactRemoved(NOTES, command.name))
    elif state.facts.is_full(NOTES):
        decision.answer = cmd.Refused(cmd.TOO_MANY_QUEUES, f"there are {NOTES.rows_max} notes")
    else:
        decision.changes.append(ch.FactPut(NOTES, command.name, Note("to be paused", 5)))
    return decision


class Outbox:
    def deliver(self, effects: Sequence[Effect]) -> None:
        """Nobody is there."""


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Engine]:
    store = SqliteStore(folder / "store.db")
    engine = Engine(store, Outbox(), Counts())
    try:
        await engine.recover()
        async with asyncio.TaskGroup() as group, asyncio.timeout(PATIENCE):
            group.create_task(engine.run())
            yield engine
            engine.stop()
    finally:
        await store.close()


def notes(state: State) -> dict[str, Note]:
    return dict(state.facts.of(NOTES))


async def write(folder: Path, *facts: Fact) -> None:
    store = SqliteStore(folder / "store.db")
    await store.open()
    await store.commit(Batch(facts=facts))
    await store.close()


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "KINDS", (*KINDS, NOTES))
    monkeypatch.setattr(deciding, "pause_queue", take_note)


@pytest.mark.usefixtures("known")
async def test_a_fact_of_a_new_kind_is_decided_on_and_outlives_the_leader(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        for name in ("a", "b"):
            await engine.ask(cmd.PauseQueue(name, True))
        with pytest.raises(RefusedError, match="there are 2 notes"):
            await engine.ask(cmd.PauseQueue("c", True))
        await engine.ask(cmd.PauseQueue("a", False))
        assert await engine.read(notes) == {"b": Note("to be paused", 5)}
    async with running(tmp_path) as engine:
        assert await engine.read(notes) == {"b": Note("to be paused", 5)}
        await engine.ask(cmd.PauseQueue("c", True))
    async with running(tmp_path) as engine:
        assert set(await engine.read(notes)) == {"b", "c"}


async def test_facts_of_a_kind_that_the_leader_does_not_know_stay(tmp_path: Path) -> None:
    note = Fact(NOTES.name, "a", NOTES.encode(Note("x", 1)))
    await write(tmp_path, note)
    async with running(tmp_path) as engine:
        await engine.ask(cmd.PauseQueue("q", True))
    store = SqliteStore(tmp_path / "store.db")
    await store.open()
    assert await store.facts(NOTES.name, "", 10, 1 << 20) == [note]
    await store.close()


async def test_every_page_of_a_kind_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "FACTS_PAGE", 2)
    names = [f"q{number}" for number in range(5)]
    await write(tmp_path, *(Fact(QUEUES.name, name, QUEUES.encode(QueueSettings(paused=True))) for name in names))
    async with running(tmp_path) as engine:
        assert await engine.read(lambda state: list(state.facts.of(QUEUES))) == names
        assert await engine.read(lambda state: [queue.name for queue in state.queues]) == names


@pytest.mark.usefixtures("known")
async def test_a_fact_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    await write(tmp_path, Fact(NOTES.name, "a", b"\xc1"))
    with pytest.raises(StoreFormatError, match=r"its record of note 'a' can't be read; start from a backup"):
        async with running(tmp_path):
            pass
