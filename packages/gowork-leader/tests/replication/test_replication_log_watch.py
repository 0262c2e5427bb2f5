"""What is known of the log without asking it, and for how long it has been silent."""

from __future__ import annotations

import asyncio

from memory_log import MemoryLog, MemoryPlace

from gowork.leader._replication.announcement import Announcement
from gowork.leader._replication.log_watch import LOOK_SECONDS, LogWatch
from gowork.leader._replication.registers import Registration, encode
from gowork.leader.log import Generation, Span


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
