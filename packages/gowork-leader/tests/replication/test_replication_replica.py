"""What a replica knows of what it has applied, and that applying depends on nothing but the entries."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from types import ModuleType

import pytest
from memory_log import MemoryLog, MemoryPlace
from memory_store import MemoryStore, Shelf

from gowork.leader._replication import replica as replicas
from gowork.leader._replication.candidacy import join
from gowork.leader._replication.journal import LoggedJournal
from gowork.leader._replication.replica import Replica
from gowork.leader.log import Candidate, LogEntry
from gowork.leader.store import Batch, DeletedTask, Fact, MovedTask
from gowork.leader.store.conformance import new_task, standing

#: The modules that apply entries, and nothing of theirs does anything else.
APPLYING = (
    replicas.__name__,
    "gowork.leader.log.entries",
    "gowork.leader.store.batches",
    "gowork.leader.store.codec",
    "gowork.leader.store._sqlite_entries",
    "gowork.leader.store._sqlite_facts",
    "gowork.leader.store._sqlite_lanes",
    "gowork.leader.store._sqlite_rows",
    "gowork.leader.store._sqlite_schema",
    "gowork.leader.store._sqlite_write",
)
CLOCKS = {"time", "datetime", "random", "secrets", "uuid"}
SQL_CLOCKS = re.compile(
    r"\b(strftime|julianday|unixepoch|current_timestamp|current_time|random)\b|'now'", re.IGNORECASE
)


async def test_a_replica_knows_the_number_of_the_last_batch_of_tasks() -> None:
    place = MemoryPlace()
    log, store = MemoryLog(place), MemoryStore(Shelf(), "one")
    opened = await join(store, await store.open_logged(None), log)
    assert opened is not None
    assert opened.position is not None
    leading = Replica(store, opened)
    candidate = Candidate(opened.position.generation, opened.position.index, opened.term, b"one")
    journal = LoggedJournal(store, leading, await log.campaign(candidate), b"begun")
    await journal.open()
    batches = (
        Batch([new_task(1, changed=11)]),
        Batch(facts=[Fact("notes", "a", b"1")]),
        Batch(moves=[MovedTask(1, 13, standing())]),
        Batch(deletes=[DeletedTask(1, "task-1", 14)]),
    )
    for batch in batches:
        await journal.commit(batch)
    other = MemoryStore(Shelf(), "two")
    at_first = await other.open_logged(opened.position.generation)
    await other.join_log(opened.position, at_first.term)
    following = Replica(other, await other.current())
    assert following.changed == 0
    seen = []
    for index in range(1, place.span.last + 1):
        await following.apply([LogEntry(index, place.entries[index])])
        seen.append(following.changed)
    assert seen == [0, 11, 11, 13, 14]


@pytest.mark.parametrize("name", APPLYING)
def test_applying_an_entry_reads_no_clock_and_draws_no_number(name: str) -> None:
    """Otherwise stores that have applied the same entries would differ."""
    module: ModuleType = importlib.import_module(name)
    tree = ast.parse(inspect.getsource(module))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {each.partition(".")[0] for each in imported} & CLOCKS
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert [text for text in texts if SQL_CLOCKS.search(text)] == []
