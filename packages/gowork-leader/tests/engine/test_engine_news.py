"""The leader's log names members that come and go, and tasks that are put into quarantine."""

from __future__ import annotations

import logging

import pytest

from gowork.leader._core.changes import ScheduleTicked
from gowork.leader._core.model import Liveness
from gowork.leader._core.schedules import SkipReason
from gowork.leader._core.tally import Tally
from gowork.leader._engine.news import LINES_MAX, log_news


def told(caplog: pytest.LogCaptureFixture, tally: Tally) -> list[tuple[str, str, object]]:
    with caplog.at_level(logging.INFO, "gowork.leader"):
        log_news(tally)
    return [
        (record.levelname, record.message, getattr(record, "worker", None) or getattr(record, "task_id", None))
        for record in caplog.records
    ]


def test_who_comes_and_goes_and_what_is_quarantined_has_a_line(caplog: pytest.LogCaptureFixture) -> None:
    tally = Tally()
    tally.connected = ["new"]
    tally.gone = [("dead", Liveness.LOST), ("done", Liveness.LEFT)]
    tally.quarantined = [("poison", 4)]
    assert told(caplog, tally) == [
        ("INFO", "worker connected", "new"),
        ("WARNING", "worker lost", "dead"),
        ("INFO", "worker left", "done"),
        ("WARNING", "task quarantined", "poison"),
    ]
    assert caplog.records[-1].__dict__["attempt"] == 4


def test_ticks_that_nobody_will_make_have_a_line_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    tally = Tally()
    tally.ticked = [
        ScheduleTicked("s", None, 1),
        ScheduleTicked("s", SkipReason.OVERLAP, 1),
        ScheduleTicked("s", SkipReason.MISSED, 7),
        ScheduleTicked("t", SkipReason.REFUSED, 1, why="the limit is 5"),
    ]
    told(caplog, tally)
    lines = [record.__dict__ for record in caplog.records]
    assert [(line["msg"], line["schedule"], line["ticks"]) for line in lines] == [
        ("ticks skipped", "s", 7),
        ("ticks skipped", "t", 1),
    ]
    assert lines[1]["reason"] == "the limit is 5"


def test_the_loss_of_many_has_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    tally = Tally()
    tally.gone = [(f"w{n}", Liveness.LOST) for n in range(LINES_MAX + 5)]
    lines = told(caplog, tally)
    assert len(lines) == LINES_MAX + 1
    assert lines[0][:2] == ("WARNING", "workers gone; only the first have lines of their own")
