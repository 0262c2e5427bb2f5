"""Until when a leader counts on its leadership, and what it does about a call that stays in doubt meanwhile."""

from __future__ import annotations

import logging

import pytest

from gowork.leader.log import Leader, LogUnreachableError
from gowork.leader.log import holding as settling
from gowork.leader.log.holding import Holding, OwnLease


async def test_a_call_that_stays_in_doubt_is_told_with_its_reason_and_not_each_time(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "PAUSE_SECONDS", 0.0)
    seconds = 0.0
    holding = Holding(Leader(1, 1, b""), OwnLease(1000.0, 0.0, lambda: seconds))

    async def call() -> str:
        nonlocal seconds
        seconds += 1.0
        if seconds > 40:
            return "done"
        raise LogUnreachableError(f"locked for {seconds:g} s")

    with caplog.at_level(logging.WARNING):
        assert await holding.until_told(call) == "done"
    assert [(record.message, record.reason) for record in caplog.records] == [  # type: ignore[attr-defined]
        ("log does not settle a call", "locked for 5 s"),
        ("log does not settle a call", "locked for 35 s"),
    ]


async def test_a_leadership_that_is_over_does_not_come_back() -> None:
    time = 0.0
    own = OwnLease(10.0, 0.0, lambda: time)
    holding = Holding(Leader(1, 1, b"one"), own)
    time = 8.9
    assert holding.holds()
    time = 9.1
    assert not holding.holds()
    # The answer to a keepalive that was sent before was late.
    own.renewed(8.0)
    assert own.now() < own.until
    assert not holding.holds()
    assert holding.lost.is_set()


async def test_a_late_answer_to_an_earlier_keepalive_makes_the_lease_no_shorter() -> None:
    own = OwnLease(10.0, 0.0, lambda: 0.0)
    own.renewed(5.0)
    own.renewed(3.0)
    assert own.until == 14.0
