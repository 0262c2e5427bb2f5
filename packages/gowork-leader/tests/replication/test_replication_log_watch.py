"""What is known of the log without asking it, and for how long it has been silent."""

from __future__ import annotations

import asyncio

from memory_log import MemoryLog, MemoryPlace

from gowork.leader._replication.announcement import Announcement
from gowork.leader._replication.log_watch import LOOK_SECONDS, LogWatch
from gowork.leader._replication.registers import Registration, encode
from gowork.leader.log import Generation, LogRefusedError, Span


async def test_it_asks_again_and_says_for_how_long_the_log_has_been_silent() -> None:
    place = MemoryPlace()
    place.begin(Generation("g"), None)
    log = MemoryLog(place)
    loop = asyncio.get_running_loop()
    watch = LogWatch(log, Span(1, 0), loop.time)
    running = asyncio.ensure_future(watch.run())
    await asyncio.sleep(LOOK_SECONDS / 2)
    assert watch.span == Span(1, 0)
    own = Registration(Announcement("one", "", "", "", "s", ""), 3, 2, 1, 1)
    place.put_note(own.key(), encode(own), float("inf"))
    place.span = Span(2, 5)
    await asyncio.sleep(LOOK_SECONDS)
    assert watch.span == Span(2, 5)
    assert watch.registrations == {"s": own}
    assert watch.silent_seconds < LOOK_SECONDS
    log.is_cut = True
    await asyncio.sleep(10 * LOOK_SECONDS)
    assert 9 * LOOK_SECONDS < watch.silent_seconds < 12 * LOOK_SECONDS
    assert watch.span == Span(2, 5)
    log.is_cut = False
    await asyncio.sleep(LOOK_SECONDS)
    assert watch.silent_seconds <= LOOK_SECONDS
    running.cancel()


async def test_it_asks_again_when_the_log_has_refused_it() -> None:
    place = MemoryPlace()
    place.begin(Generation("g"), None)
    log = MemoryLog(place)
    watch = LogWatch(log, Span(1, 0), asyncio.get_running_loop().time)
    reach = log._reach

    async def refused() -> None:
        raise LogRefusedError("user name is empty")

    log._reach = refused  # type: ignore[method-assign]
    running = asyncio.ensure_future(watch.run())
    await asyncio.sleep(3 * LOOK_SECONDS)
    # A leader whose duty ends would end, too.
    assert not running.done()
    assert watch.silent_seconds > 2 * LOOK_SECONDS
    log._reach = reach  # type: ignore[method-assign]
    await asyncio.sleep(LOOK_SECONDS)
    assert watch.silent_seconds < LOOK_SECONDS
    running.cancel()


async def test_how_long_ago_a_leader_registered_is_told_by_the_own_clock_once_it_registers_again() -> None:
    place = MemoryPlace()
    place.begin(Generation("g"), None)
    loop = asyncio.get_running_loop()
    watch = LogWatch(MemoryLog(place), Span(1, 0), loop.time)

    def register(seen_ms: int) -> None:
        own = Registration(Announcement("one", "", "", "", "s", ""), 3, 2, seen_ms, 1)
        place.put_note(own.key(), encode(own), float("inf"))

    # Before it was seen, the clocks are all there is. One that is ahead is as far off as one that is behind.
    assert watch.age_seconds("s", 5_000, 65_000) == watch.age_seconds("s", 65_000, 5_000) == 60
    register(1_000)
    running = asyncio.ensure_future(watch.run())
    await asyncio.sleep(LOOK_SECONDS / 2)
    assert watch.age_seconds("s", 1_000, 301_000) == 300
    # It has registered for at least so long.
    await asyncio.sleep(4 * LOOK_SECONDS)
    assert watch.age_seconds("s", 1_000, 1_000) >= 4 * LOOK_SECONDS
    # This one is newer than the last look.
    assert watch.age_seconds("s", 2_000, 302_000) == 0
    register(2_000)
    await asyncio.sleep(LOOK_SECONDS)
    assert watch.age_seconds("s", 2_000, 302_000) <= LOOK_SECONDS
    await asyncio.sleep(4 * LOOK_SECONDS)
    assert 4 * LOOK_SECONDS <= watch.age_seconds("s", 2_000, 2_000) <= 5 * LOOK_SECONDS
    # A leader that is gone and comes again begins anew.
    place.drop_note("store/s")
    await asyncio.sleep(LOOK_SECONDS)
    register(3_000)
    await asyncio.sleep(LOOK_SECONDS)
    assert watch.age_seconds("s", 3_000, 303_000) == 300
    running.cancel()
