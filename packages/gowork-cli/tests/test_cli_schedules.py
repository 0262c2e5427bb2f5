"""The command `gowork schedules`, against a real cluster."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gowork.base.key_files import write_file
from gowork.client import Client, TaskStatus


@pytest.fixture
def name(gowork) -> Iterator[str]:
    """The name of a schedule of this test's own, which is removed afterwards."""
    name = f"s-{uuid.uuid4().hex}"
    yield name
    gowork("schedules", "remove", name)


def shown(gowork, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gowork("schedules", "show", name, "-o", "json").stdout)
    return found


def test_ticks_complete_and_stop_with_a_pause_and_go_on_when_resumed(gowork, cluster, name: str) -> None:
    def until_completed(client: Client, number: int, besides: set[str]) -> None:
        seen: set[str] = set()
        for task in client.watch(id_prefix=f"{name}/", status=TaskStatus.COMPLETED):
            seen.add(task.id)
            if len(seen - besides) == number:
                break

    added = gowork("schedules", "add", name, "21", "--every", "1s", "--handler", "double")
    assert added.exit_code == 0, added.stderr
    assert added.stdout.startswith(f"{name}: added; first tick ")
    with Client(cluster.scheduler) as client:
        until_completed(client, 2, set())
        assert gowork("schedules", "pause", name, "--reason", "enough").exit_code == 0
        assert (shown(gowork, name)["paused"], shown(gowork, name)["pause_reason"]) == (True, "enough")
        before = shown(gowork, name)
        resumed = gowork("schedules", "resume", name)
        assert resumed.stdout.startswith("skipped ticks: ")
        until_completed(client, 1, {run["task_id"] for run in before["runs"]})
    gowork("schedules", "pause", name)
    found = shown(gowork, name)
    assert found["made_ticks"] > before["made_ticks"] >= 2
    assert all(run["task_id"] == f"{name}/{run['tick'].replace('.000', '')}" for run in found["runs"])
    told = gowork("schedules", "show", name).stdout
    assert found["runs"][0]["task_id"] in told
    assert "every 1.0 s" in told
    assert gowork("schedules", "remove", name).exit_code == 0
    assert gowork("schedules", "show", name).exit_code == 1


def test_every_option_reaches_the_schedule(gowork, name: str) -> None:
    options = [
        *("--cron", "0 3 * * *", "--tz", "Europe/Berlin", "--handler", "nobody's", "--no-check"),
        *("--priority", "high", "--queue", "q", "--label", "a=b", "--selector", "c=d", "--time-limit", "1m"),
        *("--expires-in", "1h", "--key", "k", "--plugin-version", ">=1", "--max-attempts", "3", "--on-lost", "fail"),
        *("--overlap", "queue-one", "--catch-up", "2h", "--jitter", "5s", "--paused"),
        *("--start", "2030-01-01T00:00Z", "--end", "2200-01-01T00:00Z"),
    ]
    answer = gowork("schedules", "add", name, '{"kind": "daily"}', *options, "-o", "json")
    assert answer.exit_code == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert found == shown(gowork, name)
    assert found["when"] == {"cron": "0 3 * * *", "tz": "Europe/Berlin"}
    assert found["next_ticks"][0] == "2030-01-01T02:00:00.000Z"
    retry = found["task"].pop("retry")
    assert retry["max_attempts"] == 3
    assert found["task"] == {
        "payload": '{"kind": "daily"}',
        "data": None,
        "handler": "nobody's",
        "priority": "HIGH",
        "queue": "q",
        "labels": {"a": "b"},
        "selector": {"c": "d"},
        "time_limit": 60.0,
        "concurrency_key": "k",
        "expires_in": 3600.0,
        "plugin_version": ">=1",
        "unique": None,
        "unique_for": None,
        "on_lost": "FAIL",
    }
    wanted = {
        "overlap": "QUEUE_ONE",
        "catch_up_window": 7200.0,
        "jitter": 5.0,
        "paused": True,
        "start_at": "2030-01-01T00:00:00.000Z",
        "end_at": "2200-01-01T00:00:00.000Z",
        "made_ticks": 0,
        "skipped_ticks": {},
        "runs": [],
    }
    assert {field: found[field] for field in wanted} == wanted
    row = next(line for line in gowork("schedules").stdout.splitlines() if line.startswith(name))
    assert row.split()[1:] == ["paused", "0", "3", "*", "*", "*", "Europe/Berlin", "0", "0", "nobody's"]
    listed = [json.loads(line) for line in gowork("schedules", "list", "-o", "jsonl").stdout.splitlines()]
    assert [each["task"]["payload"] for each in listed if each["name"] == name] == [""]


def test_adding_it_again_says_what_became_of_it(gowork, name: str) -> None:
    add = ("schedules", "add", name, "--handler", "nobody's", "--no-check", "--at", "2200-01-01T00:00Z")
    assert ": added; first tick" in gowork(*add).stdout
    assert ": it is there already; first tick" in gowork(*add).stdout
    other = (*add, "--at", "2200-01-02T00:00Z")
    refused = gowork(*other)
    assert (refused.exit_code, "replace" in refused.stderr) == (1, True)
    gowork("schedules", "pause", name)
    assert gowork(*other, "--replace").stdout == f"{name}: replaced; paused\n"
    assert shown(gowork, name)["when"] == {"at": ["2200-01-01T00:00:00.000Z", "2200-01-02T00:00:00.000Z"]}
    assert "at 2 times" in gowork("schedules").stdout


def test_a_triggered_run_is_named_and_runs(gowork, name: str) -> None:
    gowork("schedules", "add", name, "21", "--every", "24h", "--handler", "double")
    id = gowork("schedules", "trigger", name, "--request-id", "now").stdout.strip()
    assert id == f"{name}/manual-now"
    assert gowork("wait", id).exit_code == 0
    again = gowork("schedules", "trigger", name, "--request-id", "now", "-o", "json")
    assert json.loads(again.stdout) == {"id": id}
    assert "triggered" in gowork("schedules", "show", name).stdout


def test_past_ticks_are_made_and_named(gowork, name: str) -> None:
    gowork("schedules", "add", name, "21", "--every", "1h", "--handler", "double")
    span = ("--from", "2026-01-01T00:00Z", "--until", "2026-01-01T02:00Z")
    made = gowork("schedules", "backfill", name, *span)
    assert made.stdout.splitlines() == [f"{name}/2026-01-01T00:00:00Z", f"{name}/2026-01-01T01:00:00Z"]
    again = gowork("schedules", "backfill", name, *span)
    assert (again.stdout, again.stderr) == ("", "gowork: 2 ticks had tasks already\n")
    assert json.loads(gowork("schedules", "backfill", name, *span, "-o", "json").stdout) == {"ids": [], "existing": 2}
    none = gowork("schedules", "backfill", name, "--from", "2026-01-01T00:01Z", "--until", "2026-01-01T00:02Z")
    assert "no ticks between" in none.stderr
    refused = gowork("schedules", "backfill", name, "--from", "2025-01-01T00:00Z", "--until", "2026-01-01T00:00Z")
    assert (refused.exit_code, "1000 ticks" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("n", "p"), "give one of --cron, --every and --at"),
        (("n", "p", "--cron", "* * * * *", "--every", "1s"), "not --cron and --every"),
        (("n", "p", "--every", "1s", "--tz", "UTC"), "--tz goes with --cron"),
        (("--every", "1s"), "give the NAME"),
        (("n", "--every", "1s"), "give a PAYLOAD"),
        (("n", "--cron", "0", "3", "*", "*", "*"), "cron expression in quotes"),
        (("n", "p", "--cron", "0 3 * *"), "cron.expression"),
        (("n", "p", "--cron", "0 3 * * *", "--tz", "Berlin"), "cron.time_zone"),
        (("a/b", "p", "--every", "1s"), "schedule.name"),
        (("n", "p", "--every", "100ms"), "every.every_ms"),
        (("n", "p", "--every", "1s", "--catch-up", "0"), "catch_up_window"),
        (("n", "--every", "1s", "--handler", "double", '{"a": 1}'), "does not take this"),
    ],
    ids=[*range(12)],
)
def test_wrong_usage_is_told(gowork, arguments: tuple[str, ...], words: str) -> None:
    refused = gowork("schedules", "add", *arguments)
    assert refused.exit_code == 2
    assert words in refused.stderr


def test_a_payload_that_would_be_encrypted_is_refused(gowork, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    write_file(keys, {"k": b"k" * 32})
    refused = gowork("schedules", "add", "n", "p", "--every", "1s", "--keys", str(keys))
    assert (refused.exit_code, "cannot be encrypted" in refused.stderr) == (2, True)


@pytest.mark.parametrize("command", ["show", "pause", "resume", "trigger", "remove"])
def test_an_unknown_schedule_is_told(gowork, command: str) -> None:
    told = gowork("schedules", command, "nobody")
    assert (told.exit_code, "nobody" in told.stderr) == (1, True)
