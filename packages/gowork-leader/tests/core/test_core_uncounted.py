"""Attempts that count for nothing: the first few go back at once, then each waits, and there is a bound."""

from __future__ import annotations

from typing import Any

import pytest
from leader_core import Core, spec

from gowork.leader._core import commands as cmd
from gowork.leader._core.attempts import (
    LASTING_MS,
    SNOOZE_MS_MIN,
    UNCOUNTED_AT_ONCE,
    UNCOUNTED_DELAY_MS_MAX,
    UNCOUNTED_MAX,
)
from gowork.leader._core.model import FailureKind, Outcome, RetryPolicy, Status
from gowork.proto.limits import ATTEMPTS_KEPT


class Loop:
    """One task that is granted and taken back over and over."""

    def __init__(self, *, retry: RetryPolicy | None = None, handler_retry: RetryPolicy | None = None) -> None:
        self.core = Core()
        self.handler_retry = handler_retry
        self.connection = self.connect()
        self.core.submit(spec("a", retry=retry))

    def connect(self) -> int:
        return self.core.connect(credit=1_000_000, retry=self.handler_retry)

    def grant(self) -> int:
        """Waits for the next grant, and answers how long that took in milliseconds."""
        core = self.core
        began_ms = core.wall_ms
        while self.connection not in core.dispatch():
            assert core.standing("a").not_before_ms > core.wall_ms, core.standing("a")
            core.do(cmd.ReceiveFrame(self.connection))
            core.pass_time(min((core.standing("a").not_before_ms - core.wall_ms) / 1000, 5.0))
        return core.wall_ms - began_ms

    def report(self, outcome: Outcome = Outcome.INTERRUPTED, **fields: Any) -> None:
        self.core.report(self.connection, "a", outcome, **fields)

    def turns(self, number: int, outcome: Outcome = Outcome.INTERRUPTED, **fields: Any) -> list[int]:
        """The waits before each attempt, in milliseconds, when attempts end in this way again and again."""
        waits = []
        for _ in range(number):
            waits.append(self.grant())
            self.report(outcome, **fields)
        return waits

    def lasts(self) -> None:
        """A minute of work."""
        for _ in range(LASTING_MS // 5_000):
            self.core.do(cmd.ReceiveFrame(self.connection))
            self.core.pass_time(5)


def test_the_first_attempts_that_count_for_nothing_go_back_at_once() -> None:
    assert Loop().turns(UNCOUNTED_AT_ONCE + 1) == [0] * (UNCOUNTED_AT_ONCE + 1)


def test_each_further_one_waits_twice_as_long_up_to_the_maximum() -> None:
    loop = Loop()
    loop.turns(UNCOUNTED_AT_ONCE)
    waits = loop.turns(12)
    assert waits == [0, 100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]
    assert waits[-1] == UNCOUNTED_DELAY_MS_MAX


def test_a_grant_that_never_arrives_waits_too() -> None:
    loop = Loop()
    for _ in range(UNCOUNTED_AT_ONCE + 1):
        assert loop.grant() == 0
        # The same worker is back and does not have it.
        loop.connection = loop.connect()
    assert loop.grant() == 100


def test_a_loss_of_the_worker_waits_too() -> None:
    loop = Loop()
    for _ in range(UNCOUNTED_AT_ONCE + 1):
        assert loop.grant() == 0
        loop.core.pass_time(10.1)
        loop.connection = loop.connect()
    assert loop.grant() == 100


def test_an_attempt_that_lasted_a_minute_begins_a_new_row() -> None:
    loop = Loop()
    loop.turns(UNCOUNTED_AT_ONCE + 3)
    loop.grant()
    loop.lasts()
    loop.report()
    assert loop.core.standing("a").uncounted == 1
    assert loop.grant() == 0


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.TIMED_OUT])
def test_an_attempt_that_counts_begins_a_new_row(outcome: Outcome) -> None:
    loop = Loop(retry=RetryPolicy(max_attempts=3, initial_delay_ms=1))
    loop.turns(UNCOUNTED_AT_ONCE + 3)
    loop.turns(1, outcome)
    assert loop.core.standing("a").uncounted == 0


def test_past_the_bound_each_attempt_counts() -> None:
    loop = Loop(retry=RetryPolicy(max_attempts=2))
    loop.turns(UNCOUNTED_MAX)
    assert loop.core.standing("a").attempts_used == 0
    loop.turns(1, reason="a drain")
    assert (loop.core.status("a"), loop.core.standing("a").attempts_used) == (Status.PENDING, 1)
    loop.turns(1, reason="a drain")
    failure = loop.core.standing("a").failure
    assert loop.core.status("a") is Status.ERROR
    assert failure is not None
    assert failure.kind is FailureKind.QUARANTINED
    assert failure.message == (
        "taken back 102 times in a row, none of them after a minute of work; the last time: a drain"
    )


def test_past_the_bound_losses_of_the_worker_count_by_the_policy_of_the_handler() -> None:
    loop = Loop(handler_retry=RetryPolicy(max_attempts=2))
    loop.turns(UNCOUNTED_MAX)
    for status in (Status.PENDING, Status.ERROR):
        loop.grant()
        loop.core.pass_time(10.1)
        assert loop.core.status("a") is status
        loop.connection = loop.connect()
    assert loop.core.standing("a").not_before_ms == 0


def test_a_retry_by_hand_begins_a_new_row() -> None:
    loop = Loop()
    loop.turns(UNCOUNTED_MAX + 1)
    assert loop.core.status("a") is Status.ERROR
    loop.core.do(cmd.RetryTask("a"))
    assert loop.core.standing("a").uncounted == 0
    assert loop.turns(2) == [0, 0]


def test_snoozes_without_a_delay_come_to_one_in_a_second_and_never_to_the_bound() -> None:
    loop = Loop()
    waits = loop.turns(UNCOUNTED_MAX + 20, Outcome.SNOOZED)
    assert waits[: UNCOUNTED_AT_ONCE + 1] == [0] * (UNCOUNTED_AT_ONCE + 1)
    assert set(waits[UNCOUNTED_AT_ONCE + 1 :]) == {SNOOZE_MS_MIN}
    assert loop.core.standing("a").attempts_used == 0


def test_a_snooze_of_a_second_or_more_is_as_long_as_asked_for() -> None:
    waits = Loop().turns(12, Outcome.SNOOZED, retry_delay_ms=SNOOZE_MS_MIN + 500)
    assert waits == [0] + [SNOOZE_MS_MIN + 500] * 11


def test_interruptions_and_short_snoozes_by_turns_wait_as_one_row() -> None:
    loop = Loop()
    waits = [loop.turns(1, outcome)[0] for outcome in [Outcome.INTERRUPTED, Outcome.SNOOZED] * 5]
    assert all(waits[UNCOUNTED_AT_ONCE + 1 :])


def test_a_short_snooze_leaves_a_row_as_long_as_it_is() -> None:
    loop = Loop()
    loop.turns(UNCOUNTED_MAX)
    loop.turns(1, Outcome.SNOOZED)
    assert loop.core.standing("a").uncounted == UNCOUNTED_MAX
    # The next one counts.
    loop.turns(1)
    assert loop.core.status("a") is Status.ERROR


def test_a_loss_belongs_to_the_row() -> None:
    loop = Loop()
    loop.turns(UNCOUNTED_AT_ONCE)
    loop.turns(1, Outcome.LOST)
    assert loop.core.standing("a").uncounted == UNCOUNTED_AT_ONCE + 1
    assert loop.grant() == 100


def test_a_cancelled_report_that_nobody_asked_for_ends_the_task() -> None:
    # The handler raised Cancel, or the worker lies: neither makes a loop.
    loop = Loop()
    loop.grant()
    loop.report(Outcome.CANCELLED)
    assert loop.core.status("a") is Status.CANCELLED


def test_only_the_last_attempts_are_kept_of_a_task_that_is_taken_back_over_and_over() -> None:
    loop = Loop()
    for _ in range(ATTEMPTS_KEPT + 5):
        loop.grant()
        loop.connection = loop.connect()
    kept = [attempt.number for attempt in loop.core.standing("a").attempts]
    assert kept == list(range(6, ATTEMPTS_KEPT + 6))
