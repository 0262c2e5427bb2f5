"""Reads of the SQLite store, beside what is written meanwhile."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apsw
import pytest

from gowork.leader.store import _sqlite_query as query
from gowork.leader.store._sqlite_ids import TaskIds
from gowork.leader.store.conformance import new_task
from gowork.leader.store.protocol import Batch
from gowork.leader.store.sqlite import SqliteStore


class _Between:
    """A connection. A task is removed after the first statement that it executes."""

    def __init__(self, path: Path, removed: int) -> None:
        self._path = path
        self._removed = removed
        self._reader = apsw.Connection(str(path))

    def execute(self, *statement: Any) -> Any:
        found = self._reader.execute(*statement).get
        writer = apsw.Connection(str(self._path))
        writer.execute("DELETE FROM standings WHERE seq = ?", (self._removed,))
        writer.close()
        return SimpleNamespace(get=found)

    def close(self) -> None:
        self._reader.close()


@pytest.mark.parametrize("read", [query.load, query.standings])
@pytest.mark.parametrize("ids", [["task-1", "task-2", "task-3"], ["task-2"]])
async def test_a_task_that_is_removed_between_two_reads_is_left_out(tmp_path: Path, read: Any, ids: list[str]) -> None:
    path = tmp_path / "gowork.db"
    store = SqliteStore(path)
    await store.open()
    await store.commit(Batch([new_task(seq, body=b"\xff\x00" * seq) for seq in (1, 2, 3)]))
    await store.close()
    known = TaskIds()
    with closing(apsw.Connection(str(path))) as loading:
        known.load(loading)
    connection = _Between(path, removed=2)
    found = read(connection, ids, known)
    connection.close()
    assert [getattr(each, "id", None) or each[0] for each in found] == [id for id in ids if id != "task-2"]
