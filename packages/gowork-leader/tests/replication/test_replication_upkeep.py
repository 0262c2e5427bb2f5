"""Each leader forces its store to disk and registers it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from replication_leader import VALUE_BYTES, LoneLeader, announcement, now

from gowork.leader._replication import upkeep
from gowork.leader._replication.registers import Registration, registered
from gowork.leader.log import LogRefusedError
from gowork.leader.log.entries import FORMAT
from gowork.leader.store import StoreError, StoreFullError


@pytest.fixture
async def leader() -> LoneLeader:
    leader = LoneLeader()
    await leader.lead()
    return leader


@asynccontextmanager
async def kept_up(leader: LoneLeader, *gone: str) -> AsyncIterator[asyncio.Task[None]]:
    running = asyncio.create_task(leader.make_upkeep(gone).run())
    await asyncio.sleep(0.5)
    try:
        yield running
    finally:
        running.cancel()
        await asyncio.wait({running})


async def test_a_store_is_registered_with_what_it_has_applied_and_forced(leader: LoneLeader) -> None:
    await leader.write(3)
    leader.store.forced = 2
    async with kept_up(leader):
        found = (await registered(leader.log))[leader.store_id]
    assert now().wall_ms - 1_000 < found.seen_ms <= now().wall_ms
    assert found == Registration(announcement(leader.store_id), 4, 2, found.seen_ms, FORMAT)


async def test_a_store_is_not_registered_before_it_was_forced(
    leader: LoneLeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(self: object) -> None:
        raise StoreFullError("full")

    with monkeypatch.context() as patch:
        patch.setattr(type(leader.store), "force", full)
        async with kept_up(leader):
            await asyncio.sleep(100)
            assert await leader.registered() == {}
            patch.undo()
            await asyncio.sleep(upkeep.FORCE_SECONDS + 2)
            assert await leader.registered() == {leader.store_id: 1}


async def test_a_store_is_forced_and_registered_again_and_again(leader: LoneLeader) -> None:
    async with kept_up(leader):
        forces, seen = leader.store.forces, set()
        for _ in range(60):
            await asyncio.sleep(upkeep.REGISTER_SECONDS)
            seen.add((await registered(leader.log))[leader.store_id].seen_ms)
        assert len(seen) > 55
        assert 15 <= leader.store.forces - forces <= 20


async def test_a_store_is_forced_and_registered_soon_after_it_has_applied_much(
    leader: LoneLeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "FORCE_BYTES", 3 * VALUE_BYTES)
    async with kept_up(leader):
        await leader.write(2)
        await asyncio.sleep(5)
        assert await leader.registered() == {leader.store_id: 1}
        await leader.write(1)
        await asyncio.sleep(2)
        assert await leader.registered() == {leader.store_id: 4}


async def test_stores_that_the_leader_had_before_are_registered_no_more(leader: LoneLeader) -> None:
    await leader.register("before", 1)
    await leader.register("other", 1)
    leader.log.is_cut = True
    async with kept_up(leader, "before"):
        leader.log.is_cut = False
        await asyncio.sleep(upkeep.REGISTER_SECONDS)
        assert sorted(await leader.registered()) == sorted([leader.store_id, "other"])


async def test_a_full_log_is_told_and_that_it_is_no_longer_full(leader: LoneLeader) -> None:
    async with kept_up(leader):
        leader.log.is_full = True
        await asyncio.sleep(upkeep.REGISTER_SECONDS + 1)
        assert leader.told[-1] == "no room; use defrag"
        leader.log.is_full = False
        await asyncio.sleep(upkeep.AGAIN_SECONDS + 1)
        assert leader.told[-1] is None


async def test_a_log_that_refuses_for_a_while_ends_no_leader(leader: LoneLeader) -> None:
    put_note = leader.log.put_note

    async def refused(key: str, value: bytes, seconds: float | None = None) -> None:
        raise LogRefusedError("user name is empty")

    leader.log.put_note = refused  # type: ignore[method-assign]
    async with kept_up(leader) as running:
        # Less than FORCE_SECONDS, after which it is registered in any case.
        await asyncio.sleep(2.2 * upkeep.REGISTER_SECONDS)
        assert not running.done()
        leader.log.put_note = put_note  # type: ignore[method-assign]
        # It is tried again soon, though a store that is registered has more time.
        await asyncio.sleep(2 * upkeep.AGAIN_SECONDS)
        assert await leader.registered() == {leader.store_id: 1}


async def test_a_store_that_can_not_be_forced_ends_the_leader(
    leader: LoneLeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(self: object) -> None:
        raise StoreError("broken")

    monkeypatch.setattr(type(leader.store), "force", broken)
    async with kept_up(leader) as running:
        with pytest.raises(ExceptionGroup) as caught:
            await running
    assert caught.group_contains(StoreError, match="broken")
