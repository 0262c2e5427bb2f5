"""Leaders that share a log keep it small, and help themselves when a store can't follow it."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import apsw
import grpc
import pytest
from leader_serving import PATIENCE, refused
from memory_log import MemoryLeadership, MemoryLog, MemoryPlace
from sharing_leaders import Sharing, sharing

from gowork.leader._app import fitting, standby, term
from gowork.leader._engine.ages import Ages
from gowork.leader._replication import candidacy, pins, pruning, replica, upkeep
from gowork.leader._rpc import copying
from gowork.leader.log import (
    Candidate,
    Generation,
    Leader,
    LeadershipLostError,
    LogFullError,
    LogRefusedError,
    LogUnreachableError,
)
from gowork.leader.log.entries import NewerFormatError
from gowork.leader.store.protocol import Batch, Position, StoreError, StoreFullError
from gowork.leader.store.sqlite import SqliteStore
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb


@pytest.fixture(autouse=True)
def all_goes_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "FORCE_SECONDS", 0.05)
    monkeypatch.setattr(upkeep, "AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(pruning, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(pins, "PIN_SECONDS", 2.0)
    monkeypatch.setattr(pins, "AGAIN_SECONDS", 0.5)
    monkeypatch.setattr(standby, "BLOCKED_SECONDS", 0.05)
    monkeypatch.setattr(candidacy, "AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(replica, "BLOCKED_RETRY_SECONDS", 0.05)


@pytest.fixture
async def crew(tmp_path: Path) -> AsyncIterator[Sharing]:
    async with asyncio.timeout(PATIENCE), sharing(tmp_path) as crew:
        yield crew


async def pair(crew: Sharing) -> None:
    """Has a lead and b follow, with two tasks in both stores."""
    await crew.start("a")
    await crew.says("a", 200, "ready")
    await crew.start("b")
    await crew.says("b", 200, "follows")
    await crew.submitted("a", "one", "two")
    await crew.forced("a", "b")


def change(path: Path, *statements: str) -> None:
    """Changes a closed store behind its back."""
    with apsw.Connection(str(path)) as connection:
        for statement in statements:
            connection.execute(statement)
            assert connection.changes() >= 1, statement
    connection.close()


async def leads_with(crew: Sharing, name: str, *ids: str) -> None:
    """Checks that a leader leads once it is alone, and has these tasks."""
    for other in crew.running:
        if other != name:
            await crew.stop(other)
    text = await crew.says(name, 200, "ready")
    assert text == "ready"
    served = crew._served[name]
    assert sorted([(await served.get(each)).id for each in ids]) == sorted(ids)


async def test_the_log_is_pruned_while_leaders_share_it_and_none_needs_a_copy(crew: Sharing) -> None:
    await pair(crew)
    await crew.start("c")
    await crew.says("c", 200, "follows")
    for number in range(20):
        await crew.submitted("abc"[number % 3], f"task-{number}")
    await crew.forced("a", "b", "c")
    while crew.place.span.first < crew.place.span.last:  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0.01)
    assert [crew.asides(name) for name in "abc"] == [[], [], []]
    assert await crew.ready("a") == (200, "ready")
    await leads_with(crew, "c", "one", "two", "task-0", "task-19")


async def test_a_leader_that_lacks_what_was_pruned_sets_its_store_aside_and_takes_a_copy(crew: Sharing) -> None:
    await pair(crew)
    before = (await crew.registered("a", "b"))["b"].leader.store_id
    await crew.stop("b")
    await crew.submitted("a", "three")
    await crew.submitted("a", "four")
    leader, _ = crew.place.leader()
    assert leader is not None
    crew.place.prune(leader.token, crew.place.span.last)
    await crew.start("b")
    await crew.says("b", 200, "follows")
    (aside,) = crew.asides("b")
    assert aside.stat().st_size
    await crew.forced("a", "b")
    # What it had before is registered no more.
    assert (await crew.registered("a", "b"))["b"].leader.store_id != before
    await leads_with(crew, "b", "one", "three", "four")


async def test_a_copy_that_fails_is_made_again_and_the_store_is_set_aside_when_one_is_there(
    crew: Sharing, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pair(crew)
    await crew.stop("b")
    path = crew.store_path("b")
    path.write_bytes(path.read_bytes()[:4096])
    scratch = path.with_name("b.db.backup")
    asides: list[int] = []
    leading = crew._served["a"].addresses.scheduler
    receive, install = copying._Taking._receive, SqliteStore.install_copy

    async def full(taking: copying._Taking, begun: copying._Begun, least: int) -> None:
        if begun.address != leading:
            # Where b was itself.
            await receive(taking, begun, least)
        asides.append(len(crew.asides("b")))
        if len(asides) == 1:
            scratch.write_bytes(b"a part of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        assert not scratch.exists()
        await receive(taking, begun, least)

    async def full_again(store: SqliteStore, backup: Path) -> None:
        asides.append(len(crew.asides("b")))
        if len(asides) == 3:
            raise StoreFullError("There is no room.")
        await install(store, backup)

    monkeypatch.setattr(copying._Taking, "_receive", full)
    monkeypatch.setattr(copying, "AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(SqliteStore, "install_copy", full_again)
    await crew.start("b")
    await crew.says("b", 200, "follows")
    # Fetched in vain, fetched, installed in vain, fetched, installed.
    assert asides == [0, 0, 1, 1, 1]
    assert not scratch.exists()
    await leads_with(crew, "b", "one", "two")


async def test_a_leader_with_a_damaged_store_takes_a_copy(crew: Sharing) -> None:
    await pair(crew)
    await crew.stop("b")
    path = crew.store_path("b")
    damaged = path.read_bytes()[:4096] + os.urandom(8192)
    path.write_bytes(damaged)
    await crew.start("b")
    await crew.says("b", 200, "follows")
    (aside,) = crew.asides("b")
    assert aside.read_bytes() == damaged
    await leads_with(crew, "b", "one", "two")


async def test_a_damaged_store_is_left_as_it_is_when_the_log_has_not_begun(crew: Sharing) -> None:
    path = crew.store_path("a")
    path.write_bytes(b"SQLite format 3\0" + bytes(84))
    await crew.start("a")
    await asyncio.wait({crew.running["a"]})
    assert crew.running["a"].exception() is not None
    assert crew.asides("a") == []


async def test_a_store_that_has_diverged_is_set_aside_and_copied_anew(
    crew: Sharing, caplog: pytest.LogCaptureFixture
) -> None:
    await pair(crew)
    await crew.stop("b")
    change(crew.store_path("b"), f"UPDATE meta SET value = x'{'ab' * 32}' WHERE key = 'log_hash'")
    await crew.submitted("a", "three")
    await crew.start("b")
    await crew.replaced("b")
    assert len(crew.asides("b")) == 1
    (record,) = [
        each for each in caplog.records if each.message == "store can't follow the log, and is replaced by a copy"
    ]
    # Both are named.
    assert "abababab" in record.__dict__["reason"]
    assert [each.__dict__["path"] for each in caplog.records if each.message == "store was set aside"] == [
        str(crew.asides("b")[0])
    ]
    await leads_with(crew, "b", "one", "three")


async def test_a_store_that_can_not_apply_an_entry_waits_for_a_leader_and_names_the_entry(crew: Sharing) -> None:
    await pair(crew)
    await crew.stop("b")
    change(
        crew.store_path("b"),
        "DELETE FROM standings WHERE seq IN (SELECT seq FROM specs WHERE id = 'one')",
        "DELETE FROM specs WHERE id = 'one'",
    )
    served = crew._served["a"]
    await served.scheduler.CancelTask(_cancel("one"), timeout=PATIENCE)
    index = crew.place.span.last
    await crew.stop("a")
    await crew.start("b")
    # Nobody leads who has come past the entry. So the store stays, and b does not lead.
    await crew.says("b", 503, f"Entry {index} of the log can't be applied")
    assert crew.asides("b") == []
    await crew.start("a")
    await crew.replaced("b")
    assert len(crew.asides("b")) == 1
    await leads_with(crew, "b", "one", "two")


def _cancel(id: str) -> object:
    from gowork.proto.scheduler.v1 import scheduler_pb2 as pb

    return pb.CancelTaskRequest(id=id)


async def test_a_follower_notes_how_old_batches_are(crew: Sharing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "LOOK_SECONDS", 0.05)
    made: list[Ages] = []

    class Noted(Ages):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    for module in (standby, term):
        monkeypatch.setattr(module, "Ages", Noted)
    await pair(crew)
    await crew.submitted("a", "three")
    leads, follows = made
    while not follows.batch_at(time.monotonic()):  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0.01)
    number = follows.batch_at(time.monotonic())
    await crew.stop("a")
    await crew.says("b", 200, "ready")
    # One for the process, over its terms.
    assert made == [leads, follows]
    assert follows.batch_at(time.monotonic()) >= number


class FullStore(SqliteStore):
    """A store whose disk can be full."""

    is_full = False
    refused = 0

    async def apply(self, entries: Sequence[tuple[Batch | None, Position, int]]) -> None:
        self._look()
        await super().apply(entries)

    async def prepare(self, batch: Batch, position: Position, term: int) -> None:
        self._look()
        await super().prepare(batch, position, term)

    def _look(self) -> None:
        if type(self).is_full:
            type(self).refused += 1
            raise StoreFullError("There is no space left.")


@pytest.fixture
def full_store() -> type[FullStore]:
    class Full(FullStore):
        pass

    return Full


async def test_a_follower_with_a_full_disk_waits_and_goes_on_when_there_is_room(
    crew: Sharing, full_store: type[FullStore]
) -> None:
    await crew.start("a")
    await crew.says("a", 200, "ready")
    await crew.start("b", full_store)
    await crew.says("b", 200, "follows")
    full_store.is_full = True
    await crew.submitted("a", "one")
    text = await crew.says("b", 503, "lags behind")
    assert "no space left" in text
    # Its calls are forwarded all the same.
    await crew.submitted("b", "two")
    full_store.is_full = False
    await crew.says("b", 200, "follows")
    assert crew.asides("b") == []
    await leads_with(crew, "b", "one", "two")


async def test_a_leader_whose_store_lags_for_want_of_room_does_not_lead(
    crew: Sharing, full_store: type[FullStore]
) -> None:
    await crew.start("a")
    await crew.says("a", 200, "ready")
    await crew.start("b", full_store)
    await crew.says("b", 200, "follows")
    full_store.is_full = True
    await crew.submitted("a", "one")
    await crew.says("b", 503, "lags behind")
    await crew.stop("a")
    tokens, refused = crew.place._tokens, full_store.refused
    while full_store.refused < refused + 10:  # noqa: ASYNC110 - it would have been elected by then
        await asyncio.sleep(0.01)
    assert crew.place._tokens == tokens
    full_store.is_full = False
    await leads_with(crew, "b", "one")


async def test_a_leader_with_a_full_disk_leaves_the_term_to_one_with_room(
    crew: Sharing, full_store: type[FullStore]
) -> None:
    full_store.is_full = True
    await crew.start("a", full_store)
    await crew.says("a", 503, "no space left")
    full_store.is_full = False
    await crew.says("a", 200, "ready")
    await crew.start("b")
    await crew.says("b", 200, "follows")
    await crew.submitted("a", "one")
    await crew.forced("a", "b")
    full_store.is_full = True
    await crew.stop("b")
    assert await crew.ready("a") == (200, "ready")
    await crew.stop("a")
    await crew.start("a", full_store)
    await crew.says("a", 503, "no space left")
    await crew.start("b")
    await crew.says("b", 200, "ready")
    await crew.submitted("b", "two")


class FullLog(MemoryLog):
    """A log that can be full."""

    is_full = False
    campaigns = 0

    async def begin(self, generation: Generation, replaces: str | None) -> None:
        self._look()
        await super().begin(generation, replaces)

    async def campaign(self, candidate: Candidate) -> MemoryLeadership:
        self.campaigns += 1
        self._look()
        return await super().campaign(candidate)

    async def put_note(self, key: str, value: bytes, seconds: float | None = None) -> None:
        self._look()
        await super().put_note(key, value, seconds)

    def _look(self) -> None:
        if self.is_full:
            raise LogFullError("the log has used up its quota: defrag it, and disarm the alarm")


async def test_a_full_log_is_named_and_the_leader_goes_on_when_it_has_room(crew: Sharing) -> None:
    log = FullLog(crew.place)
    await crew.start("a", log=log)
    await crew.says("a", 200, "ready")
    log.is_full = True
    await crew.says("a", 200, "defrag it, and disarm the alarm")
    leader, _ = crew.place.leader()
    assert leader is not None
    crew.place.depose(leader.token)
    # Nobody can be elected, and the leader stands again and again.
    campaigns = log.campaigns
    while log.campaigns < campaigns + 2:
        assert not crew.running["a"].done()
        await asyncio.sleep(0.01)
    log.is_full = False
    text = await crew.says("a", 200, "ready")
    while "defrag" in text:
        text = await crew.says("a", 200, "ready")


async def test_a_log_that_is_full_before_it_has_begun_is_waited_for(crew: Sharing) -> None:
    log = FullLog(crew.place)
    log.is_full = True
    await crew.start("a", log=log)
    await crew.says("a", 503, "the log takes nothing: the log has used up its quota: defrag it, and disarm the alarm")
    log.is_full = False
    text = await crew.says("a", 200, "ready")
    while "defrag" in text:
        text = await crew.says("a", 200, "ready")


class RefusingLog(MemoryLog):
    """A log that can refuse a leader which it has let in, as an etcd in which authentication was switched on."""

    refuses = False
    refuses_entries = False

    async def campaign(self, candidate: Candidate) -> MemoryLeadership:
        leadership = await super().campaign(candidate)
        if self.refuses_entries:
            leadership.append = self._refuse  # type: ignore[assignment, method-assign]
        return leadership

    async def _reach(self) -> None:
        await super()._reach()
        if self.refuses:
            await self._refuse()

    async def _refuse(self, *_: object) -> None:
        raise LogRefusedError("user name is empty")


async def test_who_was_elected_and_may_write_nothing_goes_on_when_it_may(crew: Sharing) -> None:
    log = RefusingLog(crew.place)
    log.refuses_entries = True
    await crew.start("a", log=log)
    await crew.says("a", 503, "user name is empty")
    tokens = crew.place._tokens
    while crew.place._tokens < tokens + 2:
        assert not crew.running["a"].done()
        await asyncio.sleep(0.01)
    # It waits no longer when another leader leads, that could begin its term.
    await crew.start("b")
    await crew.says("b", 200, "ready")
    await crew.says("a", 200, "follows")
    log.refuses_entries = False
    await crew.stop("b")
    await crew.says("a", 200, "ready")
    await crew.submitted("a", "one")


async def test_a_log_that_refuses_while_a_store_is_replaced_is_waited_for(
    crew: Sharing, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await pair(crew)
    await crew.stop("b")
    change(crew.store_path("b"), f"UPDATE meta SET value = x'{'ab' * 32}' WHERE key = 'log_hash'")
    await crew.submitted("a", "three")
    log = RefusingLog(crew.place)
    take_copy = copying.take_copy

    async def refused_before_and_after(*arguments: Any, **more: Any) -> Path:
        log.refuses = True
        aside = await take_copy(*arguments, **more)
        log.refuses = True
        return aside

    monkeypatch.setattr(fitting, "take_copy", refused_before_and_after)
    monkeypatch.setattr(fitting, "AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(copying, "AGAIN_SECONDS", 0.05)
    await crew.start("b", log=log)
    await crew.says("b", 503, "takes a copy")
    await crew.says("b", 503, "; there is none yet: user name is empty")
    while "user name is empty" not in [each.__dict__.get("reason") for each in caplog.records]:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert crew.asides("b") == []
    log.refuses = False
    await crew.says("b", 503, "the log refuses: user name is empty")
    assert len(crew.asides("b")) == 1
    log.refuses = False
    await crew.says("b", 200, "follows")
    await leads_with(crew, "b", "one", "three")


class SilentLog(MemoryLog):
    """A log that can be silent about who leads."""

    is_silent = False

    async def leaders(self) -> AsyncGenerator[Leader | None, None]:
        if self.is_silent:
            raise LogUnreachableError("all members are away")
        async for leader in super().leaders():
            yield leader


async def test_a_log_that_is_silent_is_named_until_it_answers(crew: Sharing) -> None:
    log = SilentLog(crew.place)
    await crew.start("a", log=log)
    await crew.says("a", 200, "ready")
    leader, _ = crew.place.leader()
    assert leader is not None
    log.is_silent = True
    crew.place.depose(leader.token)
    await crew.says("a", 503, "no leader is known; the log does not answer: all members are away")
    log.is_silent = False
    await crew.says("a", 200, "ready")


async def lost(leadership: MemoryLeadership) -> None:
    raise LeadershipLostError("another leader leads")


@pytest.mark.parametrize("accepts", [True, False])
async def test_one_copy_is_said_or_refused(crew: Sharing, monkeypatch: pytest.MonkeyPatch, accepts: bool) -> None:
    await crew.start("a", may_be_one_copy=accepts)
    await crew.says("a", 200, "ready")
    await crew.start("b")
    await crew.says("b", 200, "follows")
    await crew.forced("a", "b")
    await crew.stop("b")
    monkeypatch.setattr(pruning, "LOG_BYTES_MAX", 1_000)
    monkeypatch.setattr(pruning, "BEHIND_BYTES_MAX", 500)
    await crew.submitted("a", "one", payload='"' + "x" * 2_000 + '"')
    if accepts:
        await crew.says("a", 200, "ready; one copy")
        await crew.submitted("a", "two")
        while crew.place.span.first < crew.place.span.last:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.01)
        await crew.says("a", 200, "ready; one copy")
    else:
        await crew.says("a", 200, "--one-copy refuse")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await crew._served["a"].submit("two")
        assert "--one-copy refuse" in str(caught.value.details())
        await crew.says("a", 503, "the log takes nothing: the log has")
        request = pb.ExplainTaskRequest(id="one")
        explained = await crew._served["a"].scheduler.ExplainTask(request, timeout=PATIENCE)
        (why,) = explained.reasons
        assert why.code == pb.WAIT_CODE_STORE_FULL
        assert why.message == "the log takes nothing, so no task is started"
        assert "--one-copy refuse" in why.advice
        with monkeypatch.context() as deposed:
            deposed.setattr(MemoryLeadership, "confirm", lost)
            refusal = await refused(crew._served["a"].scheduler.ExplainTask(request, timeout=PATIENCE))
        assert refusal.reason == "NOT_LEADING"
    await crew.start("b")
    await crew.forced("a", "b")
    text = await crew.says("a", 200, "ready")
    while text != "ready":
        text = await crew.says("a", 200, "ready")
    await crew.submitted("a", "two")
    assert len(crew.asides("b")) == accepts


async def test_a_leader_whose_log_has_begun_anew_stops_names_both_and_keeps_its_store(crew: Sharing) -> None:
    await pair(crew)
    before = crew.place.generation
    assert before is not None
    crew.place.begin(Generation("another", crew.place.span.last, 9), before.id)
    await asyncio.wait({crew.running["a"], crew.running["b"]})
    for name in "ab":
        error = crew.running[name].exception()
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        assert isinstance(error, StoreError), error
        assert "another" in str(error)
        assert before.id in str(error)
        assert crew.asides(name) == []


async def test_a_leader_that_meets_a_newer_format_stops_and_keeps_its_store(crew: Sharing) -> None:
    await pair(crew)
    before = (await crew.registered("a", "b"))["b"].leader.store_id
    await crew.stop("b")
    leader, _ = crew.place.leader()
    assert leader is not None
    await crew.stop("a")
    place: MemoryPlace = crew.place
    leadership = await MemoryLog(place).campaign(
        Candidate(place.generation.id if place.generation else "", place.span.last, leader.term, b"newer")
    )
    await leadership.append(place.span.last + 1, b"\x92\x02\x00")
    await leadership.resign()
    await crew.start("b")
    await asyncio.wait({crew.running["b"]})
    error = crew.running["b"].exception()
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, NewerFormatError)
    assert error.needed == 2
    assert crew.asides("b") == []
    assert (await crew.registered("a", "b"))["b"].leader.store_id == before
