"""What a leader among several notes when it is told who leads, and what its log has no room for."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import Mock

import pytest
from memory_log import MemoryLog, MemoryPlace
from memory_store import MemoryStore, Shelf

from gowork.leader._app import standby as module
from gowork.leader._app.equipment import Equipment
from gowork.leader._app.node import Addresses
from gowork.leader._app.presence import LOG
from gowork.leader._app.standby import Standby
from gowork.leader._replication.announcement import Announcement, encode
from gowork.leader.log import Leader

ADDRESSES = Addresses("c:1", "s:1", "h:1")
OTHER = Leader(5, 9, encode(Announcement("other", "c:2", "s:2", "h:2", "other-store", "1.0")))


@pytest.fixture
async def standby() -> Standby:
    store: Any = MemoryStore(Shelf(), "one")
    equipment = Equipment(Mock(), Mock(), Mock())
    made = Standby(Mock(), store, MemoryLog(MemoryPlace()), equipment, name="one", advertised=ADDRESSES)
    made._early_ending = Mock()
    made._presence = Mock()
    return made


async def test_how_long_nobody_leads_is_counted_from_the_last_leader_on(standby: Standby) -> None:
    standby._told(None, "")
    since = standby._leaderless_mono
    assert since is not None
    standby._told(None, "the log does not answer")
    assert standby._leaderless_mono == since
    standby._told(OTHER, "")
    assert standby._leaderless_mono is None


async def test_a_leader_that_leads_no_more_is_followed_no_more(standby: Standby) -> None:
    followed = Mock()
    standby._presence = Mock(follow=followed)
    for leader, because, noted in (
        (OTHER, "", ("other-store", 5)),
        (None, "", ("", 0)),
        (OTHER, "", ("other-store", 5)),
        (None, "the log does not answer", ("", 0)),
        # Who it is can't be read.
        (Leader(6, 10, b"unreadable"), "", ("", 6)),
    ):
        standby._told(leader, because)
        followed.assert_called_with(*noted)
    standby._node.follow.assert_called_with(None)  # type: ignore[attr-defined]


async def test_what_was_remarked_on_is_over_when_it_is_over(standby: Standby) -> None:
    standby._remark(LOG, "the log is full")
    assert standby._remarked == {LOG}
    standby._remark(LOG, None)
    # Metrics show what is remarked on now.
    assert standby._remarked == set()
    standby._remark(LOG, None)


async def test_a_leader_that_differs_hands_over_once_for_each_check(
    standby: Standby, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "JUDGE_SECONDS", 0.0)
    presence, comparison = Mock(led=3), Mock(checked=7)
    looks: asyncio.Queue[None] = asyncio.Queue()

    def is_wrong(*_: object) -> bool:
        looks.put_nowait(None)
        return True

    comparison.is_wrong = is_wrong
    own = Announcement("one", "c:1", "s:1", "h:1", "store", "1.0")
    judging = asyncio.ensure_future(standby._judge(own, presence, Mock(), comparison))
    for times, checked in ((1, 7), (2, 8)):
        comparison.checked = checked
        for _ in range(3):
            await looks.get()
        # If no other leader takes over it leads again, and would hand over for ever.
        assert presence.step_down.call_count == times
    # When another one leads, its store is replaced.
    presence.led = 0
    with pytest.raises(module._DivergedError, match="at entry 8 of the log"):
        await judging
    assert standby._diverged == 1
