"""What a leader does about a call to the log that stays in doubt while its lease goes on."""

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
