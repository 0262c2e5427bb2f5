"""What the classes of the suite share: fixtures, and tasks with defaults for fields that do not matter to a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gowork.leader._core.model import (
    Attempt,
    Failure,
    FailureKind,
    LaneKey,
    Outcome,
    Plugin,
    Priority,
    Standing,
    Status,
)
from gowork.leader.store import registry
from gowork.leader.store.protocol import NewTask, Opened, Query, Record, Store

StoreFactory = Callable[[], Store]


ALL_BYTES = 1 << 40
#: A standing whose fields all differ from their defaults.
FULL_STANDING = Standing(
    status=Status.ERROR,
    created_ms=1_761_900_000_000,
    fence=(7 << 40) + 3,
    grants=4,
    attempts_used=3,
    worker="wörker",
    instance="0123456789abcdef",
    started_ms=1_761_900_000_001,
    finished_ms=1_761_900_000_002,
    result='{"text": "ünïcödé \\u0000"}',
    result_data=bytes(range(256)),
    failure=Failure(FailureKind.TIMEOUT, "it took too long", "TimeoutError", "Traceback …\n"),
    cancel_requested=True,
    not_before_ms=1_761_900_000_003,
    attempts=(
        Attempt(1, "a", 1, 2, Outcome.FAILED, "raised", 7 << 40),
        Attempt(2, "b", 3, 4, Outcome.LOST, "the process vanished: signal 9", (7 << 40) + 1, "", Plugin("p", "1.2")),
    ),
    lost_alone=2,
    suspect=True,
    plugin=Plugin("plügin (wheel 1.0)", "2.0rc1"),
)


def standing(
    status: Status = Status.PENDING,
    *,
    result: str = "",
    failure: Failure | None = None,
    not_before_ms: int = 0,
    finished_ms: int = 0,
) -> Standing:
    """Returns a standing with this status."""
    return Standing(
        status,
        1_761_900_000_000,
        result=result,
        failure=failure,
        not_before_ms=not_before_ms,
        finished_ms=finished_ms,
    )


#: A lane whose fields all differ from their defaults.
FULL_LANE = LaneKey("q «1»", Priority.HIGH, 'h"2', (("arch", "arm64"), ("zone", "ünï")), "customer 7")


def new_task(
    seq: int,
    task_id: str | None = None,
    *,
    changed: int = 1,
    body: bytes = b"body",
    at: Standing | None = None,
    queue: str = "default",
    handler: str = "",
    priority: int = 1,
    lane: LaneKey | None = None,
    labels: dict[str, str] | None = None,
    expires_ms: int = 0,
) -> NewTask:
    """Returns a task with defaults. A lane brings its queue, handler and priority."""
    record = Record(seq, task_id if task_id is not None else f"task-{seq}", changed, body, at or standing())
    lane = lane or LaneKey(queue, Priority(priority), handler, ())
    return NewTask(record, lane, tuple(sorted((labels or {}).items())), expires_ms)


async def seqs_of_page(store: Store, query: Query, after: int | None = None, limit: int = 1000) -> list[int]:
    """Returns the seqs of a page without a limit in bytes."""
    return [record.seq for record in await store.page(query, after, limit, ALL_BYTES)]


async def facts_of(store: Store, kind: str) -> dict[str, bytes]:
    """Returns all facts of a kind, as {key: value}."""
    return {fact.key: fact.value for fact in await store.facts(kind, "", 1_000_000, ALL_BYTES)}


async def all_unfinished(store: Store) -> list[Record]:
    """Returns every unfinished record, in the order in which the store gave them."""
    unfinished = Query(statuses=frozenset({Status.PENDING, Status.RUNNING}))
    return await store.page(unfinished, None, 100_000, ALL_BYTES)


class Reopened:
    """Opens the same store again and again, and closes the one before."""

    def __init__(self, factory: StoreFactory) -> None:
        self._factory = factory
        self._store: Store | None = None

    async def __call__(self) -> tuple[Store, Opened]:
        await self.close()
        self._store = self._factory()
        return self._store, await self._store.open()

    async def close(self) -> None:
        if self._store is not None:
            await self._store.close()
            self._store = None


class Fixtures:
    """The fixtures that make stores."""

    @pytest.fixture
    def store_url(self) -> str:
        """The URL of an empty store. Override this or `open_store`."""
        raise NotImplementedError("override store_url or open_store")

    @pytest.fixture
    def open_store(self, store_url: str) -> StoreFactory:
        """Makes stores on the same data."""
        return lambda: registry.open_store(store_url)

    @pytest.fixture
    def restored_url(self, store_url: str) -> str:
        """The URL of another empty store. Override it if `store_url` with a suffix is not one."""
        return f"{store_url}.restored"

    @pytest.fixture
    def open_restored(self, restored_url: str) -> StoreFactory:
        """Makes stores at `restored_url`."""
        return lambda: registry.open_store(restored_url)

    @pytest.fixture
    def open_backup(self) -> Callable[[Path], Store]:
        """Makes a store of the backup at a path, not opened yet. Override it if backups are not files of SQLite."""
        return lambda path: registry.open_store(f"sqlite:///{path}")
