"""A leader whose disk is full hands over to one that has room, and to no other."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace
from replication_leader import LoneLeader, announcement, now

from gowork.leader._replication import relief
from gowork.leader._replication.journal import LogBlockedError
from gowork.leader._replication.log_watch import LogWatch
from gowork.leader._replication.registers import Registration, encode
from gowork.leader._replication.relief import Relief
from gowork.leader.log import LogRefusedError
from gowork.leader.store import StoreBlockedError, StoreFullError


class Led:
    """A term, and what this process does in the log."""

    def __init__(self) -> None:
        self.blocked: StoreBlockedError | None = None
        self.applied = 1
        self.stepped_down = 0

    def step_down(self) -> None:
        self.stepped_down += 1


class Office:
    """A leader on a log in memory, and its duty."""

    def __init__(self, leader: LoneLeader) -> None:
        self.leader = leader
        self.led = Led()
        self.stopped = asyncio.Event()
        watch = LogWatch(leader.log, leader.span, lambda: now().mono)
        own = announcement(leader.store_id)
        self.relief = Relief(leader.log, own, self.led, lambda: now().wall_ms, watch)
        self.relief.attach(self.led)
        self.running = asyncio.ensure_future(self.relief.run(self.stopped))

    async def register(self, store_id: str, *, has_room: bool) -> None:
        registration = Registration(announcement(store_id), 1, 1, now().wall_ms, 1)
        await self.leader.log.put_note(registration.key(), encode(replace(registration, has_room=has_room)))

    async def stepped_down(self) -> int:
        """How often it has stepped down after a while."""
        await asyncio.sleep(5 * relief.LOOK_SECONDS)
        return self.led.stepped_down


@pytest.fixture
async def office() -> Office:
    leader = LoneLeader()
    await leader.lead()
    return Office(leader)


async def test_who_has_no_room_hands_over_once_to_one_that_has(office: Office) -> None:
    await office.register(office.leader.store_id, has_room=True)
    await office.register("full", has_room=False)
    office.led.blocked = StoreFullError("full")
    # Its own registration may be older than the full disk.
    assert await office.stepped_down() == 0
    await office.register("roomy", has_room=True)
    assert await office.stepped_down() == 1
    assert office.running.done()


async def test_who_waits_for_something_else_than_room_does_not_hand_over(office: Office) -> None:
    await office.register("roomy", has_room=True)
    assert await office.stepped_down() == 0
    # No other leader could write either.
    office.led.blocked = LogBlockedError("etcd has used up its quota")
    assert await office.stepped_down() == 0
    office.led.blocked = StoreFullError("full")
    assert await office.stepped_down() == 1


async def test_a_log_that_does_not_say_who_has_room_is_asked_again(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused() -> None:
        raise LogRefusedError("user name is empty")

    await office.register("roomy", has_room=True)
    office.led.blocked = StoreFullError("full")
    with monkeypatch.context() as patched:
        patched.setattr(office.leader.log, "_reach", refused)
        assert await office.stepped_down() == 0
        assert not office.running.done()
    assert await office.stepped_down() == 1


async def test_it_ends_with_its_term(office: Office) -> None:
    await asyncio.sleep(relief.LOOK_SECONDS / 2)
    began = asyncio.get_running_loop().time()
    office.stopped.set()
    await office.running
    assert asyncio.get_running_loop().time() - began < relief.LOOK_SECONDS / 4
