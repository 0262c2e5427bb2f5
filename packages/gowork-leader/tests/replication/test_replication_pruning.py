"""The log is pruned by what most stores have forced, and has a bound."""

from __future__ import annotations

import asyncio

import pytest
from replication_leader import VALUE_BYTES, LoneLeader, now

from gowork.leader._replication import pruning, weight
from gowork.leader._replication.journal import LogBlockedError
from gowork.leader._replication.pins import PIN_SECONDS, pinned, pins
from gowork.leader._replication.registers import ABSENT_MS
from gowork.leader._replication.weight import Weight
from gowork.leader.log import LogError, LogFullError, LogRefusedError, LogUnreachableError, Span
from gowork.leader.store import StoreFullError

DAY_SECONDS = 24 * 3600


@pytest.fixture(autouse=True)
def bounds_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight, "BLOCK_BYTES", 1)
    monkeypatch.setattr(pruning, "LOG_BYTES_MAX", 20 * VALUE_BYTES + VALUE_BYTES // 2)
    monkeypatch.setattr(pruning, "BEHIND_BYTES_MAX", 5 * VALUE_BYTES)


@pytest.fixture
async def leader() -> LoneLeader:
    leader = LoneLeader()
    await leader.lead()
    await leader.write(9)
    # With the entry that begins the term.
    assert leader.span == Span(1, 10)
    return leader


async def test_nothing_is_pruned_that_no_majority_has_forced(leader: LoneLeader) -> None:
    for forced in ((), (0,), (10, 0), (10, 0, 0), (10, 10, 0, 0)):
        for number, index in enumerate(forced):
            await leader.register(f"store{number}" if number else "own", index)
        await leader.pruning.look()
        assert leader.span == Span(1, 10)


@pytest.mark.parametrize(
    ("forced", "first"),
    [((4,), 5), ((10, 9), 10), ((9, 9, 2), 10), ((9, 8, 1), 9), ((9, 8, 8, 1), 9), ((9, 9, 9, 1, 1), 10), ((10,), 10)],
)
async def test_the_log_is_pruned_up_to_what_a_majority_has_forced(
    leader: LoneLeader, forced: tuple[int, ...], first: int
) -> None:
    for number, index in enumerate(forced):
        await leader.register(f"store{number}" if number else "own", index)
    await leader.pruning.look()
    # The last entry stays always.
    assert leader.span == Span(first, 10)
    assert leader.told == []
    assert not leader.store.forces_each
    await leader.pruning.look()
    assert leader.span == Span(first, 10)


async def test_nothing_is_pruned_before_the_leader_has_registered_its_own_store(leader: LoneLeader) -> None:
    await leader.register("b", 9)
    await leader.pruning.look()
    assert leader.span == Span(1, 10)
    await leader.register("own", 9)
    await leader.pruning.look()
    assert leader.span == Span(10, 10)
    assert leader.told == []


async def test_a_store_that_lacks_little_is_waited_for_and_one_that_lacks_more_is_not(leader: LoneLeader) -> None:
    await leader.register("own", 10)
    await leader.register("b", 9)
    await leader.register("c", 6)
    await leader.pruning.look()
    assert leader.span == Span(7, 10)
    await leader.write(4)
    await leader.register("own", 14)
    await leader.register("b", 13)
    await leader.pruning.look()
    assert leader.span == Span(14, 14)


async def test_a_store_that_needs_a_copy_in_any_case_is_not_waited_for(leader: LoneLeader) -> None:
    await leader.register("own", 9)
    await leader.pruning.look()
    await leader.register("c", 3)
    await leader.register("b", 9)
    await leader.write(3)
    await leader.register("own", 12)
    await leader.register("b", 12)
    await leader.pruning.look()
    assert leader.span == Span(13, 13)


async def test_a_pin_keeps_what_the_log_had_when_the_copy_began(leader: LoneLeader) -> None:
    await leader.register("own", 4)
    await leader.pruning.look()
    async with pinned(leader.log):
        assert await pins(leader.log) == [4]
        await leader.register("own", 10)
        await leader.pruning.look()
        assert leader.span == Span(5, 10)
        # It is renewed for as long as the copy takes.
        await asyncio.sleep(10 * PIN_SECONDS)
        assert await pins(leader.log) == [4]
        await leader.pruning.look()
        assert leader.span == Span(5, 10)
    # The copy has time to register.
    await leader.pruning.look()
    assert leader.span == Span(5, 10)
    await asyncio.sleep(PIN_SECONDS)
    await leader.pruning.look()
    assert leader.span == Span(10, 10)


async def test_a_pin_keeps_no_more_than_the_bound(leader: LoneLeader) -> None:
    async with pinned(leader.log):
        await leader.write(20)
        await leader.register("own", 25)
        await leader.pruning.look()
        assert leader.span == Span(26, 30)
        assert leader.told == []
        # From here on it keeps again what there is.
        await leader.write(5)
        await leader.register("own", 35)
        await leader.pruning.look()
        assert leader.span == Span(26, 35)


@pytest.mark.parametrize("error", [LogFullError, LogRefusedError, LogUnreachableError])
async def test_a_copy_goes_on_when_the_log_takes_no_pin(
    leader: LoneLeader, error: type[LogError], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(key: str, value: bytes, seconds: float | None = None) -> None:
        raise error("no pin")

    with monkeypatch.context() as patched:
        patched.setattr(leader.log, "put_note", refuse)
        async with pinned(leader.log):
            assert await pins(leader.log) == []
            patched.undo()
            # It is put as soon as the log takes it.
            await asyncio.sleep(PIN_SECONDS)
            assert await pins(leader.log) == [0]


async def test_a_pin_that_can_not_be_read_keeps_nothing(leader: LoneLeader) -> None:
    await leader.log.put_note("pin/other", b"a later version's")
    await leader.log.put_note("pin/own", b"3")
    assert await pins(leader.log) == [3]


async def test_at_the_bound_one_copy_is_left_and_that_is_said(leader: LoneLeader) -> None:
    await leader.register("own", 10)
    await leader.register("b", 9)
    await leader.register("c", 3)
    await leader.pruning.look()
    assert leader.span == Span(10, 10)
    await leader.write(19)
    await leader.register("own", 29)
    await leader.pruning.look()
    assert (leader.span, leader.told) == (Span(10, 29), [])
    await leader.write(2)
    leader.store.forced = 29
    await leader.pruning.look()
    assert leader.span == Span(30, 31)
    assert leader.store.forces_each
    (words,) = leader.told
    assert words is not None
    assert words.startswith("one copy")
    await leader.write(1)
    await leader.pruning.look()
    assert leader.told == [words]
    # Another term finds the same.
    again = leader.make_pruning(leader.weight)
    await again.look()
    assert leader.told == [words, words]
    await leader.register("b", 28)
    await leader.pruning.look()
    assert leader.store.forces_each
    await leader.register("b", 29)
    await leader.pruning.look()
    assert leader.told == [words, words, None]
    assert not leader.store.forces_each


async def test_at_the_bound_nothing_more_is_written_if_that_was_chosen() -> None:
    leader = LoneLeader()
    await leader.lead(may_be_one_copy=False)
    await leader.register("own", 1)
    await leader.register("b", 1)
    await leader.write(22)
    await leader.register("own", 23)
    await leader.pruning.look()
    assert leader.span == Span(2, 23)
    with pytest.raises(LogBlockedError, match="--one-copy refuse") as caught:
        await leader.write(1)
    assert leader.told == [str(caught.value)]
    assert leader.span == Span(2, 23)
    await leader.register("b", 22)
    await leader.pruning.look()
    assert leader.told[1:] == [None]
    await leader.write(1)
    assert leader.span == Span(23, 24)


async def test_a_leader_that_did_not_see_the_entries_pass_counts_them(leader: LoneLeader) -> None:
    await leader.register("own", 0)
    await leader.write(5)
    counted = Weight(14)
    counted.add(15, VALUE_BYTES)
    newcomer = leader.make_pruning(counted)
    await newcomer.look()
    assert (counted.first, counted.last) == (1, 15)
    assert VALUE_BYTES * 14 < counted.after(0) < VALUE_BYTES * 15
    await leader.register("own", 7)
    await newcomer.look()
    assert leader.span == Span(8, 15)
    await newcomer.look()
    assert counted.first == 8
    assert VALUE_BYTES * 8 < counted.after(0) < VALUE_BYTES * 9


async def test_a_store_that_was_absent_for_a_week_counts_no_more(leader: LoneLeader) -> None:
    await leader.register("own", 9, seen_ms=0)
    await leader.register("b", 9)
    await leader.register("c", 2, seen_ms=now().wall_ms - ABSENT_MS + 120_000)
    await leader.register("d", 2, seen_ms=now().wall_ms - ABSENT_MS - 60_000)
    await leader.pruning.look()
    assert sorted(await leader.registered()) == sorted([leader.store_id, "b", "c", "d"])
    await asyncio.sleep(pruning.SILENT_SECONDS)
    await leader.pruning.look()
    # Its own registration stays, whatever the clocks say.
    assert sorted(await leader.registered()) == sorted([leader.store_id, "b", "c"])
    assert leader.span == Span(10, 10)


async def test_a_store_that_registers_is_there_whatever_its_clock_says(leader: LoneLeader) -> None:
    for second in range(10):
        await leader.register("own", 2)
        await leader.register("wrong clock", 2, seen_ms=second)
        await leader.pruning.look()
        await asyncio.sleep(pruning.SILENT_SECONDS / 2)
    assert await leader.registered() == {leader.store_id: 2, "wrong clock": 2}


@pytest.mark.longer
async def test_a_leader_that_is_left_alone_for_a_day_goes_on_and_says_so(leader: LoneLeader) -> None:
    for store_id in ("b", "c"):
        await leader.register(store_id, 10)
    stopped = asyncio.Event()
    duty = asyncio.ensure_future(leader.pruning.run(stopped))
    upkeep = asyncio.ensure_future(leader.make_upkeep().run())
    for _ in range(24):
        await leader.write(7)
        await asyncio.sleep(DAY_SECONDS / 24)
        assert leader.span.last - leader.span.first <= 22
    assert leader.span.last == 10 + 24 * 7
    words = [each for each in leader.told if each is not None]
    assert [each[:8] for each in words] == ["one copy"]
    assert set(await leader.registered()) == {leader.store_id, "b", "c"}
    for store_id in ("b", "c"):
        await leader.register(store_id, leader.span.last)
    await asyncio.sleep(pruning.LOOK_SECONDS * 2)
    assert leader.told[-1] is None
    stopped.set()
    await duty
    upkeep.cancel()
    await asyncio.wait({upkeep})


async def test_the_duty_looks_at_once_when_much_was_appended_and_ends_when_it_is_told_to(
    leader: LoneLeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "LOOK_BYTES", 3 * VALUE_BYTES)
    stopped = asyncio.Event()
    duty = asyncio.ensure_future(leader.pruning.run(stopped))
    await leader.register("own", 9)
    await asyncio.sleep(pruning.LOOK_SECONDS + 1)
    assert leader.span == Span(10, 10)
    await leader.register("own", 13)
    await leader.write(3)
    await asyncio.sleep(1)
    assert leader.span == Span(13, 13)
    # At once: who steps down follows its successor when its duties have ended.
    began = asyncio.get_running_loop().time()
    stopped.set()
    await duty
    assert asyncio.get_running_loop().time() - began < 1
    assert leader.weight._waiting == []


async def test_the_duty_lives_on_while_the_log_does_not_answer_and_while_the_disk_is_full(
    leader: LoneLeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(self: object) -> None:
        raise StoreFullError("full")

    await leader.register("own", 0)
    await leader.register("b", 0)
    await leader.write(12)
    stopped = asyncio.Event()
    with monkeypatch.context() as patch:
        patch.setattr(type(leader.store), "force", full)
        duty = asyncio.ensure_future(leader.pruning.run(stopped))
        await asyncio.sleep(25)
    assert leader.span == Span(1, 22)
    leader.log.is_silent = True
    leader.log.is_cut = True
    await asyncio.sleep(1)
    leader.log.is_cut = False
    leader.log.is_silent = False
    await asyncio.sleep(25)
    assert leader.span == Span(22, 22)
    leader.log.is_cut = True
    await asyncio.sleep(60)
    assert not duty.done()
    stopped.set()
    await duty
    # Who comes next must say it anew.
    assert leader.told[-1] is None
    assert not leader.store.forces_each
