"""An example of a store: all of it in memory, whole and durable for as long as the process lives.

It is as plain as the protocol allows. Each question looks at every task.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import pickle
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import TypeVar

from gowork.leader.store import (
    FINISHED,
    RESTORE_TERMS,
    Batch,
    Brief,
    DeletedTask,
    Fact,
    FactKey,
    Finished,
    LaneKey,
    MovedTask,
    NewTask,
    Opened,
    Position,
    Query,
    Record,
    Standing,
    Status,
    StoreEntryError,
    StoreError,
    StoreFormatError,
    StoreGenerationError,
    StoreLockedError,
    StoreLostError,
    Timer,
    changed_number,
)

CHUNK_RECORDS = 5_000
ChangedT = TypeVar("ChangedT", Record, DeletedTask)


class Content:
    """What the store of one name holds."""

    def __init__(self) -> None:
        self.term = 0
        self.identity = uuid.uuid4().hex
        self.tasks: dict[int, NewTask] = {}
        self.facts: dict[FactKey, Fact] = {}
        self.removals: list[DeletedTask] = []
        self.floor = 0
        self.store_id = uuid.uuid4().hex
        self.position: Position | None = None

    def after(self, batch: Batch) -> Content:
        """What it holds after a batch; itself it stays as it is."""
        new = copy(self)
        new.tasks, new.facts = dict(self.tasks), dict(self.facts)
        for gone in batch.deletes:
            task = new.tasks.pop(gone.seq, None)
            if task is None or task.record.id != gone.id:
                raise StoreError(f"{gone} is not there")
        ids = {task.record.id for task in new.tasks.values()}
        for task in batch.inserts:
            if task.record.seq in new.tasks or task.record.id in ids:
                raise StoreError(f"{task.record.id!r} is there already")
            new.tasks[task.record.seq] = task
            ids.add(task.record.id)
        for move in batch.moves:
            if move.seq not in new.tasks:
                raise StoreError(f"{move} moves nothing")
            new.tasks[move.seq] = moved(new.tasks[move.seq], move)
        for key in batch.facts_gone:
            new.facts.pop(key, None)
        new.facts |= {FactKey(fact.kind, fact.key): fact for fact in batch.facts}
        removals = [*self.removals, *batch.deletes]
        new.floor = max([self.floor, *(gone.changed for gone in removals if gone.changed < batch.tombstones_before)])
        new.removals = [gone for gone in removals if gone.changed >= batch.tombstones_before]
        return new

    def after_entry(self, batch: Batch | None, position: Position, term: int) -> Content:
        """What it holds after an entry of the log."""
        present = self.position
        if present is None:
            raise StoreError("the store belongs to no log")
        if (present.generation, present.index + 1) != (position.generation, position.index):
            raise StoreError(
                f"the store is at index {present.index} of generation {present.generation}, and the entry has index "
                f"{position.index} of generation {position.generation}"
            )
        self.compare_term(term)
        try:
            new = self.after(batch or Batch())
        except StoreError as error:
            raise StoreEntryError(position.index, error) from error
        new.position, new.term = position, term
        return new

    def compare_term(self, term: int) -> None:
        if term < self.term:
            raise StoreLostError(f"the store has term {self.term}, and the entry has term {term}")

    def begin_anew(self, above: int = 0) -> None:
        """Makes it belong to no log, above all that others may have written since."""
        self.position, self.store_id = None, uuid.uuid4().hex
        self.term = max(self.term, above) + RESTORE_TERMS
        self.floor = changed_number(self.term, 0)

    def opened(self) -> Opened:
        """What it says of itself."""
        return Opened(self.term, self.identity, max(self.tasks, default=0) + 1, self.position, self.store_id)

    def digest(self) -> bytes:
        """A digest of all that two stores have in common when they have applied the same entries."""
        tasks = [
            (task.record, task.labels, *((task.lane, task.expires_ms) if is_unfinished(task) else ()))
            for _, task in sorted(self.tasks.items())
        ]
        removals = sorted((gone.changed, gone.id) for gone in self.removals)
        content = (tasks, sorted(self.facts.items()), removals, self.floor, self.term, self.position)
        return hashlib.sha256(repr(content).encode()).digest()


def moved(task: NewTask, move: MovedTask) -> NewTask:
    """The task in its new standing."""
    old = task.record
    record = Record(old.seq, old.id, move.changed, old.body, move.standing)
    if move.lane is None:
        return NewTask(record, task.lane, task.labels, task.expires_ms)
    return NewTask(record, move.lane, task.labels, move.expires_ms)


class Shelf:
    """The stores of this process, by name."""

    def __init__(self) -> None:
        self.contents: dict[str, Content] = {}
        self.held: set[str] = set()


class MemoryStore:
    """The store of one name on a shelf; see Store for what each method promises."""

    def __init__(self, shelf: Shelf, name: str) -> None:
        self._shelf = shelf
        self._name = name
        self._is_open = False
        self._is_logged = False
        #: What it will hold when what was prepared is settled.
        self._prepared: Content | None = None

    @property
    def scratch(self) -> Path | None:
        return None

    async def open(self) -> Opened:
        self._check_free()
        content = self._shelf.contents.setdefault(self._name, Content())
        if content.position is not None:
            raise StoreError(f"{self._name} belongs to a log: use --log, or run gowork store detach")
        self._take(logged=False)
        content.term += 1
        return content.opened()

    async def close(self) -> None:
        if self._is_open:
            self._is_open = self._is_logged = False
            self._prepared = None
            self._shelf.held.discard(self._name)

    async def commit(self, batch: Batch) -> None:
        # Others have their turn, as they do where a commit takes time.
        await asyncio.sleep(0)
        if self._is_logged:
            raise StoreError(f"{self._name} follows a log")
        self._content = self._content.after(batch)

    async def open_logged(self, generation: str | None) -> Opened:
        self._check_free()
        content = self._shelf.contents.setdefault(self._name, Content())
        present = content.position
        if present is None:
            own = content.opened().store_id
            if generation not in (None, own) and (content.tasks or content.facts or content.removals or content.floor):
                raise StoreError(f"{self._name} is not empty, and the log is at generation {generation}")
        elif generation is None and any(present.hash):
            raise StoreError(f"index {present.index} of generation {present.generation}, and the log has not begun")
        elif generation not in (None, present.generation):
            words = f"{self._name} belongs to generation {present.generation}, and not to {generation}"
            raise StoreGenerationError(present.generation, words)
        self._take(logged=True)
        return content.opened()

    async def join_log(self, position: Position, term: int) -> None:
        content = copy(self._logged)
        if content.position is not None:
            raise StoreError(f"{self._name} belongs to a log already")
        content.compare_term(term)
        content.position, content.term = position, term
        self._content = content

    async def current(self) -> Opened:
        return self._content.opened()

    async def prepare(self, batch: Batch, position: Position, term: int) -> None:
        self._check_nothing_prepared()
        self._prepared = self._logged.after_entry(batch, position, term)

    async def settle(self) -> None:
        if self._prepared is None:
            raise StoreError("nothing is prepared")
        self._content, self._prepared = self._prepared, None

    async def give_up(self) -> None:
        self._prepared = None

    async def apply(self, entries: Sequence[tuple[Batch | None, Position, int]]) -> None:
        self._check_nothing_prepared()
        content = self._logged
        for batch, position, term in entries:
            content = content.after_entry(batch, position, term)
        self._content = content

    async def force(self) -> Position:
        if self._logged.position is None:
            raise StoreError(f"{self._name} belongs to no log")
        return self._logged.position

    async def force_each(self, each: bool) -> None:
        # What memory holds is as safe as it can be.
        assert self._logged is not None

    async def has_room(self) -> bool:
        return True

    async def digest(self, begun: asyncio.Event | None = None) -> bytes:
        if begun is not None:
            begun.set()
        return self._content.digest()

    async def load(self, ids: Sequence[str]) -> list[Record]:
        wanted = set(ids)
        return [task.record for task in self._tasks() if task.record.id in wanted]

    async def standings(self, ids: Sequence[str]) -> list[tuple[str, Standing]]:
        return [(record.id, record.standing) for record in await self.load(ids)]

    async def briefs(self, ids: Sequence[str]) -> list[Brief]:
        return [brief(record) for record in await self.load(ids)]

    async def running(self) -> AsyncIterator[list[Record]]:
        running = [task.record for task in self._tasks() if task.record.standing.status is Status.RUNNING]
        for place in range(0, len(running), CHUNK_RECORDS):
            yield running[place : place + CHUNK_RECORDS]

    async def waiting(self) -> list[tuple[LaneKey, int]]:
        return list(Counter(task.lane for task in self._tasks() if may_run(task)).items())

    async def lane_page(self, lane: LaneKey, after: int, limit: int, bytes_max: int) -> list[Record]:
        found = [task.record for task in self._tasks() if may_run(task) and task.lane == lane]
        return up_to((record for record in found if record.seq > after), limit, bytes_max)

    async def delayed(self, after: tuple[int, int] | None, limit: int) -> list[Timer]:
        return self._timers(is_delayed, lambda task: task.record.standing.not_before_ms, after, limit)

    async def expiring(self, after: tuple[int, int] | None, limit: int) -> list[Timer]:
        return self._timers(
            lambda task: is_pending(task) and task.expires_ms > 0, lambda task: task.expires_ms, after, limit
        )

    async def delayed_counts(self) -> list[tuple[LaneKey, int]]:
        return list(Counter(task.lane for task in self._tasks() if is_delayed(task)).items())

    async def facts(self, kind: str, after: str, limit: int, bytes_max: int) -> list[Fact]:
        found: list[Fact] = []
        for key, fact in sorted(self._content.facts.items()):
            if key.kind == kind and key.key > after and len(found) < limit and (bytes_max > 0 or not found):
                found.append(fact)
                bytes_max -= len(fact.value)
        return found

    async def finished_counts(self) -> tuple[int, int]:
        failed = len(self._finished(failed=True))
        return failed, len(self._finished(failed=False))

    async def finished(self, failed: bool, limit: int, after: tuple[int, int] = (0, 0)) -> list[Finished]:
        return [
            Finished(record.seq, record.id, record.changed, record.standing.finished_ms)
            for record in self._finished(failed=failed)
            if (record.changed, record.seq) > after
        ][:limit]

    async def last_failed(self, limit: int, bytes_max: int) -> list[Record]:
        return up_to(reversed(self._finished(failed=True)), limit, bytes_max)

    async def page(self, query: Query, after: int | None, limit: int, bytes_max: int) -> list[Record]:
        # As in commit: whoever asks again and again holds up nobody.
        await asyncio.sleep(0)
        records = [task.record for task in self._tasks() if selects(query, task)]
        if query.newest_first:
            records.reverse()
        if after is not None:
            sign = -1 if query.newest_first else 1
            records = [record for record in records if record.seq * sign > after * sign]
        return up_to(records, limit, bytes_max)

    async def select_finished(self, query: Query, before_ms: int | None, limit: int) -> list[Brief]:
        found = [brief(task.record) for task in self._tasks() if selects(query, task)]
        finished = [each for each in found if each.status in FINISHED]
        return [each for each in finished if before_ms is None or each.finished_ms < before_ms][:limit]

    async def children(self, groups: Sequence[tuple[str, int]]) -> list[Mapping[Status, int]]:
        records = [task.record for task in self._tasks() if "/" in task.record.id]
        return [
            Counter(
                record.standing.status
                for record in records
                if record.id.rpartition("/")[0] == group and record.seq > above
            )
            for group, above in groups
        ]

    async def changed_since(self, changed: int, limit: int) -> list[Record]:
        records = sorted((task.record for task in self._tasks()), key=lambda record: record.changed)
        return whole_batches([record for record in records if record.changed > changed], limit)

    async def deleted_since(self, changed: int, limit: int) -> list[tuple[int, str]]:
        removals = sorted(self._content.removals, key=lambda gone: gone.changed)
        found = whole_batches([gone for gone in removals if gone.changed > changed], limit)
        return [(gone.changed, gone.id) for gone in found]

    async def watch_floor(self) -> int:
        return self._content.floor

    async def counts(self) -> Mapping[tuple[str, str, Status], int]:
        return Counter((task.lane.queue, task.lane.handler, task.record.standing.status) for task in self._tasks())

    async def backup(self, path: Path) -> None:
        # Whoever gives it up does so before anything is written.
        await asyncio.sleep(0)
        try:
            with path.open("xb") as file:
                pickle.dump(self._content, file)
        except FileExistsError as error:
            raise StoreError(f"{path} is there already") from error
        except OSError as error:
            raise StoreError(f"{path} can't be written: {error.strerror}") from error

    async def restore(self, backup: Path, above: int = 0) -> None:
        if self._name in self._shelf.contents:
            raise StoreError(f"{self._name} is there already")
        content = read_copy(backup)
        content.begin_anew(above)
        self._shelf.contents[self._name] = content

    @property
    def copy_format(self) -> int:
        return 3

    async def check_copy(self, backup: Path) -> tuple[int, Position]:
        content = read_copy(backup)
        if content.position is None:
            raise StoreFormatError(f"{backup} belongs to no log")
        return self.copy_format, content.position

    async def install_copy(self, backup: Path) -> None:
        if self._name in self._shelf.contents:
            raise StoreError(f"{self._name} is there already")
        content = read_copy(backup)
        if content.position is None:
            raise StoreFormatError(f"{backup} belongs to no log")
        content.store_id = uuid.uuid4().hex
        self._shelf.contents[self._name] = content

    async def set_aside(self) -> Path:
        self._check_free()
        if self._name not in self._shelf.contents:
            raise StoreError(f"{self._name} is not there")
        names = (f"{self._name}.aside-{number}" for number in itertools.count(1))
        name = next(name for name in names if name not in self._shelf.contents)
        self._shelf.contents[name] = self._shelf.contents.pop(self._name)
        return Path(name)

    async def detach(self) -> None:
        self._check_free()
        content = copy(self._shelf.contents[self._name])
        if content.position is None:
            raise StoreError(f"{self._name} belongs to no log")
        content.begin_anew()
        self._shelf.contents[self._name] = content

    def _check_free(self) -> None:
        if self._name in self._shelf.held:
            raise StoreLockedError(f"{self._name} is used by another leader")

    def _take(self, *, logged: bool) -> None:
        self._shelf.held.add(self._name)
        self._is_open, self._is_logged = True, logged

    def _check_nothing_prepared(self) -> None:
        if self._prepared is not None:
            assert self._prepared.position is not None
            raise StoreError(f"entry {self._prepared.position.index} is prepared")

    @property
    def _content(self) -> Content:
        if not self._is_open:
            raise StoreError(f"{self._name} is not open")
        return self._shelf.contents[self._name]

    @_content.setter
    def _content(self, content: Content) -> None:
        self._shelf.contents[self._name] = content

    @property
    def _logged(self) -> Content:
        if not self._is_logged:
            raise StoreError(f"{self._name} is not open for a log")
        return self._content

    def _tasks(self) -> Iterator[NewTask]:
        """All tasks, in the order of seq."""
        return (task for _, task in sorted(self._content.tasks.items()))

    def _finished(self, *, failed: bool) -> list[Record]:
        """The tasks that failed, or the other finished ones, in the order in which they finished."""
        statuses = {Status.ERROR} if failed else FINISHED - {Status.ERROR}
        found = [task.record for task in self._tasks() if task.record.standing.status in statuses]
        return sorted(found, key=lambda record: (record.changed, record.seq))

    def _timers(
        self, due: Callable[[NewTask], bool], at: Callable[[NewTask], int], after: tuple[int, int] | None, limit: int
    ) -> list[Timer]:
        timers = sorted(Timer(at(task), task.record.seq, task.record.id) for task in self._tasks() if due(task))
        return [timer for timer in timers if after is None or timer[:2] > after][:limit]


def read_copy(path: Path) -> Content:
    """What a backup holds."""
    try:
        with path.open("rb") as file:
            content = pickle.load(file)
    except (OSError, EOFError, pickle.UnpicklingError) as error:
        raise StoreFormatError(f"{path} is no backup: {error}") from error
    assert isinstance(content, Content)
    return content


def brief(record: Record) -> Brief:
    return Brief(record.seq, record.id, record.standing.status, record.standing.finished_ms)


def is_unfinished(task: NewTask) -> bool:
    return task.record.standing.status not in FINISHED


def is_pending(task: NewTask) -> bool:
    return task.record.standing.status is Status.PENDING


def is_delayed(task: NewTask) -> bool:
    return is_pending(task) and task.record.standing.not_before_ms > 0


def may_run(task: NewTask) -> bool:
    return is_pending(task) and not task.record.standing.not_before_ms


def selects(query: Query, task: NewTask) -> bool:
    """Whether every condition of a query holds for a task."""
    id, lane, labels = task.record.id, task.lane, dict(task.labels)
    values = {"id": id, "queue": lane.queue, "handler": lane.handler, "priority": int(lane.priority)}
    return (
        (not query.statuses or task.record.standing.status in query.statuses)
        and all((values[column] == value) is equal for column, value, equal in query.terms)
        and all((labels.get(key) == value) is equal for key, value, equal in query.labels)
        and all(id.startswith(prefix) is wanted for prefix, wanted in query.id_prefixes)
    )


def up_to(records: Iterable[Record], limit: int, bytes_max: int) -> list[Record]:
    """The first records, up to a number, or to the one that takes their bytes to a sum."""
    page: list[Record] = []
    for record in records:
        page.append(record)
        standing, failure = record.standing, record.standing.failure
        bytes_max -= len(record.body) + len(standing.result) + len(standing.result_data)
        if failure is not None:
            bytes_max -= len(failure.message) + len(failure.type) + len(failure.traceback)
        if len(page) == limit or bytes_max <= 0:
            break
    return page


def whole_batches(changes: list[ChangedT], limit: int) -> list[ChangedT]:
    """The first changes, with all of the batch of the last one."""
    first = changes[:limit]
    if not first:
        return first
    last = first[-1].changed
    return first + [each for each in changes[limit:] if each.changed == last]
