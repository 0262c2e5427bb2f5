"""What entries come to that are written together is what they come to one after the other."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from msgspec.structs import replace
from store_histories import histories

from gowork.leader._core.model import Fact, Status
from gowork.leader.store._sqlite_fold import folded, groups
from gowork.leader.store.conformance import FULL_LANE, new_task, standing
from gowork.leader.store.conformance.logged import BASE, START, TERM, joined, position, position_of
from gowork.leader.store.protocol import Batch, DeletedTask, MovedTask, StoreEntryError, StoreError
from gowork.leader.store.sqlite import SqliteStore

RUNNING = standing(Status.RUNNING)
COMPLETED = standing(Status.COMPLETED, finished_ms=8)
WAITING = standing(not_before_ms=5)


async def digest_of(path: Path, batches: Sequence[Batch], *, together: bool) -> bytes:
    store = SqliteStore(path)
    await joined(store)
    entries = [(batch, position(index), TERM) for index, batch in enumerate(batches, BASE + 1)]
    for part in [entries] if together else [[entry] for entry in entries]:
        await store.apply(part)
    digest = await store.digest()
    await store.close()
    return digest


@pytest.mark.parametrize(
    "batches",
    [
        # It ends, it waits again in another lane, and it waits again in its own one.
        [Batch([new_task(1, expires_ms=9)]), Batch([], [MovedTask(1, 2, COMPLETED)])],
        [Batch([new_task(1)]), Batch([], [MovedTask(1, 2, WAITING, FULL_LANE, 11)])],
        [Batch([new_task(1, lane=FULL_LANE)]), Batch([], [MovedTask(1, 2, WAITING, FULL_LANE, 11)])],
        # It changes its lane and then ends, and it changes its lane twice.
        [
            Batch([new_task(1)]),
            Batch([], [MovedTask(1, 2, WAITING, FULL_LANE, 11)]),
            Batch([], [MovedTask(1, 3, RUNNING)]),
        ],
        [
            Batch([new_task(1)]),
            Batch([], [MovedTask(1, 2, WAITING, FULL_LANE, 11)]),
            Batch([], [MovedTask(1, 3, RUNNING)]),
            Batch([], [MovedTask(1, 4, WAITING, new_task(1).lane, 12)]),
        ],
        # Another one gets its id.
        [
            Batch([new_task(1, "a")]),
            Batch([new_task(2, "a")], deletes=[DeletedTask(1, "a", 2)], facts=[Fact("k", "a", b"v")]),
            Batch([], [MovedTask(2, 3, COMPLETED)]),
        ],
    ],
)
async def test_written_together_they_are_what_they_are_one_after_the_other(
    tmp_path: Path, batches: list[Batch]
) -> None:
    together = await digest_of(tmp_path / "together.db", batches, together=True)
    assert together == await digest_of(tmp_path / "apart.db", batches, together=False)


@settings(max_examples=20, deadline=None)
@given(histories())
def test_whatever_is_written_together_is_what_it_is_one_after_the_other(batches: list[Batch]) -> None:
    plain = [replace(batch, facts=(), facts_gone=(), tombstones_before=0) for batch in batches]
    with tempfile.TemporaryDirectory() as folder:
        found = [
            asyncio.run(digest_of(Path(folder) / f"{together}.db", plain, together=together))
            for together in (True, False)
        ]
    assert found[0] == found[1]


def test_a_task_that_starts_and_ends_is_written_once_with_the_bytes_of_its_end() -> None:
    end = MovedTask(1, 3, COMPLETED, state=b"as stored")
    batch = folded([Batch([new_task(1)]), Batch([], [MovedTask(1, 2, RUNNING)]), Batch([], [end])])
    (new,) = batch.inserts
    assert batch.moves == []
    assert (new.record.standing, new.record.changed, new.state) == (COMPLETED, 3, b"as stored")


def test_what_does_more_than_insert_and_move_is_written_alone_and_so_is_another_term() -> None:
    plain, fact = Batch([new_task(1)]), Batch(facts=[Fact("k", "a", b"v")])
    others = [fact, Batch(deletes=[DeletedTask(1, "a", 1)]), Batch(tombstones_before=1), None]
    batches = [plain, plain, *(batch for other in others for batch in (other, plain))]
    entries = [(batch, position(index), TERM) for index, batch in enumerate(batches)]
    entries += [(plain, position(10), TERM + 1)]
    assert [len(group) for group in groups(entries)] == [2, *[1] * 9]


@pytest.mark.parametrize(
    "batches",
    [
        [Batch([new_task(1)]), Batch([new_task(1)])],
        [Batch([], [MovedTask(1, 1, RUNNING)]), Batch([new_task(1)])],
    ],
)
def test_what_can_not_be_written_one_after_the_other_is_refused(batches: list[Batch]) -> None:
    with pytest.raises(StoreError, match="Task 1"):
        folded(batches)


@pytest.mark.parametrize(
    "wrong", [Batch([], [MovedTask(9, 3, RUNNING)]), Batch([new_task(2, "task-1")]), Batch([new_task(1, "other")])]
)
async def test_of_entries_that_are_written_together_the_wrong_one_is_named(tmp_path: Path, wrong: Batch) -> None:
    store = SqliteStore(tmp_path / "gowork.db")
    await joined(store)
    batches = [Batch([new_task(1)]), Batch([], [MovedTask(1, 2, RUNNING)]), wrong, Batch([new_task(3)])]
    with pytest.raises(StoreEntryError) as refused:
        await store.apply([(batch, position(index), TERM) for index, batch in enumerate(batches, BASE + 1)])
    assert refused.value.index == BASE + 3
    assert await position_of(store) == START
    await store.close()
