"""A commit that has returned survives the death of its process. So does an entry that was settled or applied."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import cast

import pytest

from gowork.leader._core.model import Status
from gowork.leader.store import registry
from gowork.leader.store.conformance.kit import ALL_BYTES, Fixtures, StoreFactory, new_task, standing
from gowork.leader.store.conformance.logged import (
    BASE,
    GENERATION,
    START,
    TERM,
    LoggedFactory,
    position,
    position_of,
    seqs,
)
from gowork.leader.store.protocol import Batch, LoggedStore, MovedTask, Query, StoreLockedError, changed_number

#: How many tasks each batch of the killed process has.
_KILLED_BATCH_TASKS = 40


def commit_until_killed(url: str) -> None:
    """Commits batches for ever, and prints each one's number when it has returned, in a process that is killed."""

    async def run() -> None:
        store = registry.open_store(url)
        opened = await store.open()
        print(f"term {opened.term}", flush=True)  # noqa: T201 - the test reads it.
        number, first, before = 0, opened.next_seq, 0
        while True:
            number += 1
            changed = changed_number(opened.term, number)
            inserts = [
                new_task(first + place, f"{opened.term}-{number}-{place}", changed=changed)
                for place in range(_KILLED_BATCH_TASKS)
            ]
            moves = [
                MovedTask(before + place, changed, standing(Status.COMPLETED))
                for place in range(_KILLED_BATCH_TASKS if before else 0)
            ]
            await store.commit(Batch(inserts, moves))
            print(number, flush=True)  # noqa: T201
            before, first = first, first + _KILLED_BATCH_TASKS

    asyncio.run(run())


@pytest.mark.asyncio
class DurabilityConformance(Fixtures):
    """A commit that has returned survives the death of its process."""

    async def test_every_commit_that_returned_survives_sigkill_and_none_is_half_there(
        self, store_url: str, open_store: StoreFactory
    ) -> None:
        terms: list[int] = []
        #: The last batch of each term that has returned.
        returned: dict[int, int] = {}
        for batches in (1, 25, 60):
            term, last = _kill_after(store_url, batches)
            terms.append(term)
            returned[term] = last
        store = open_store()
        opened = await store.open()
        assert sorted({*terms, opened.term}) == [*terms, opened.term]
        for term, last in returned.items():
            found = await store.page(Query(id_prefixes=((f"{term}-", True),)), None, 1_000_000, ALL_BYTES)
            tasks = {record.id: record for record in found}
            batches_found = len(tasks) // _KILLED_BATCH_TASKS
            # The batch that was in flight may be there or not.
            assert last <= batches_found <= last + 1
            expected = {
                f"{term}-{n}-{place}" for n in range(1, batches_found + 1) for place in range(_KILLED_BATCH_TASKS)
            }
            assert set(tasks) == expected
            for task_id, record in tasks.items():
                newest = int(task_id.split("-")[1]) == batches_found
                assert record.standing.status is (Status.PENDING if newest else Status.COMPLETED), task_id
        assert opened.next_seq > max(record.seq for record in await store.page(Query(newest_first=True), None, 1, 1))
        await store.close()

    async def test_another_process_is_refused_and_let_in_once_the_first_was_killed(
        self, store_url: str, open_store: StoreFactory
    ) -> None:
        with _committing(store_url) as process:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("term ")
            with pytest.raises(StoreLockedError, match=str(process.pid)):
                await open_store().open()
            process.kill()
            process.wait()
        store = open_store()
        await store.open()
        await store.close()


def _committing(url: str) -> subprocess.Popen[str]:
    code = f"from {__name__} import commit_until_killed; commit_until_killed({url!r})"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def _kill_after(url: str, batches: int) -> tuple[int, int]:
    """Kills a committing process after `batches` batches. Returns its term and the last batch that it printed."""
    with _committing(url) as process:
        assert process.stdout is not None
        term = int(process.stdout.readline().removeprefix("term "))
        for _ in range(batches):
            assert process.stdout.readline()
        process.kill()
        # Lines that it printed before it died count too, except one that is cut off.
        told = [line for line in process.stdout.readlines() if line.endswith("\n")]
        return term, int(told[-1]) if told else batches


def lead_until_killed(url: str, entries_per_step: int) -> None:
    """Writes entries for ever, in a process that is killed. Each has one task, whose seq is the entry's number.

    Args:
        url: the store's.
        entries_per_step: 0: each is prepared, which is printed, and settled once a line was read. Otherwise this
            number is applied at once.
    """

    async def run() -> None:
        store = cast(LoggedStore, registry.open_store(url))
        opened = await store.open_logged(GENERATION)
        if opened.position is None:
            await store.join_log(START, TERM)
        number = opened.next_seq
        while True:
            if entries_per_step:
                numbers = range(number, number + entries_per_step)
                await store.apply([(_entry(n), position(BASE + n), TERM) for n in numbers])
            else:
                await store.prepare(_entry(number), position(BASE + number), TERM)
                print(f"prepared {number}", flush=True)  # noqa: T201 - the test reads it.
                if not sys.stdin.readline():
                    return
                await store.settle()
            number += entries_per_step or 1
            print(number - 1, flush=True)  # noqa: T201

    asyncio.run(run())


def _entry(number: int) -> Batch:
    moves = [MovedTask(number - 1, number, standing(Status.COMPLETED))] if number > 1 else []
    return Batch([new_task(number, changed=number)], moves)


@pytest.mark.asyncio
class LoggedDurabilityConformance(Fixtures):
    """An entry that was settled or applied survives the death of its process. One that was prepared was never there."""

    async def test_a_process_that_is_killed_leaves_what_was_settled_and_nothing_that_was_prepared(
        self, store_url: str, open_store: LoggedFactory
    ) -> None:
        for settled in (0, 1, 3):
            with _leading(store_url, 0) as process:
                assert process.stdout is not None
                assert process.stdin is not None
                first = int(process.stdout.readline().removeprefix("prepared "))
                for number in range(first, first + settled):
                    process.stdin.write("settle\n")
                    process.stdin.flush()
                    assert int(process.stdout.readline()) == number
                    # The next one is prepared when the process is killed.
                    assert process.stdout.readline() == f"prepared {number + 1}\n"
                process.kill()
            await _check_prefix(open_store(), first + settled - 1)

    async def test_a_process_that_is_killed_while_it_applies_leaves_whole_steps(
        self, store_url: str, open_store: LoggedFactory
    ) -> None:
        entries_per_step = 7
        for steps in (1, 10, 40):
            with _leading(store_url, entries_per_step) as process:
                assert process.stdout is not None
                for _ in range(steps):
                    told = process.stdout.readline()
                process.kill()
                # A line that is cut off does not count.
                told = next((line for line in reversed(process.stdout.readlines()) if line.endswith("\n")), told)
            store = open_store()
            await store.open_logged(GENERATION)
            last = (await position_of(store)).index - BASE
            await store.close()
            assert last in (int(told), int(told) + entries_per_step)
            await _check_prefix(open_store(), last)


async def _check_prefix(store: LoggedStore, last: int) -> None:
    """Checks that the store is what the entries up to a number make, and no more or less."""
    await store.open_logged(GENERATION)
    assert await position_of(store) == (position(BASE + last) if last else START)
    assert await seqs(store) == list(range(1, last + 1))
    pending = await store.page(Query(statuses=frozenset({Status.PENDING})), None, 10, ALL_BYTES)
    assert [record.seq for record in pending] == ([last] if last else [])
    await store.close()


def _leading(url: str, entries_per_step: int) -> subprocess.Popen[str]:
    code = f"from {__name__} import lead_until_killed; lead_until_killed({url!r}, {entries_per_step})"
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
