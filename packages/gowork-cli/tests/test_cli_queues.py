"""The commands `gowork queues` and `gowork why`, against a real cluster."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def queue(gowork) -> Iterator[str]:
    """A queue of this test's own, which is emptied and reset afterwards."""
    name = f"q-{uuid.uuid4().hex}"
    yield name
    gowork("queues", "set", name, "--weight", "1", "--concurrency", "0", "--key-concurrency", "0", "--rate", "0")
    gowork("queues", "resume", name)


def test_a_paused_queue_says_why_its_tasks_wait_and_goes_on_when_resumed(gowork, queue: str) -> None:
    assert gowork("queues", "pause", queue, "--new").exit_code == 0
    gowork("add", queue, "21", "--handler", "double", "--queue", queue)
    told = gowork("why", queue)
    assert told.exit_code == 0
    assert told.stdout.splitlines() == [
        "PENDING",
        f"- the queue '{queue}' is paused",
        f"  `gowork queues resume {queue}`",
    ]
    explained = json.loads(gowork("why", queue, "-o", "json").stdout)
    assert [reason["code"] for reason in explained["reasons"]] == ["QUEUE_PAUSED"]
    assert gowork("queues", "resume", queue).exit_code == 0
    assert gowork("wait", queue).exit_code == 0
    assert gowork("why", queue).stdout == "COMPLETED\nit does not wait\n"


def test_a_queue_that_nobody_knows_is_not_paused(gowork, queue: str) -> None:
    gowork("queues", "set", queue, "--weight", "2")
    slip = f"{queue}x"
    refused = gowork("queues", "pause", slip)
    assert refused.exit_code == 2, refused.stderr
    assert refused.stderr.startswith("gowork: the queue ")
    assert f"did you mean '{queue}'?" in refused.stderr
    assert "--new" in refused.stderr
    assert slip not in [row["name"] for row in json.loads(gowork("queues", "-o", "json").stdout)]
    assert gowork("queues", "pause", queue).exit_code == 0


def test_a_queue_whose_tasks_have_all_finished_is_known(gowork, queue: str) -> None:
    gowork("add", "21", "--handler", "double", "--queue", queue, "--wait")
    assert gowork("queues", "pause", queue).exit_code == 0


def test_settings_of_a_queue_that_nobody_knows_are_noted(gowork, queue: str) -> None:
    first = gowork("queues", "set", queue, "--weight", "2")
    assert (first.exit_code, f"the queue '{queue}' had no tasks and no settings before" in first.stderr) == (0, True)
    assert gowork("queues", "set", queue, "--weight", "3").stderr == ""
    assert "before" in gowork("queues", "resume", f"{queue}-other").stderr


def test_settings_are_shown_with_what_the_queue_holds(gowork, queue: str) -> None:
    result = gowork(
        "queues", "set", queue, "--weight", "3", "--concurrency", "2", "--rate", "0.5", "--burst", "4", "-o", "json"
    )
    shown = json.loads(result.stdout)
    assert shown == {
        "name": queue,
        "paused": False,
        "weight": 3,
        "concurrency_limit": 2,
        "key_concurrency_limit": 0,
        "rate_limit": 0.5,
        "rate_burst": 4,
        "waiting": 0,
        "delayed": 0,
        "running": 0,
    }
    gowork("add", "later", "--in", "1h", "--queue", queue)
    listed = [json.loads(line) for line in gowork("queues", "-o", "jsonl").stdout.splitlines()]
    assert [row["delayed"] for row in listed if row["name"] == queue] == [1]
    row = next(line for line in gowork("queues").stdout.splitlines() if line.startswith(queue))
    assert row.split()[1:] == ["0", "1", "0", "3", "2", "0.5/s", "4"]


def test_what_keeps_each_worker_is_told_when_asked(gowork, queue: str) -> None:
    gowork("add", queue, "p", "--handler", "unheard-of", "--queue", queue)
    told = gowork("why", queue, "--verbose").stdout
    assert "no worker has the handler 'unheard-of'" in told
    assert "it does not have the handler 'unheard-of'" in told
    assert "NO_HANDLER" in told


def test_nothing_to_set_is_wrong_usage(gowork) -> None:
    result = gowork("queues", "set", "mail")
    assert result.exit_code == 2
    assert "--weight" in result.stderr


@pytest.mark.parametrize(
    ("options", "field"),
    [(("--weight", "0"), "weight"), (("--rate", "-1"), "rate_limit"), (("--burst", "-1"), "rate_burst")],
)
def test_a_setting_out_of_bounds_is_named(gowork, options: tuple[str, str], field: str) -> None:
    result = gowork("queues", "set", "mail", *options)
    assert result.exit_code == 2
    assert field in result.stderr


def test_an_expiry_and_a_key_reach_the_task(gowork) -> None:
    name = uuid.uuid4().hex
    gowork("add", name, "p", "--handler", "unheard-of", "--expires-in", "1h", "--key", "user-7")
    task = json.loads(gowork("show", name, "-o", "json").stdout)
    assert task["concurrency_key"] == "user-7"
    assert task["expires_at"] is not None


def test_a_range_of_versions_reaches_the_task_and_why_says_that_none_is_within(gowork, tmp_path: Path) -> None:
    name = uuid.uuid4().hex
    warned = gowork("add", name, "p", "--handler", "echo", "--plugin-version", ">=1.2,<2").stderr
    assert "no worker has the handler 'echo' in a version within >=1.2,<2 now" in warned
    file = tmp_path / "tasks.jsonl"
    file.write_text(json.dumps({"payload": "p", "id": f"{name}-2", "plugin_version": "==1.*"}))
    gowork("add", "--file", str(file), "--handler", "echo", "--plugin-version", ">=9")
    for id, wanted in ((name, ">=1.2,<2"), (f"{name}-2", "==1.*")):
        assert json.loads(gowork("show", id, "-o", "json").stdout)["plugin_version"] == wanted
        assert wanted in gowork("show", id).stdout
        assert f"version is within {wanted}; there is echo without a version" in gowork("why", id).stdout
        gowork("cancel", id)


@pytest.mark.parametrize("wanted", ["1.2", "latest"])
def test_a_range_that_cannot_be_read_is_refused_by_its_name(gowork, wanted: str) -> None:
    refused = gowork("add", "p", "--handler", "echo", "--plugin-version", wanted)
    assert refused.exit_code == 2
    assert f"plugin_version: is '{wanted}'" in refused.stderr
    lines = "".join(json.dumps({"payload": "p", "plugin_version": own}) + "\n" for own in (None, wanted))
    refused = gowork("add", "--file", "-", "--handler", "echo", input=lines)
    assert f"line 2: plugin_version: is '{wanted}'" in refused.stderr


def test_an_unknown_task_is_told(gowork) -> None:
    result = gowork("why", "nobody")
    assert (result.exit_code, "nobody" in result.stderr) == (1, True)
