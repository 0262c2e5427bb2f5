"""Counts are bounded whatever names tasks bear, and forget queues that are gone."""

from __future__ import annotations

from gowork.leader._core.changes import ScheduleTicked
from gowork.leader._core.model import LaneKey, Outcome, Priority, Spec, Status
from gowork.leader._core.schedules import SkipReason
from gowork.leader._core.tally import Tally
from gowork.leader._engine.counts import DEFAULT_HANDLER, HANDLERS_MAX, IDLE_SECONDS, OTHER, QUEUES_MAX, Counts


def lane(queue: str = "q", handler: str = "h") -> LaneKey:
    return LaneKey(queue, Priority.LOW, handler, ())


def submitted(*lanes: LaneKey) -> Tally:
    tally = Tally()
    tally.submitted = [Spec(str(n), lane, b"") for n, lane in enumerate(lanes)]
    return tally


def test_queues_beyond_the_limit_share_a_row() -> None:
    counts = Counts()
    counts.applied(submitted(*(lane(f"q{n}") for n in range(QUEUES_MAX + 5))))
    assert len(counts.queues) == QUEUES_MAX + 1
    assert counts.queues[OTHER].submitted["h", "accepted"] == 5


def test_handlers_beyond_the_limit_share_a_row() -> None:
    counts = Counts()
    counts.applied(submitted(*(lane(handler=f"h{n}") for n in range(HANDLERS_MAX + 5))))
    row = counts.queues["q"].submitted
    assert len(row) == HANDLERS_MAX + 1
    assert row[OTHER, "accepted"] == 5


def test_a_queue_that_is_gone_and_silent_loses_its_row() -> None:
    now = 1000.0
    counts = Counts(lambda: now)
    counts.applied(submitted(lane("old"), lane("kept"), lane("present")))
    now += IDLE_SECONDS / 2
    counts.applied(submitted(lane("kept")))
    now += IDLE_SECONDS / 2 + 1
    counts.drop_idle({"present"})
    assert sorted(counts.queues) == ["kept", "present"]


def test_an_end_without_an_attempt_is_no_attempt() -> None:
    counts, tally = Counts(), Tally()
    tally.ended = [(lane(), None, Status.CANCELLED), (lane(), Outcome.COMPLETED, Status.COMPLETED)]
    counts.applied(tally)
    row = counts.queues["q"]
    assert +row.attempts == {"completed": 1}
    assert dict(row.finished) == {("h", "cancelled"): 1, ("h", "completed"): 1}


def test_tasks_that_name_no_handler_are_those_of_the_default_one() -> None:
    counts = Counts()
    counts.applied(submitted(lane(handler="")))
    assert dict(counts.queues["q"].submitted) == {(DEFAULT_HANDLER, "accepted"): 1}


def test_ticks_are_counted_by_what_became_of_them() -> None:
    counts, tally = Counts(), Tally()
    tally.ticked = [ScheduleTicked("s", None, 2), ScheduleTicked("s", SkipReason.MISSED, 7)]
    counts.applied(tally)
    assert (counts.ticks["made"], counts.ticks["skipped_missed"], counts.ticks["refused"]) == (2, 7, 0)
    # All are shown before there are any.
    assert len(counts.ticks) == len(SkipReason) + 1


def test_ends_are_shown_before_there_are_any() -> None:
    counts = Counts()
    counts.applied(submitted(lane()))
    assert dict(counts.queues["q"].finished) == {("h", end): 0 for end in ("completed", "cancelled", "error")}
    assert set(counts.queues["q"].attempts.values()) == {0}
