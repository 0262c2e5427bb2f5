"""A short run with several leaders, and the histories, logs and stores that the checkers of such runs must refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random

import apsw
import pytest
from ha_faults import DECKS, MACHINE_DECKS, SHORT_DECKS, Kind, deck_of, plan
from ha_linear import Answer, Call, Did, Seen, linearizable
from ha_log import check_log, check_stores
from ha_planted import PLANTED
from ha_plants import PLANTS
from ha_run import run
from ha_targets import LEASE_SECONDS, TARGETS

from gowork.client import TaskStatus
from gowork.leader._core.model import Position, Standing, Status
from gowork.leader._replication import announcement
from gowork.leader._replication.announcement import Announcement
from gowork.leader._replication.replica import Replica, TermBegun, encode_term
from gowork.leader.log import entries as log_entries
from gowork.leader.log import etcd, postgresql
from gowork.leader.log.entries import NO_HASH, seal
from gowork.leader.log.protocol import Generation, LogEntry
from gowork.leader.store.batches import encode_batch
from gowork.leader.store.conformance.kit import new_task
from gowork.leader.store.protocol import Batch, MovedTask, changed_number
from gowork.leader.store.sqlite import SqliteStore

SEED = 11
GENERATION = Generation("g" * 32, 0, 4)


def test_one_seed_gives_one_plan() -> None:
    deck = deck_of("etcd")
    assert plan(Random(3), deck) == plan(Random(3), deck) != plan(Random(4), deck)
    kinds = [fault.kind for fault in plan(Random(3), deck)]
    assert {kind: kinds.count(kind) for kind in deck} == deck


def test_in_a_short_run_nothing_stays_away_for_longer_than_it_must() -> None:
    (short,), (usual,) = (plan(Random(3), {Kind.STOP_LEADER: 1}, is_short=is_short) for is_short in (True, False))
    assert LEASE_SECONDS < short.away < usual.away


def test_each_fault_is_in_some_deck() -> None:
    decks = [deck_of(log, loses_machines=True) for log in DECKS]
    assert set().union(*decks) == set(Kind)
    assert all(set(MACHINE_DECKS[log]).isdisjoint(deck_of(log)) for log in DECKS)


def test_of_each_planted_bug_it_is_said_how_it_is_found() -> None:
    assert set(PLANTS) == set(PLANTED)


def test_a_target_is_missed_by_the_median_the_99th_percentile_or_the_other_figure() -> None:
    kill, resign = TARGETS[Kind.KILL_LEADER], TARGETS[Kind.TERM_LEADER]
    slow = [9.0, 9.0, 9.0]
    assert kill.is_met(slow, [0.2, 1.0, 4.0])
    assert not kill.is_met(slow, [0.2, 1.1, 4.0])
    assert not kill.is_met(slow, [0.2, 1.0, 4.1])
    assert resign.is_met([0.2, 0.4, 0.5], slow)
    assert not resign.is_met([0.2, 0.4, 0.6], slow)
    assert TARGETS[Kind.LOSE_LEADER].p99 == LEASE_SECONDS + 1 == etcd.LEASE_SECONDS + 1
    assert postgresql.LEASE_SECONDS == LEASE_SECONDS


@pytest.mark.tool("etcd")
@pytest.mark.longer
async def test_nothing_is_lost_or_unexplained_while_leaders_and_etcd_fail(tmp_path: Path) -> None:
    result = await run(tmp_path, SEED, SHORT_DECKS["etcd"])
    assert result.found == []
    assert {event.kind for event in result.events} == set(SHORT_DECKS["etcd"])
    assert result.counts["tasks acknowledged"] > 200
    assert result.counts["terms"] > len(result.events)


def call(
    did: Did,
    began: float,
    ended: float = math.inf,
    answer: Answer = Answer.DONE,
    status: TaskStatus | None = None,
    *,
    fence: int = 1,
    attempts: int | None = 0,
    cancel_requested: bool = False,
) -> Call:
    """One call. It reads a status if it is given one."""
    seen = None if status is None else Seen(status, fence, attempts, cancel_requested)
    return Call(did, answer, began, ended, seen)


SUBMIT, READ, CANCEL = Did
DONE, ABSENT, ENDED, UNKNOWN = Answer
SUBMITTED = call(SUBMIT, 0, 1)


@pytest.mark.parametrize(
    "calls",
    [
        [SUBMITTED, call(SUBMIT, 2, 3), call(READ, 4, 5, status=TaskStatus.PENDING)],
        [call(SUBMIT, 0, 3), call(READ, 1, 2, ABSENT), call(READ, 1, 2, status=TaskStatus.RUNNING)],
        [call(SUBMIT, 0, answer=UNKNOWN), call(READ, 1, 2, ABSENT), call(READ, 8, 9, status=TaskStatus.RUNNING)],
        [call(SUBMIT, 0, answer=UNKNOWN), call(READ, 1, 2, ABSENT)],
        [
            SUBMITTED,
            call(READ, 2, 9, status=TaskStatus.RUNNING, fence=1),
            call(READ, 3, 4, status=TaskStatus.COMPLETED, fence=2, attempts=2),
        ],
        [SUBMITTED, call(CANCEL, 2, 3), call(READ, 4, 5, status=TaskStatus.COMPLETED)],
        [SUBMITTED, call(CANCEL, 2, 3), call(READ, 4, 5, status=TaskStatus.RUNNING, cancel_requested=True)],
        [SUBMITTED, call(CANCEL, 2, 3, ENDED), call(READ, 4, 5, status=TaskStatus.ERROR)],
        # Its first answer was lost, and it was repeated.
        [
            SUBMITTED,
            call(CANCEL, 2, 9, ENDED),
            call(READ, 3, 4, status=TaskStatus.RUNNING, cancel_requested=True),
            call(READ, 5, 6, status=TaskStatus.COMPLETED),
        ],
        [SUBMITTED, call(CANCEL, 2, answer=UNKNOWN), call(READ, 4, 5, status=TaskStatus.CANCELLED)],
        [SUBMITTED, call(CANCEL, 2, answer=UNKNOWN), call(READ, 4, 5, status=TaskStatus.RUNNING)],
        [call(CANCEL, 0, 5, ABSENT), call(SUBMIT, 1, 2), call(READ, 6, 7, status=TaskStatus.RUNNING)],
    ],
)
def test_calls_that_fit_into_one_order_are_linearizable(calls: list[Call]) -> None:
    assert linearizable(calls)


@pytest.mark.parametrize(
    "calls",
    [
        # An acknowledged task is there.
        [SUBMITTED, call(READ, 2, 3, ABSENT)],
        [call(SUBMIT, 0, 9), call(READ, 1, 2, status=TaskStatus.PENDING), call(READ, 3, 4, ABSENT)],
        # A read is not older than one that ended before it began.
        [
            SUBMITTED,
            call(READ, 2, 3, status=TaskStatus.RUNNING, fence=2),
            call(READ, 4, 5, status=TaskStatus.RUNNING, fence=1),
        ],
        [
            SUBMITTED,
            call(READ, 2, 3, status=TaskStatus.PENDING, attempts=1),
            call(READ, 4, 5, status=TaskStatus.PENDING, attempts=0),
        ],
        # An end is final.
        [SUBMITTED, call(READ, 2, 3, status=TaskStatus.COMPLETED), call(READ, 4, 5, status=TaskStatus.RUNNING)],
        [SUBMITTED, call(READ, 2, 3, status=TaskStatus.COMPLETED), call(READ, 4, 5, status=TaskStatus.ERROR)],
        # A cancel that was acknowledged is seen from then on; one that was refused met an end.
        [SUBMITTED, call(CANCEL, 2, 3), call(READ, 4, 5, status=TaskStatus.RUNNING)],
        [SUBMITTED, call(CANCEL, 2, 3, ENDED), call(READ, 4, 5, status=TaskStatus.RUNNING)],
        [SUBMITTED, call(CANCEL, 2, 3, ABSENT)],
        [SUBMITTED, call(READ, 2, 3, status=TaskStatus.COMPLETED), call(CANCEL, 4, 5)],
        # Nothing is cancelled that nobody cancelled.
        [SUBMITTED, call(READ, 2, 3, status=TaskStatus.CANCELLED)],
        [SUBMITTED, call(READ, 2, 3, status=TaskStatus.RUNNING, cancel_requested=True)],
        # Nothing is there before it was submitted.
        [call(READ, 0, 1, status=TaskStatus.PENDING), call(SUBMIT, 2, 3)],
        [call(READ, 0, 1, status=TaskStatus.PENDING), call(SUBMIT, 2, answer=UNKNOWN)],
    ],
)
def test_calls_that_fit_into_no_order_are_found(calls: list[Call]) -> None:
    assert not linearizable(calls)


class Written:
    """A log that is written entry by entry."""

    def __init__(self) -> None:
        self.entries: list[LogEntry] = []
        self._position = Position(GENERATION.id, GENERATION.base, NO_HASH)

    def begin(self, term: int) -> None:
        """Begins a term."""
        leader = announcement.encode(Announcement("l1", "", "", "", "", ""))
        self._append(term, log_entries.Kind.TERM, encode_term(TermBegun(leader, 0, "")))

    def submit(self, term: int, seq: int, batch: int = 1) -> None:
        """Writes a task that is not granted yet."""
        new = new_task(seq, changed=changed_number(term, batch))
        self._append(term, log_entries.Kind.BATCH, encode_batch(Batch(inserts=[new])))

    def grant(self, term: int, seq: int, number: int, *, batch: int = 2, fence_of: int = 0) -> None:
        """Writes a grant under a fence of its term, or of another one."""
        running = Standing(Status.RUNNING, 0, fence=changed_number(fence_of or term, number))
        moved = MovedTask(seq, changed_number(term, batch), running)
        self._append(term, log_entries.Kind.BATCH, encode_batch(Batch(moves=[moved])))

    def _append(self, term: int, kind: log_entries.Kind, body: bytes) -> None:
        data, self._position = seal(self._position, term, kind, body, b"nonce")
        self.entries.append(LogEntry(self._position.index, data))


def good_log() -> Written:
    """A log of two terms, with two tasks and three grants."""
    log = Written()
    log.begin(5)
    log.submit(5, 1)
    log.submit(5, 2, batch=2)
    log.grant(5, 1, 1, batch=3)
    log.begin(7)
    log.grant(7, 2, 1, batch=1)
    log.grant(7, 1, 2)
    return log


def test_a_good_log_has_no_findings() -> None:
    checks = check_log(GENERATION, good_log().entries)
    assert (checks.found, checks.terms, checks.grants) == ([], {5: "l1", 7: "l1"}, 3)


def _missing(log: Written) -> None:
    del log.entries[3]


BAD: dict[str, Callable[[Written], None]] = {
    "the entries form one chain": _missing,
    "each term has one leader": lambda log: log.begin(7),
    "terms only grow": lambda log: log.begin(6),
    "a term begins with the entry that names its leader": lambda log: log.submit(8, 3),
    "changes are numbered by term and batch: 70000000001": lambda log: log.submit(7, 3, batch=1),
    "fences only grow, and each is granted once: 70000000001": lambda log: log.grant(7, 1, 1),
    "fences only grow, and each is granted once: 70000000002": lambda log: log.grant(7, 2, 2),
    "a fence carries its term": lambda log: log.grant(7, 2, 1, fence_of=8),
}


@pytest.mark.parametrize("rule", BAD)
def test_a_log_that_breaks_a_rule_is_found(rule: str) -> None:
    log = good_log()
    BAD[rule](log)
    found = check_log(GENERATION, log.entries).found
    assert any(rule in each for each in found), found


async def stored(path: Path, log: Written, upto: int) -> Path:
    """Makes a store that has applied the first entries of a log."""
    store = SqliteStore(path)
    await store.open_logged(None)
    await store.join_log(Position(GENERATION.id, GENERATION.base, NO_HASH), GENERATION.term_floor)
    await Replica(store, await store.current()).apply(log.entries[:upto])
    await store.close()
    return path


async def test_stores_that_are_prefixes_of_the_log_have_no_findings(tmp_path: Path) -> None:
    log = good_log()
    stores = {f"l{upto}": await stored(tmp_path / f"{upto}.db", log, upto) for upto in (2, 5, len(log.entries))}
    assert await check_stores(tmp_path, GENERATION, log.entries, check_log(GENERATION, log.entries), stores) == []


async def test_a_store_that_is_ahead_of_the_log_is_found(tmp_path: Path) -> None:
    log = good_log()
    stores = {"l1": await stored(tmp_path / "1.db", log, len(log.entries))}
    log.entries.pop()
    found = await check_stores(tmp_path, GENERATION, log.entries, check_log(GENERATION, log.entries), stores)
    assert [each.startswith("a store is a prefix of the log: that of l1") for each in found] == [True]


async def test_a_store_that_went_another_way_is_found(tmp_path: Path) -> None:
    log, other = good_log(), good_log()
    log.submit(7, 3, batch=3)
    other.submit(7, 4, batch=3)
    stores = {"l1": await stored(tmp_path / "1.db", other, len(other.entries))}
    found = await check_stores(tmp_path, GENERATION, log.entries, check_log(GENERATION, log.entries), stores)
    assert [each.startswith("a store is a prefix of the log: that of l1") for each in found] == [True]


async def test_a_store_that_has_applied_the_same_to_another_effect_is_found(tmp_path: Path) -> None:
    log = good_log()
    path = await stored(tmp_path / "1.db", log, len(log.entries))
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("UPDATE specs SET body = x'00' WHERE seq = 2")
    found = await check_stores(tmp_path, GENERATION, log.entries, check_log(GENERATION, log.entries), {"l1": path})
    assert [each.startswith("stores that have applied the same entries are equal: that of l1") for each in found] == [
        True
    ]
