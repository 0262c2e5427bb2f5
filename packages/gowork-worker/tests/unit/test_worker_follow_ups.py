from __future__ import annotations

import math
from typing import Any

import pytest

from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker import Context, handler
from gowork.worker._core.context import Place
from gowork.worker._runner import outcomes


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
