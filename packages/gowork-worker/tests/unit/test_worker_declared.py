"""Schedules that are declared beside a handler: what is told to the leader, and what is refused at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.worker import At, Cron, Every, HandlerDefinitionError, RetryPolicy, Schedule, handler
from gowork.worker._core.handlers import options_of
from gowork.worker._core.plugins import load
from gowork.worker._core.selection import Selection
from gowork.worker._runner.declarations import schedule_bytes
from gowork.worker._runner.main import ready_of

NOON = datetime(2026, 12, 24, 12, tzinfo=UTC)
NOON_MS = 1_798_113_600_000


def declared(schedule: Any) -> list[tasks.Schedule]:
    """The schedules as the leader gets them."""

    @handler("report", schedule=schedule)
    def report() -> None: ...

    options = options_of(report)
    assert options is not None
    return [tasks.Schedule.FromString(schedule_bytes(each)) for each in options.schedules]


def test_a_time_alone_is_a_schedule_of_the_handlers_name() -> None:
    (schedule,) = declared(Cron(" 0 3 * * *", tz=ZoneInfo("Europe/Berlin")))
    assert schedule == tasks.Schedule(
        name="report",
        cron=tasks.CronTimes(expression="0 3 * * *", time_zone="Europe/Berlin"),
        task=tasks.Task(handler="report"),
    )


def test_every_kind_of_times_is_told() -> None:
    schedules = declared(
        [
            Schedule(Every(600), name="a"),
            Schedule(Every(timedelta(hours=1), anchor=NOON + timedelta(milliseconds=1)), name="b"),
            Schedule(At(NOON), name="c"),
            Schedule(At([NOON.timestamp() + 60, NOON, NOON]), name="d"),
        ]
    )
    assert [schedule.WhichOneof("when") for schedule in schedules] == ["every", "every", "at", "at"]
    a, b, c, d = schedules
    assert (a.every.every_ms, a.every.anchor_ms) == (600_000, 0)
    assert (b.every.every_ms, b.every.anchor_ms) == (3_600_000, NOON_MS + 1000)
    assert list(c.at.at_ms) == [NOON_MS]
    assert list(d.at.at_ms) == [NOON_MS, NOON_MS + 60_000]


def test_a_schedule_takes_every_option() -> None:
    (schedule,) = declared(
        Schedule(
            Every(60),
            {"kind": "daily"},
            name="nightly",
            overlap="queue_one",
            catch_up_window=120,
            jitter=5,
            start_at=NOON,
            end_at=NOON.timestamp() + 60,
            on_orphaned="stop",
            priority="high",
            queue="reports",
            labels={"team": "web"},
            selector={"gpu": "yes"},
            time_limit=30,
            expires_in=90,
            retry=RetryPolicy(max_attempts=3),
            concurrency_key="user-7",
            unique="u",
            unique_for=60,
            on_lost="fail",
        )
    )
    assert (schedule.name, schedule.overlap, schedule.on_orphaned) == ("nightly", 2, tasks.SCHEDULE_ORPHANED_STOP)
    assert (schedule.catch_up_window_ms, schedule.jitter_ms) == (120_000, 5_000)
    assert (schedule.start_at_ms, schedule.end_at_ms) == (NOON_MS, NOON_MS + 60_000)
    task = schedule.task
    assert (task.payload, task.handler, task.queue) == ('{"kind":"daily"}', "report", "reports")
    assert (task.priority, task.time_limit_ms, task.retry.max_attempts) == (tasks.TASK_PRIORITY_HIGH, 30_000, 3)
    assert (dict(task.labels), dict(task.selector)) == ({"team": "web"}, {"gpu": "yes"})
    assert (task.expires_in_ms, task.expires_at_ms, task.run_at_ms) == (90_000, 0, 0)
    assert (task.concurrency_key, task.unique_key, task.unique_for_ms) == ("user-7", "u", 60_000)
    assert task.on_lost == tasks.ON_LOST_FAIL


@pytest.mark.parametrize(
    ("schedule", "named"),
    [
        ("0 3 * * *", r'is no Cron, Every or At.*write schedule=Cron\("0 3'),
        (Cron("0 3 * *"), "schedule.when.expression: '0 3 [*] [*]' is not five fields"),
        (Cron("0 3 * * mön"), "schedule.when.expression"),
        (Cron("0 3 * * " + "1," * 600), "schedule.when.expression: it has more than"),
        (Cron(7), "schedule.when: .* not text"),  # type: ignore[arg-type]
        (Every(0), "schedule.when.interval: 0 is not whole seconds"),
        (Every(1.5), "schedule.when.interval: 1.5 is not whole seconds"),
        (Every(60, anchor=datetime(2026, 1, 1)), "schedule.when.anchor: .* has no time zone"),  # noqa: DTZ001
        (At([]), "schedule.when.times: 1 to 1000 are taken, not 0"),
        (At("noon"), "schedule.when.times: 'noon' is no list"),  # type: ignore[arg-type]
        (Schedule(Every(60), name="a/b"), "schedule.name: 'a/b' is not printable text without a slash"),
        (Schedule(Every(60), name="n" * 129), "schedule.name: .* more than 128 bytes"),
        (Schedule(Every(60), overlap="never"), "schedule.overlap: 'never' is not 'skip'"),  # type: ignore[arg-type]
        (Schedule(Every(60), on_orphaned="go"), "schedule.on_orphaned: 'go'"),  # type: ignore[arg-type]
        (Schedule(Every(60), catch_up_window=0), "schedule.catch_up_window: at least"),
        (Schedule(Every(60), jitter=-1), "schedule.jitter: -1 is negative"),
        (Schedule(Every(60), queue="q" * 129), "queue: "),
        (Schedule(Every(60), object()), "payload"),
        ([Every(60), Every(120)], "schedule: 'report' is there twice"),
    ],
)
def test_what_is_wrong_is_told_where_the_handler_is_defined(schedule: Any, named: str) -> None:
    with pytest.raises(HandlerDefinitionError, match=rf"handler 'report': .*{named}"):
        declared(schedule)


@handler(schedule=[Schedule(Every(60), "a", name="told"), Schedule(Every(60), name="plain")])
def scheduled() -> None:
    """Has a payload at some times."""


def test_a_worker_that_encrypts_leaves_out_payloads_and_says_so() -> None:
    loaded = load(Selection(plugins=()), functions=(scheduled,))
    for encrypts, names in ((False, ["told", "plain"]), (True, ["plain"])):
        ready = ready_of(loaded, encrypts=encrypts)
        (note,) = [note for note in ready.handlers if note.name == "scheduled"]
        assert [tasks.Schedule.FromString(each).name for each in note.schedules] == names
        assert any("its payload can't be encrypted" in error for error in ready.plugin_errors) is encrypts
