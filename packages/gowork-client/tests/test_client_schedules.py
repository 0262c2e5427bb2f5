"""Schedules by both clients: what is sent and what is answered, against a real leader and a scripted one."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from gowork.base.key_files import write_file
from gowork.client import (
    AlreadyExists,
    AsyncClient,
    At,
    Client,
    Cron,
    Every,
    InvalidArgument,
    LeaderTooOld,
    NewTask,
    NotFound,
    OnLost,
    Priority,
    Schedule,
    ScheduleOrphaned,
    ScheduleOverlap,
    SkipReason,
    TaskStatus,
)
from gowork.client import _responses as responses
from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb

NIGHTLY = Cron("0 3 * * *", tz="Europe/Berlin")
#: A time that is to come in any year of these tests.
LATER = datetime(2200, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A leader without workers."""
    options = ("--cluster-listen", "127.0.0.1:0", "--scheduler-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
    command = (sys.executable, "-m", "gowork.leader", *options, "--data-dir", ".", "--print-addresses")
    with subprocess.Popen(
        [*command, "--log-level", "warning"],
        cwd=tmp_path_factory.mktemp("leader"),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["scheduler"]
        finally:
            process.terminate()
            process.wait()


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address) as client:
        yield client


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name of this test's own, so that tests share a leader."""
    return str(request.node.name)[:100].replace("/", "-")


def test_a_schedule_is_answered_as_it_was_added(client: Client, name: str) -> None:
    start = datetime(2030, 1, 1, tzinfo=UTC)
    added = client.schedules.add(
        name,
        NIGHTLY,
        {"all": True},
        handler="report",
        priority="HIGH",
        queue="reports",
        labels={"team": "web"},
        selector={"gpu": "yes"},
        time_limit=timedelta(minutes=1),
        expires_in=3600,
        retry=3,
        concurrency_key="k",
        plugin_version=">=1",
        unique="nightly",
        unique_for=7200,
        on_lost="fail",
        overlap=ScheduleOverlap.QUEUE_ONE,
        catch_up_window=timedelta(minutes=1),
        jitter=5,
        start_at=start,
        end_at=LATER,
        paused=True,
        pause_reason="not yet",
    )
    assert (added.created, added.replaced) == (True, False)
    found = client.schedules.get(name)
    assert found == added.schedule
    assert (found.name, found.when) == (name, NIGHTLY)
    retry = found.task.retry
    assert found.task == NewTask(
        '{"all":true}',
        handler="report",
        priority=Priority.HIGH,
        queue="reports",
        labels={"team": "web"},
        selector={"gpu": "yes"},
        time_limit=60.0,
        expires_in=3600.0,
        retry=retry,
        concurrency_key="k",
        plugin_version=">=1",
        unique="nightly",
        unique_for=7200.0,
        on_lost=OnLost.FAIL,
    )
    assert getattr(retry, "max_attempts", None) == 3
    assert (found.overlap, found.catch_up_window, found.jitter) == (ScheduleOverlap.QUEUE_ONE, 60.0, 5.0)
    assert (found.start_at, found.end_at, found.on_orphaned) == (start, LATER, ScheduleOrphaned.GO_ON)
    assert (found.paused, found.pause_reason) == (True, "not yet")
    assert found.next_ticks[0] == datetime(2030, 1, 1, 2, tzinfo=UTC)
    assert len(found.next_ticks) == limits.SCHEDULE_NEXT_MAX
    assert found.created_at == found.changed_at == found.paused_at is not None
    assert (found.runs, found.made_ticks, found.skipped_ticks) == ((), 0, {})


def test_adding_it_again_changes_nothing_and_another_one_needs_replace(client: Client, name: str) -> None:
    def add(interval: int, **options: Any) -> tuple[bool, bool]:
        added = client.schedules.add(name, Every(interval), handler="h", **options)
        return added.created, added.replaced

    assert add(60) == (True, False)
    assert add(60) == (False, False)
    with pytest.raises(AlreadyExists):
        add(120)
    assert add(120, replace=True) == (False, True)
    assert client.schedules.get(name).when == Every(120.0)


@pytest.mark.parametrize(
    ("when", "answered"),
    [
        (Cron("*/5 * * * *"), Cron("*/5 * * * *", "UTC")),
        (Cron("0 3 * * *", ZoneInfo("Asia/Tokyo")), Cron("0 3 * * *", "Asia/Tokyo")),
        (Every(timedelta(hours=1), anchor=0.5), Every(3600.0, datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC))),
        (At(LATER - timedelta(milliseconds=1)), At((LATER,))),
        (At([LATER + timedelta(days=1), LATER, LATER.timestamp()]), At((LATER, LATER + timedelta(days=1)))),
    ],
    ids=["cron", "zone", "every", "one time", "times"],
)
def test_each_kind_of_times_comes_back(client: Client, name: str, when: Any, answered: Any) -> None:
    client.schedules.add(name, when, handler="h")
    assert client.schedules.get(name).when == answered


def test_a_list_has_all_by_name_without_payloads(client: Client, name: str) -> None:
    for part in "ba":
        client.schedules.add(f"{name} {part}", NIGHTLY, b"bytes", handler="h")
    found = [each for each in client.schedules.list() if each.name.startswith(name)]
    assert [each.name for each in found] == [f"{name} a", f"{name} b"]
    assert [each.task.payload for each in found] == ["", ""]
    assert [len(each.next_ticks) for each in found] == [1, 1]
    assert client.schedules.get(f"{name} a").task.payload == b"bytes"


def test_a_pause_is_told_and_ended(client: Client, name: str) -> None:
    client.schedules.add(name, NIGHTLY, handler="h")
    client.schedules.pause(name, "the disk is full")
    found = client.schedules.get(name)
    assert (found.paused, found.pause_reason) == (True, "the disk is full")
    assert client.schedules.resume(name) == 0
    assert not client.schedules.get(name).paused


def test_a_triggered_run_is_one_task_however_often_it_is_asked_for(client: Client, name: str) -> None:
    client.schedules.add(name, NIGHTLY, "p", handler="nobody's", overlap="skip")
    assert client.schedules.trigger(name, "once") == client.schedules.trigger(name, "once") == f"{name}/manual-once"
    assert client.schedules.trigger(name) != client.schedules.trigger(name)
    runs = client.schedules.get(name).runs
    assert [run.task_id for run in runs][-1] == f"{name}/manual-once"
    assert [(run.triggered, run.status) for run in runs] == [(True, TaskStatus.PENDING)] * 3
    assert client.get(f"{name}/manual-once").payload == "p"


def test_past_ticks_are_made_once(client: Client, name: str) -> None:
    client.schedules.add(name, Every(3600), handler="nobody's")
    start = datetime(2026, 1, 1, tzinfo=UTC)
    made = client.schedules.backfill(name, start, start + timedelta(hours=2))
    assert made.task_ids == (f"{name}/2026-01-01T00:00:00Z", f"{name}/2026-01-01T01:00:00Z")
    again = client.schedules.backfill(name, start, start + timedelta(hours=3))
    assert (again.task_ids, again.existing) == ((f"{name}/2026-01-01T02:00:00Z",), 2)
    with pytest.raises(InvalidArgument, match="until_ms"):
        client.schedules.backfill(name, start, start + timedelta(hours=1001))


def test_a_removed_schedule_is_unknown(client: Client, name: str) -> None:
    client.schedules.add(name, NIGHTLY, handler="h")
    client.schedules.remove(name)
    for call in (client.schedules.get, client.schedules.pause, client.schedules.trigger, client.schedules.remove):
        with pytest.raises(NotFound, match=name):
            call(name)


def test_the_code_of_the_documentation_runs(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOWORK_LEADER", address)
    page = (Path(__file__).parents[3] / "docs" / "schedules.md").read_text()
    codes = [block.split("```")[0] for block in page.split("```python\n")[1:]]
    (code,) = [code for code in codes if "client.schedules" in code]
    names: dict[str, Any] = {}
    exec(compile(code, "schedules.md", "exec"), names)
    assert names["handle"].id.startswith("nightly/manual-")


async def test_the_asyncio_client_has_them_too(address: str, name: str) -> None:
    async with AsyncClient(address) as client:
        assert (await client.schedules.add(name, NIGHTLY, handler="h")).created
        assert name in [each.name for each in await client.schedules.list()]
        await client.schedules.pause(name)
        assert await client.schedules.resume(name, catch_up=True) == 0
        assert (await client.schedules.trigger(name, "x")) == f"{name}/manual-x"
        await client.schedules.remove(name)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"when": "0 3 * * *"}, "when"),
        ({"when": Cron(5)}, "when.expression"),  # type: ignore[arg-type]
        ({"when": Cron("0 3 * * *", tz=UTC)}, "when.tz"),  # type: ignore[arg-type]
        ({"when": Every("10m")}, "when.interval"),  # type: ignore[arg-type]
        ({"when": Every(600, anchor=datetime(2026, 1, 1))}, "when.anchor"),  # noqa: DTZ001
        ({"when": At("2026-01-01")}, "when.times"),  # type: ignore[arg-type]
        ({"when": At(range(1001))}, "when.times"),
        ({"overlap": "twice"}, "overlap"),
        ({"overlap": "UNSPECIFIED"}, "overlap"),
        ({"catch_up_window": 0}, "catch_up_window"),
        ({"catch_up_window": -1}, "catch_up_window"),
        ({"jitter": "1h"}, "jitter"),
        ({"start_at": datetime(2026, 1, 1)}, "start_at"),  # noqa: DTZ001
        ({"name": 5}, "name"),
        ({"paused": "yes"}, "paused"),
        ({"replace": "yes"}, "replace"),
        ({"run_at": LATER}, "run_at"),
        ({"delay": 5}, "delay"),
        ({"expires_at": LATER}, "expires_at"),
        ({"payload": NewTask("p", id="mine")}, "id"),
        ({"payload": NewTask("p", run_at=LATER)}, "run_at"),
    ],
    ids=[*range(21)],
)
def test_an_argument_at_fault_is_named_before_it_is_sent(scripted: Any, arguments: dict[str, Any], field: str) -> None:
    with Client(scripted.address) as client, pytest.raises(InvalidArgument) as caught:
        client.schedules.add(**{"name": "n", "when": NIGHTLY, "handler": "h", **arguments})
    assert [violation.field for violation in caught.value.violations] == [field]
    assert not scripted.requests


def test_a_leader_names_the_field_that_it_refuses(client: Client, name: str) -> None:
    with pytest.raises(InvalidArgument, match=r"schedule\.cron\.time_zone"):
        client.schedules.add(name, Cron("0 3 * * *", tz="Europe/Bern"), handler="h")
    with pytest.raises(InvalidArgument, match=r"schedule\.every\.every_ms"):
        client.schedules.add(name, Every(0.5), handler="h")


def test_a_payload_that_would_be_encrypted_is_refused(scripted: Any, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    write_file(keys, {"k": b"k" * 32})
    with Client(scripted.address, keys=keys) as client:
        with pytest.raises(InvalidArgument, match="payload: it cannot be encrypted"):
            client.schedules.add("n", NIGHTLY, {"secret": 1}, handler="h")
        # Without a payload it is sent.
        with pytest.raises(LeaderTooOld):
            client.schedules.add("n", NIGHTLY, handler="h")


def test_a_leader_without_schedules_is_told_to_be_too_old(scripted: Any) -> None:
    with Client(scripted.address) as client, pytest.raises(LeaderTooOld, match="has no AddSchedule"):
        client.schedules.add("n", NIGHTLY, handler="h")
    with Client(scripted.address) as client, pytest.raises(LeaderTooOld, match="has no ListSchedules"):
        client.schedules.list()


def test_an_option_that_the_leader_would_drop_is_told(scripted: Any) -> None:
    scripted.request_fields.remove("scheduler.v1.Task.concurrency_key")
    with Client(scripted.address) as client, pytest.raises(LeaderTooOld, match="concurrency_key"):
        client.schedules.add("n", NIGHTLY, handler="h", concurrency_key="k")
    assert "AddSchedule" not in scripted.requests


def test_payloads_are_checked_where_the_client_checks_them(
    scripted: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[object] = []

    def check(self: Client, payload: object, *, handler: object, plugin_version: str = "") -> str:
        asked.append((payload, handler, plugin_version))
        return "no worker has it"

    monkeypatch.setattr(Client, "check_payload", check)
    options: dict[str, Any] = {"handler": "h", "plugin_version": ">=1"}
    with caplog.at_level(logging.WARNING, "gowork.client"):
        for checks, payload in ((False, 1), (True, 2), (True, NewTask(3))):
            with Client(scripted.address, check_payloads=checks) as client, pytest.raises(LeaderTooOld):
                client.schedules.add("n", NIGHTLY, payload, **options)
    assert asked == [(2, "h", ">=1"), (3, "h", ">=1")]
    assert "no worker has it" in caplog.text


def test_what_a_newer_leader_says_is_read_as_far_as_it_is_known() -> None:
    message = pb.Schedule(name="n", overlap=99, on_orphaned=99)  # type: ignore[arg-type]
    for reason in (98, 99, pb.SKIP_REASON_MISSED):
        message.skipped.add(reason=reason, ticks=2)
    message.runs.add(tick_ms=0, task_id="n/t")
    found: Schedule = responses.schedule(message)
    assert (found.when, found.overlap, found.on_orphaned) == (
        None,
        ScheduleOverlap.UNSPECIFIED,
        ScheduleOrphaned.UNSPECIFIED,
    )
    assert found.skipped_ticks == {SkipReason.UNSPECIFIED: 4, SkipReason.MISSED: 2}
    assert (found.runs[0].tick, found.runs[0].status) == (datetime(1970, 1, 1, tzinfo=UTC), None)
