"""How calls about leaders wait, what they end, and what does not end with a term."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import nullcontext, suppress
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from memory_log import MemoryLog, MemoryPlace

from gowork.leader._replication.announcement import Announcement, encode
from gowork.leader._rpc import leaders as module
from gowork.leader._rpc.leaders import Leaders
from gowork.leader.log import Candidate, Generation
from gowork.proto.cluster.v1 import leader_pb2 as pb

OWN = Announcement("one", "c:1", "s:1", "h:1", "own", "1.0")


class Terms:
    """What a process does in the log."""

    def __init__(self) -> None:
        self.led = 3
        self.applied = 0
        self.stepped_down: list[int] = []
        self.waits = 0
        self.later = asyncio.Event()

    async def later_than(self, term: int) -> None:
        self.waits += 1
        await self.later.wait()

    def step_down(self) -> None:
        self.stepped_down.append(self.led)


@pytest.fixture
async def terms() -> Terms:
    return Terms()


@pytest.fixture
def leaders(terms: Terms, monkeypatch: pytest.MonkeyPatch) -> Leaders:
    monkeypatch.setattr(module, "refusing", lambda context: nullcontext())
    monkeypatch.setattr(module, "census_message", lambda *_: pb.LeadersResponse())
    place = MemoryPlace()
    place.begin(Generation("g"), None)
    own: Any = terms
    made = Leaders(MemoryLog(place), OWN, own, lambda: 1, Mock(), Mock())
    monkeypatch.setattr(made, "_census", AsyncMock(return_value=Mock(leaders=[], leading=None)))
    return made


async def test_no_more_calls_wait_than_may_and_each_makes_room_when_it_ends(
    leaders: Leaders, terms: Terms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAITING_MAX", 1)
    for times in (1, 2, 3):
        waiting = asyncio.ensure_future(leaders.Leaders(pb.LeadersRequest(wait_ms=10_000), Mock()))
        while terms.waits < times:
            assert not waiting.done()
            await asyncio.sleep(0)
        # This one is answered at once.
        await leaders.Leaders(pb.LeadersRequest(wait_ms=10_000), Mock())
        assert (terms.waits, waiting.done()) == (times, False)
        terms.later.set()
        await waiting
        terms.later.clear()


async def test_a_term_that_has_ended_meanwhile_takes_no_later_one_along(
    leaders: Leaders, terms: Terms, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def census() -> Any:
        # Another call has ended it, and this leader leads again.
        if terms.led == 3:
            terms.led = 4
            await leaders._log.campaign(Candidate("g", 0, 3, encode(OWN)))
        return Mock(leaders=[], leading=None)

    monkeypatch.setattr(leaders, "_census", census)
    monkeypatch.setattr(leaders, "_check_successor", lambda census: None)
    with suppress(module.Refusal):
        await leaders.StepDown(pb.StepDownRequest(), Mock())
    assert terms.led == 4
    assert terms.stepped_down == []


async def test_the_end_of_a_term_ends_no_copy(leaders: Leaders) -> None:
    async def parts(*_: object) -> AsyncIterator[pb.CopyStoreResponse]:
        yield pb.CopyStoreResponse()

    leaders._copies = Mock(parts=parts, reading=lambda context: nullcontext())
    async for _ in leaders.CopyStore(pb.CopyStoreRequest(), Mock()):
        assert leaders.outliving == {asyncio.current_task()}
    assert leaders.outliving == set()
