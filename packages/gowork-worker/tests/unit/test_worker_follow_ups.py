from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker import Context, NewTask, RetryPolicy, handler
from gowork.worker._core.context import Place
from gowork.worker._runner import outcomes
from gowork.worker.testing import FakeContext

NOON = datetime(2026, 12, 24, 12, tzinfo=UTC)


def context(id: str = "parent") -> Context:
    return Context(
        Place("w"),
        lambda *word: None,
        id=id,
        attempt=1,
        fence=9,
        handler="h",
        payload="",
        data=b"",
        queue="default",
        labels={},
    )


@handler("next-step")
def next_step(ctx: Context, number: int) -> None:
    """Never run here."""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"unique": "k" * 257}, "unique: 'kkk"),
        ({"unique": "a\nb"}, "is not text of at most 256 printable bytes"),
        ({"unique": 7}, "unique: 7 is not text"),
        ({"unique": ""}, "unique: is empty"),
        ({"unique_for": 1}, "unique_for: it is set without unique"),
        ({"unique": "k", "unique_for": -1}, "unique_for: "),
    ],
)
def test_a_unique_key_beyond_its_limits_is_refused_by_name(options: dict[str, Any], words: str) -> None:
    ctx = context()
    with pytest.raises(ValueError, match=words):
        ctx.schedule("text", **options)
    assert not ctx.follow_ups


def test_follow_ups_travel_with_the_completion() -> None:
    ctx = context()
    ids = [
        ctx.schedule({"n": 1}, handler=next_step, priority="high", labels={"a": "b"}, max_attempts=3, time_limit=1.5),
        ctx.schedule(b"raw", handler="other", queue="slow", selector={"disk": "ssd"}, delay=60),
        ctx.schedule("text", id="mine", plugin_version=">=1.2,<2", unique="k", unique_for=1.5),
    ]
    assert ids == ["parent/1", "parent/2", "mine"]
    report = outcomes.completed(9, "parent", None, ctx.follow_ups)
    assert isinstance(report, session.Report)
    first, second, third = report.follow_ups
    assert (first.handler, first.payload, first.priority) == ("next-step", '{"n":1}', tasks.TASK_PRIORITY_HIGH)
    assert (first.time_limit_ms, first.retry.max_attempts, dict(first.labels)) == (1500, 3, {"a": "b"})
    assert (second.handler, second.data, second.queue, dict(second.selector)) == (
        "other",
        b"raw",
        "slow",
        {"disk": "ssd"},
    )
    assert second.run_at_ms > 0
    assert second.delay_ms == 60_000
    assert (second.plugin_version, third.plugin_version) == ("", ">=1.2,<2")
    assert (second.unique_key, third.unique_key, third.unique_for_ms) == ("", "k", 1500)
    assert (third.id, third.payload, third.HasField("priority"), third.run_at_ms) == ("mine", "text", False, 0)


def test_a_retried_attempt_names_its_follow_ups_as_the_first_did() -> None:
    assert context().schedule("x") == context().schedule("x")


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"payload": ""}, "payload"),
        ({"payload": "x" * (limits.PAYLOAD_BYTES_MAX + 1)}, "1,048,576"),
        ({"payload": object()}, "payload"),
        ({"payload": "x", "id": ""}, "id"),
        ({"payload": "x", "id": "a\nb"}, "id"),
        ({"payload": "x", "priority": "urgent"}, "priority"),
        ({"payload": {"a": [math.nan]}}, r"payload: nan .* at `\$\.a\[0\]`"),
        ({"payload": "x", "delay": math.nan}, "delay: nan is not finite"),
        ({"payload": "x", "delay": math.inf}, "delay: inf is not finite"),
        ({"payload": "x", "delay": -1}, "delay: -1 is negative"),
        ({"payload": "x", "delay": 1e12}, "delay: .* is too long; it is 0 to 316,224,000 seconds"),
        ({"payload": "x", "time_limit": math.nan}, "time_limit: nan"),
        ({"payload": "x", "time_limit": -0.5}, "time_limit: -0.5 is negative"),
        ({"payload": "x", "max_attempts": 1001}, "max_attempts is 0 to 1,000"),
        ({"payload": "x", "max_attempts": 1.5}, "max_attempts: 1.5 is no whole number"),
        ({"payload": "x", "queue": "q" * 129}, "queue: .* 128 printable bytes"),
        ({"payload": "x", "handler": "a\nb"}, "handler: "),
        ({"payload": "x", "labels": {"": "x"}}, "labels: the key ''"),
        ({"payload": "x", "selector": {"a": "x" * 254}}, "selector: the value of 'a'"),
        ({"payload": "x", "labels": {str(n): "" for n in range(65)}}, "labels: at most 64"),
        ({"payload": "x", "plugin_version": "1.2"}, "plugin_version: is '1.2', .* a range as in"),
        ({"payload": "x", "plugin_version": 1.2}, "plugin_version: 1.2 is not text"),
        ({"payload": "x", "after": "a"}, "after: 'a' is no list of ids"),
        ({"payload": "x", "after": [""]}, "after: '' is not text of 1 to 256"),
        ({"payload": "x", "after": [7]}, "after: 7 is not text"),
        ({"payload": "x", "after": map(str, range(1001))}, "after: at most 1000 ids"),
        ({"payload": "x", "after": ["a"], "after_rule": "some"}, "after_rule: 'some' is not 'all_completed'"),
        ({"payload": "x", "after_rule": "any_failed"}, "after_rule: it is set without after"),
        ({"payload": "x", "group": -1}, "group is 0 to 10,000,000"),
        ({"payload": "x", "group": 1.5}, "group: 1.5 is no whole number"),
        ({"payload": "x", "on_lost": "never"}, "on_lost: 'never' is not 'again' or 'fail'"),
        ({"payload": "x", "queue": 3}, "queue: 3 is not text"),
        ({"payload": "x", "handler": print}, "handler: .* neither a name nor a function decorated with @handler"),
        ({"payload": "x", "labels": "team"}, "labels: 'team' is no mapping"),
        ({"payload": "x", "concurrency_key": "k" * 129}, "concurrency_key: .* 128 printable bytes"),
        ({"payload": "x", "run_at": "noon"}, "run_at: 'noon' is neither a datetime nor a time in seconds"),
        ({"payload": "x", "run_at": NOON.replace(tzinfo=None)}, "run_at: .* has no time zone"),
        ({"payload": "x", "expires_at": math.nan}, "expires_at: nan is neither"),
        ({"payload": "x", "run_at": 5, "delay": 1}, "run_at: give run_at or delay, not both"),
        ({"payload": "x", "expires_at": 5, "expires_in": 1}, "expires_at: give expires_at or expires_in, not both"),
        ({"payload": "x", "retry": 2, "max_attempts": 2}, "retry: give retry or max_attempts, not both"),
        ({"payload": "x", "retry": "often"}, "retry: 'often' is neither a RetryPolicy nor a number"),
        ({"payload": "x", "retry": RetryPolicy(max_attempts=0)}, "retry.max_attempts is 1 to 1,000"),
        ({"payload": "x", "retry": RetryPolicy(factor=0.5)}, "retry.factor is 1 to 100"),
        ({"payload": "x", "retry": RetryPolicy(jitter=math.nan)}, "retry.jitter is 0 to 1"),
        ({"payload": "x", "retry": RetryPolicy(initial_delay=-1)}, "retry.initial_delay: -1 is negative"),
        ({"payload": "x", "retry": RetryPolicy(no_retry=("E",) * 65)}, "retry.no_retry names is 0 to 64"),
    ],
)
def test_what_breaks_a_limit_raises_in_the_handler(wrong: dict[str, Any], named: str) -> None:
    ctx = context()
    with pytest.raises(ValueError, match=named):
        ctx.schedule(**wrong)
    assert ctx.follow_ups == ()


def test_a_derived_id_that_would_be_too_long_asks_for_another() -> None:
    with pytest.raises(ValueError, match="name another one"):
        context("x" * limits.ID_BYTES_MAX).schedule("x")


def test_an_attempt_schedules_a_thousand_tasks_and_no_more() -> None:
    ctx = context()
    for _ in range(limits.FOLLOW_UPS_MAX):
        ctx.schedule("x")
    with pytest.raises(ValueError, match="1,000"):
        ctx.schedule("x")
    assert len(ctx.follow_ups) == limits.FOLLOW_UPS_MAX


def sent(ctx: Context) -> list[tasks.Task]:
    """The follow-ups as the leader gets them."""
    report = outcomes.completed(9, "parent", None, ctx.follow_ups)
    assert isinstance(report, session.Report)
    return list(report.follow_ups)


def test_a_follow_up_takes_every_option() -> None:
    ctx = context()
    policy = RetryPolicy(4, 2.0, 3.0, timedelta(minutes=1), 0.5, ("ValueError",))
    ctx.schedule(
        "x", run_at=NOON, expires_at=NOON.timestamp() + 60, retry=policy, concurrency_key="user-7", on_lost="fail"
    )
    ctx.schedule("x", expires_in=60, retry=3, priority="HIGH", on_lost=None, queue=None)
    ctx.schedule("x", after=["a", "b", "a"], after_rule="any_failed")
    ctx.schedule("x", after=["a"])
    for group in (True, 0, 3, False):
        ctx.schedule("x", group=group, after_rule=None if group is False else "all_finished")
    first, second, third, fourth, opened, empty, sealed, plain = sent(ctx)
    assert [task.HasField("group") for task in (opened, empty, sealed, plain, first)] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert [task.group.HasField("children") for task in (opened, empty, sealed)] == [False, True, True]
    assert (sealed.group.children, sealed.after_rule) == (3, tasks.AFTER_RULE_ALL_FINISHED)
    assert (list(third.after), third.after_rule) == (["a", "b"], tasks.AFTER_RULE_ANY_FAILED)
    assert (list(fourth.after), fourth.after_rule) == (["a"], 0)
    assert (first.run_at_ms, first.expires_at_ms) == (1_798_113_600_000, 1_798_113_660_000)
    assert (first.concurrency_key, first.on_lost) == ("user-7", tasks.ON_LOST_FAIL)
    assert first.retry == tasks.RetryPolicy(
        max_attempts=4, initial_delay_ms=2000, factor=3, max_delay_ms=60_000, jitter=0.5, no_retry=["ValueError"]
    )
    assert (second.expires_in_ms, second.priority, second.on_lost) == (60_000, tasks.TASK_PRIORITY_HIGH, 0)
    assert second.expires_at_ms > 0, "for leaders that do not know expires_in_ms"
    assert second.retry == tasks.RetryPolicy(max_attempts=3)


def test_a_group_that_no_handler_runs_needs_no_payload() -> None:
    ctx = context()
    ctx.schedule(id="g", group=2)
    with pytest.raises(ValueError, match="payload: it is empty and no handler is named"):
        ctx.schedule(id="h", group=False)
    (group,) = sent(ctx)
    assert (group.handler, group.payload, group.group.children) == ("", "", 2)


def test_the_follow_ups_of_a_group_are_none_of_its_children() -> None:
    ctx = FakeContext(id="g", is_group=True)
    assert ctx.is_group
    assert (ctx.schedule("x"), ctx.schedule("x", id="own")) == ("g/then/1", "own")
    assert not FakeContext(id="p").is_group
    assert FakeContext(id="p").schedule("x") == "p/1"


def test_an_option_that_there_is_not_is_named() -> None:
    with pytest.raises(
        TypeError, match="there is no option 'priorty'; the options are id, after, after_rule, concurrency_key"
    ):
        context().schedule("x", priorty="high")  # type: ignore[call-arg]


def test_many_are_scheduled_with_options_of_the_call_and_of_their_own() -> None:
    ctx = context()
    ctx.schedule("zero")
    own = NewTask("b", id="mine", queue="slow", run_at=5)
    assert ctx.schedule_many(["a", own, "c"], handler="h", delay=60, queue="q") == ["parent/2", "mine", "parent/4"]
    _, a, b, c = sent(ctx)
    assert [(task.handler, task.queue, task.delay_ms) for task in (a, b, c)] == [
        ("h", "q", 60_000),
        ("h", "slow", 0),
        ("h", "q", 60_000),
    ]
    assert b.run_at_ms == 5_000
    assert ctx.schedule(NewTask("d", handler="own"), handler="h") == "parent/5"
    assert sent(ctx)[-1].handler == "own"


@pytest.mark.parametrize(
    "payloads",
    [["a", object()], ["a", NewTask("b", queue=3)], ["a", ""], ["a", NewTask("b", id="")]],  # type: ignore[arg-type]
    ids=["payload", "option", "empty", "id"],
)
def test_of_many_none_is_scheduled_when_one_is_at_fault(payloads: Any) -> None:
    ctx = context()
    ctx.schedule("x")
    with pytest.raises(ValueError, match=r"payload|queue|id"):
        ctx.schedule_many(payloads)
    assert len(ctx.follow_ups) == 1


def test_an_endless_source_is_read_no_further_than_an_attempt_may_schedule() -> None:
    source = count()
    with pytest.raises(ValueError, match="1,000"):
        context().schedule_many(source, handler="h")
    assert next(source) == limits.FOLLOW_UPS_MAX + 1


def test_many_may_come_from_a_generator_that_schedules_itself() -> None:
    ctx = context()

    def payloads() -> Iterator[str]:
        for word in "ab":
            ctx.schedule(f"before {word}")
            yield word

    assert ctx.schedule_many(payloads()) == ["parent/3", "parent/4"]


def test_a_single_text_is_not_many_payloads() -> None:
    with pytest.raises(TypeError, match="`schedule` takes a single one"):
        context().schedule_many("text")


def test_many_have_four_mebibytes_of_payload_together() -> None:
    ctx = context()
    ctx.schedule_many(["x" * (1 << 20)] * 3)
    with pytest.raises(ValueError, match="4,194,304 bytes"):
        ctx.schedule_many(["x" * (1 << 19)] * 3)
    assert len(ctx.follow_ups) == 3
