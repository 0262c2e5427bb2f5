"""Which stores hold what most hold, and when the digests are made that tell."""

# ruff: noqa: ASYNC110 - nothing announces what these tests wait for.

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from memory_store import MemoryStore, Shelf
from replication_leader import LoneLeader, announcement, now

from gowork.leader._replication import checks, comparison
from gowork.leader._replication.announcement import Announcement
from gowork.leader._replication.checks import Checks
from gowork.leader._replication.comparison import Comparison, Verdict, judge
from gowork.leader._replication.registers import Registration, registered
from gowork.leader._replication.replica import Replica
from gowork.leader.log import LeadershipLostError, LogEntry, LogFullError, LogRefusedError
from gowork.leader.log.entries import NO_HASH
from gowork.leader.store import Batch, Fact, Position, StoreError, StoreFullError

EQUAL, DIFFERS, PENDING, OTHER = Verdict.EQUAL, Verdict.DIFFERS, Verdict.PENDING, Verdict.OTHER_VERSION


def registrations(**digests: str) -> dict[str, Registration]:
    """Stores with these digests at entry 9; "" has none yet."""
    return {
        store_id: Registration(announcement(store_id), 9, 9, 1, 1, True, 9 if digest else 4, digest or "old")
        for store_id, digest in digests.items()
    }


@pytest.mark.parametrize(
    ("digests", "verdicts"),
    [
        ({"l": "x"}, [EQUAL]),
        ({"l": "x", "a": "x"}, [EQUAL, EQUAL]),
        # With two, the one that leads is right.
        ({"l": "x", "a": "y"}, [EQUAL, DIFFERS]),
        ({"l": "x", "a": "y", "b": "x"}, [EQUAL, DIFFERS, EQUAL]),
        ({"l": "x", "a": "y", "b": "y"}, [DIFFERS, EQUAL, EQUAL]),
        ({"l": "x", "a": "y", "b": "z"}, [EQUAL, DIFFERS, DIFFERS]),
        ({"l": "x", "a": "y", "b": "y", "c": "x"}, [EQUAL, DIFFERS, DIFFERS, EQUAL]),
        ({"l": "x", "a": "y", "b": ""}, [EQUAL, DIFFERS, PENDING]),
        ({"l": "", "a": "y", "b": "z"}, [PENDING, PENDING, PENDING]),
    ],
)
def test_most_stores_are_right_and_on_a_tie_the_one_that_leads(
    digests: dict[str, str], verdicts: list[Verdict]
) -> None:
    assert list(judge(registrations(**digests), 9, "l").values()) == verdicts


def test_nothing_is_known_without_the_leader_that_leads() -> None:
    assert judge(registrations(a="x", b="y"), 9, "") == {"a": PENDING, "b": PENDING}


def test_digests_of_other_versions_are_not_compared() -> None:
    found = registrations(l="x", a="y", b="y")
    newer = Announcement("a", "", "", "", "a", "2.0")
    found["a"] = Registration(newer, 9, 9, 1, 1, True, 9, "y")
    assert judge(found, 9, "l") == {"l": EQUAL, "a": OTHER, "b": DIFFERS}


class SlowStore(MemoryStore):
    """A store whose digest takes until it is told to end."""

    def __init__(self) -> None:
        super().__init__(Shelf(), "one")
        self.began = asyncio.Event()
        self.ends = asyncio.Event()
        self.fails = False

    async def digest(self, begun: asyncio.Event | None = None) -> bytes:
        # Not at once, because a thread makes it: the store must not go on before.
        for _ in range(20):
            await asyncio.sleep(0)
        made = await super().digest()
        self.began.set()
        # Not at once: the store must not go on meanwhile.
        await asyncio.sleep(0)
        assert begun is not None
        begun.set()
        await self.ends.wait()
        if self.fails:
            raise StoreError("it closes")
        return made


class Following:
    """A leader that leads on a slow store, and a store that follows."""

    def __init__(self) -> None:
        self.leader = LoneLeader()
        self.slow = SlowStore()
        self.leader.store = self.slow  # type: ignore[assignment]
        self.store = MemoryStore(Shelf(), "two")

    async def begin(self) -> None:
        await self.leader.lead()
        self.leader.journal._replica.check = self.leader.comparison.begin
        place = self.leader.log.place
        assert place.generation is not None
        await self.store.open_logged(None)
        await self.store.join_log(Position(place.generation.id, 0, NO_HASH), 0)
        self.replica = Replica(self.store, await self.store.current())
        self.comparison = Comparison(self.store, lambda: now().mono)
        self.replica.check = self.comparison.begin

    async def write(self, key: str) -> None:
        await self.leader.journal.commit(Batch(facts=[Fact("notes", key, b"1")]))

    @property
    def entries(self) -> list[LogEntry]:
        return [LogEntry(index, data) for index, data in sorted(self.leader.log.place.entries.items())]


@asynccontextmanager
async def following() -> AsyncIterator[Following]:
    here = Following()
    await here.begin()
    running = [asyncio.ensure_future(each.run()) for each in (here.leader.comparison, here.comparison)]
    await asyncio.sleep(0)
    try:
        yield here
    finally:
        for each in running:
            each.cancel()
        await asyncio.wait(running)


async def test_a_check_is_digested_where_it_is_while_batches_go_on() -> None:
    async with following() as here:
        await here.write("a")
        index, _ = await asyncio.gather(here.leader.journal.check(), here.write("b"))
        assert here.leader.comparison.under_way == index == here.leader.span.last - 1
        # All in one page.
        await here.replica.apply(here.entries)
        assert here.replica.position.index == here.leader.span.last
        await here.comparison.made.wait()
        here.slow.ends.set()
        await here.leader.comparison.made.wait()
        # Both are of the moment between the two batches.
        assert (here.comparison.checked, here.comparison.digest) == (index, here.leader.comparison.digest)
        assert here.comparison.digest != (await here.store.digest()).hex()
        # It is registered at once.
        upkeep = asyncio.ensure_future(here.leader.make_upkeep().run())
        while not (found := await registered(here.leader.log)):
            await asyncio.sleep(0.01)
        upkeep.cancel()
        assert (found[here.leader.store_id].checked, found[here.leader.store_id].digest) == (
            index,
            here.leader.comparison.digest,
        )


async def test_a_digest_that_takes_long_holds_up_no_later_check() -> None:
    async with following() as here:
        first = await here.leader.journal.check()
        second = await here.leader.journal.check()
        assert second == first + 1
        here.slow.ends.set()
        await here.leader.comparison.made.wait()
        assert here.leader.comparison.checked == first
        assert here.leader.comparison.under_way == 0
        here.leader.comparison.made.clear()
        third = await here.leader.journal.check()
        await here.leader.comparison.made.wait()
        assert here.leader.comparison.checked == third


async def test_a_digest_that_fails_is_told_and_the_next_one_is_made(caplog: pytest.LogCaptureFixture) -> None:
    async with following() as here:
        here.slow.fails = True
        here.slow.ends.set()
        await here.leader.journal.check()
        while here.leader.comparison.under_way:
            await asyncio.sleep(0)
        assert "no digest of the store" in caplog.text
        assert here.leader.comparison.checked == 0
        here.slow.fails = False
        index = await here.leader.journal.check()
        await here.leader.comparison.made.wait()
        assert here.leader.comparison.checked == index


async def test_a_store_goes_on_when_nobody_makes_digests() -> None:
    here = Following()
    await here.begin()
    here.slow.ends.set()
    async with asyncio.timeout(10):
        await here.leader.journal.check()
        await here.replica.apply(here.entries)
    running = asyncio.ensure_future(here.comparison.run())
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait({running})
    async with asyncio.timeout(10):
        await here.comparison.begin(7)


async def test_a_store_that_differs_waits_for_the_missing_digests_but_not_for_ever() -> None:
    async with following() as here:
        here.slow.ends.set()
        compared = here.leader.comparison
        assert not compared.is_wrong(registrations(l="x", own="y"), "own", "l")
        await here.leader.journal.check()
        await compared.made.wait()
        compared.checked = 9
        assert compared.is_wrong(registrations(l="x", own="y"), "own", "l")
        assert not compared.is_wrong(registrations(l="x", own="x"), "own", "l")
        assert not compared.is_wrong(registrations(l="x", own="y", late=""), "own", "l")
        compared._made_mono -= comparison.ANSWER_SECONDS
        assert compared.is_wrong(registrations(l="x", own="y", late=""), "own", "l")
        assert not compared.is_wrong(registrations(l="x", own="x", late=""), "own", "l")


async def test_a_store_waits_for_the_missing_digests_from_its_own_digest_on() -> None:
    async with following() as here:
        here.slow.ends.set()
        compared = here.leader.comparison
        await asyncio.sleep(2 * comparison.ANSWER_SECONDS)
        await here.leader.journal.check()
        await compared.made.wait()
        compared.checked = 9
        assert not compared.is_wrong(registrations(l="x", own="y", late=""), "own", "l")
        await asyncio.sleep(comparison.ANSWER_SECONDS)
        assert compared.is_wrong(registrations(l="x", own="y", late=""), "own", "l")


async def test_a_store_goes_on_when_the_digest_that_it_waits_for_is_given_up() -> None:
    here = Following()
    await here.begin()
    running = asyncio.ensure_future(here.comparison.run())
    await asyncio.sleep(0)

    async def never(begun: asyncio.Event | None = None) -> bytes:
        await asyncio.get_running_loop().create_future()
        return b""

    here.store.digest = never  # type: ignore[method-assign]
    beginning = asyncio.ensure_future(here.comparison.begin(7))
    await asyncio.sleep(1)
    assert not beginning.done()
    running.cancel()
    async with asyncio.timeout(10):
        await beginning


async def test_checks_come_daily_and_the_first_an_hour_after_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "LOOK_SECONDS", 0.01)
    async with following() as here:
        mono = 0.0
        compared = here.leader.comparison
        compared._mono = lambda: mono
        compared.due_mono = comparison.FIRST_CHECK_SECONDS
        here.slow.ends.set()
        stopped = asyncio.Event()
        duty = asyncio.ensure_future(Checks(here.leader.journal, compared, lambda: mono).run(stopped))
        before = here.leader.span.last
        for mono, made in ((3599.0, 0), (3600.0, 1), (3600.0 + 86_399.0, 1), (3600.0 + 86_400.0, 2)):  # noqa: B007
            await asyncio.sleep(0.1)
            assert here.leader.span.last - before == made
        stopped.set()
        await duty


async def test_nothing_goes_on_when_the_end_of_a_term_cancels_the_checks() -> None:
    async with following() as here:
        before = asyncio.all_tasks()
        duty = asyncio.ensure_future(
            Checks(here.leader.journal, here.leader.comparison, lambda: now().mono).run(asyncio.Event())
        )
        while len(asyncio.all_tasks() - before) < 3:
            await asyncio.sleep(0)
        duty.cancel()
        await asyncio.wait({duty})
        assert asyncio.all_tasks() <= before


async def test_who_asks_gets_the_check_that_is_under_way_and_an_error_when_none_can_be_made() -> None:
    async with following() as here:
        stopped = asyncio.Event()
        duty = Checks(here.leader.journal, here.leader.comparison, lambda: now().mono)
        running = asyncio.ensure_future(duty.run(stopped))
        index = await duty.ask()
        assert await duty.ask() == index == here.leader.span.last
        here.slow.ends.set()
        await here.leader.comparison.made.wait()

        async def full(index: int, data: bytes) -> None:
            raise LogFullError("no room")

        append, here.leader.leadership.append = here.leader.leadership.append, full  # type: ignore[method-assign]
        with pytest.raises(LogFullError):
            await duty.ask()
        here.leader.leadership.append = append  # type: ignore[method-assign]
        # One who goes away cuts no append short.
        asking = asyncio.ensure_future(duty.ask())
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait({asking})
        while here.leader.span.last == index:
            await asyncio.sleep(0.01)
        stopped.set()
        await running
        while here.leader.comparison.under_way:
            await asyncio.sleep(0)
        with pytest.raises(LeadershipLostError):
            await duty.ask()


@pytest.mark.parametrize("error", [LogFullError("no room"), LogRefusedError("no"), StoreFullError("full")])
async def test_a_check_that_can_not_be_made_ends_no_term(
    error: Exception, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse() -> int:
        raise error

    async with following() as here:
        here.slow.ends.set()
        monkeypatch.setattr(here.leader.journal, "check", refuse)
        stopped = asyncio.Event()
        running = asyncio.ensure_future(Checks(here.leader.journal, here.leader.comparison, lambda: 1e9).run(stopped))
        await asyncio.sleep(1)
        assert [record.message for record in caplog.records] == ["stores not compared"]
        # At once: who steps down follows its successor when its duties have ended.
        began = asyncio.get_running_loop().time()
        stopped.set()
        await running
        assert asyncio.get_running_loop().time() - began < 1


async def test_who_waits_for_a_check_is_told_that_the_term_is_over() -> None:
    async with following() as here:
        duty = Checks(here.leader.journal, here.leader.comparison, lambda: now().mono)
        stopped = asyncio.Event()
        stopped.set()
        asking = asyncio.ensure_future(duty.ask())
        await asyncio.sleep(0)
        await duty.run(stopped)
        async with asyncio.timeout(10):
            with pytest.raises(LeadershipLostError):
                await asking
