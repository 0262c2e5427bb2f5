"""`gowork cancel` and `gowork retry` by filter, `gowork change` and `gowork failures`, against a real cluster."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from gowork.cli import selections
from gowork.cli.commands import failures
from gowork.client import Failure, FailureKind, TaskInfo, TaskStatus


@pytest.fixture
def mark() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody can be asked, though standard input is no terminal here."""
    monkeypatch.setattr("gowork.cli.questions.can_ask", lambda: True)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than one task is many."""
    monkeypatch.setattr(selections, "UNASKED_MAX", 1)


def add_waiting(gowork, mark: str, number: int) -> None:
    for n in range(number):
        gowork("add", f"{mark}-{n}", "21", "--in", "1h")


def status_of(gowork, id: str) -> str:
    return json.loads(gowork("show", id, "-o", "json").stdout)["status"]


@pytest.mark.usefixtures("asked", "few")
def test_cancel_by_filter_asks_when_there_are_many(gowork, mark: str) -> None:
    add_waiting(gowork, mark, 3)
    chosen = ("cancel", "--filter", f'id = "{mark}*"')
    refused = gowork(*chosen, input="n\n")
    assert refused.exit_code == 1
    assert f"Cancel 3 unfinished tasks: {mark}-0, {mark}-1, {mark}-2?" in refused.stderr
    assert status_of(gowork, f"{mark}-0") == "PENDING"
    one = gowork("cancel", "--filter", f'id = "{mark}-0"')
    assert (one.exit_code, one.stdout, one.stderr) == (0, "cancelled 1 task\n", "")
    # Before click 8.4 its runner echoes the answer on standard output, whatever the question was asked on.
    assert gowork(*chosen, input="y\n").stdout.removeprefix(" y\n") == "cancelled 2 tasks\n"
    assert status_of(gowork, f"{mark}-2") == "CANCELLED"


def test_without_a_terminal_a_filter_needs_yes(gowork, mark: str) -> None:
    add_waiting(gowork, mark, 1)
    for command in ("cancel", "retry", "remove"):
        refused = gowork(command, "--filter", f'id = "{mark}*"', input="y\n")
        assert refused.exit_code == 2
        assert "--yes" in refused.stderr
    assert status_of(gowork, f"{mark}-0") == "PENDING"
    told = gowork("cancel", "--filter", f'id = "{mark}*"', "--yes", "-o", "json").stdout
    assert json.loads(told) == {"cancelled": 1, "asked": 0}


def test_a_dry_run_counts_and_changes_nothing(gowork, mark: str) -> None:
    add_waiting(gowork, mark, 2)
    gowork("add", f"{mark}-done", "21", "--handler", "double", "--wait")
    gowork("add", f"{mark}-failed", "no", "--handler", "fail", "--wait")
    chosen = ("--filter", f'id = "{mark}*"', "--dry-run")
    assert gowork("cancel", *chosen).stdout == f"would cancel 2 unfinished tasks: {mark}-0, {mark}-1\n"
    assert gowork("retry", *chosen).stdout == f"would run again 1 failed task: {mark}-failed\n"
    told = json.loads(gowork("cancel", *chosen, "-o", "json").stdout)
    assert told == {"matched": 2, "more": False, "examples": [f"{mark}-0", f"{mark}-1"]}
    assert [status_of(gowork, f"{mark}-{name}") for name in ("0", "failed")] == ["PENDING", "ERROR"]


@pytest.mark.usefixtures("asked", "few")
def test_retry_by_filter_runs_failed_tasks_again_and_cancelled_ones_where_they_are_named(gowork, mark: str) -> None:
    for n in range(2):
        gowork("add", f"{mark}-{n}", "no", "--handler", "fail", "--wait")
    gowork("add", f"{mark}-later", "21", "--in", "1h")
    gowork("cancel", f"{mark}-later")
    refused = gowork("retry", "--filter", f'id = "{mark}*"', input="n\n")
    assert f"Run again 2 failed tasks: {mark}-0, {mark}-1?" in refused.stderr
    assert gowork("retry", "--filter", f'id = "{mark}*"', "--yes").stdout == "retried 2 tasks\n"
    gowork("wait", f"{mark}-0", f"{mark}-1")
    assert len(json.loads(gowork("show", f"{mark}-1", "-o", "json").stdout)["attempts"]) == 2
    assert status_of(gowork, f"{mark}-later") == "CANCELLED"
    cancelled = ("retry", "--filter", f'status = CANCELLED AND id = "{mark}*"')
    assert gowork(*cancelled, "--dry-run").stdout == f"would run again 1 failed or cancelled task: {mark}-later\n"
    assert json.loads(gowork(*cancelled, "-o", "json").stdout) == {"retried": 1, "left": 0}
    assert status_of(gowork, f"{mark}-later") == "PENDING"


@pytest.mark.parametrize("command", ["cancel", "retry"])
def test_neither_ids_nor_a_filter_is_wrong_usage_and_so_are_both(gowork, command: str) -> None:
    for words in ([], ["a", "--filter", "id = a", "--yes"], ["--filter", " ", "--yes"], ["a", "--dry-run"]):
        assert gowork(command, *words).exit_code == 2


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("status = CANCELLED", True),
        ("handler = x AND status!=COMPLETED", True),
        ('labels.status = CANCELLED AND id = "status = ERROR"', False),
        (r'id = "a\" AND status = CANCELLED" AND queue = status', False),
        ('labels."status" = x', False),
    ],
)
def test_a_term_for_the_status_is_told_from_what_looks_like_one(expression: str, names: bool) -> None:
    assert selections.names_status(expression) is names


def test_what_is_counted_says_when_there_may_be_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selections, "COUNTED_MAX", 3)
    tasks = [TaskInfo(str(n), TaskStatus.PENDING) for n in range(5)]
    assert str(selections.counted("unfinished", tasks)) == "at least 3 unfinished tasks: 0, 1, 2, …"


def test_failures_are_grouped_by_handler_kind_and_message(gowork, mark: str) -> None:
    for n, words in enumerate(["broken", "broken", "lost\nin the second line"]):
        gowork("add", f"{mark}-{n}", words, "--handler", "fail", "--queue", mark, "--wait")
    found = json.loads(gowork("failures", "--queue", mark, "-o", "json").stdout)
    assert [(row["handler"], row["kind"], row["message"], row["tasks"], row["is_rest"]) for row in found] == [
        ("fail", "HANDLER", "RuntimeError: [red]broken", 2, False),
        ("fail", "HANDLER", "RuntimeError: [red]lost", 1, False),
    ]
    assert found[0]["example"] == f"{mark}-1"
    assert found[0]["first_failed_at"] < found[0]["last_failed_at"]
    (all_,) = json.loads(gowork("failures", "--filter", f'queue = "{mark}"', "--by", "kind", "-o", "json").stdout)
    assert (all_["handler"], all_["kind"], all_["message"], all_["tasks"]) == (None, "HANDLER", None, 3)
    shown = gowork("failures", "--queue", mark, "--limit", "1")
    words = " ".join(shown.stdout.split())
    assert words.startswith("TASKS HANDLER KIND MESSAGE FIRST LAST EXAMPLE 2 fail HANDLER RuntimeError: [red]broken ")
    assert words.endswith(f" {mark}-1")
    assert "only 1 of 2 groups are shown" in shown.stderr
    assert gowork("failures", "--queue", mark, "--handler", "double").stdout == "no failed tasks\n"


@pytest.mark.parametrize("by", ["", ",", "worker", "kind,worker"])
def test_what_failures_cannot_be_grouped_by_is_wrong_usage(gowork, by: str) -> None:
    result = gowork("failures", "--by", by)
    assert result.exit_code == 2
    assert "handler, kind, message" in result.stderr


def failed(messages: list[str]) -> Iterator[TaskInfo]:
    began = datetime(2026, 1, 1, tzinfo=UTC)
    for n, message in enumerate(messages):
        failure = Failure(FailureKind.HANDLER, message, "", "")
        yield TaskInfo(f"t{n}", TaskStatus.ERROR, failure=failure, finished_at=began + timedelta(seconds=n))


def test_groups_are_bounded_and_the_rest_is_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "_GROUPS_MAX", 2)
    groups = failures._grouped(failed(["a", "b", "c", "b", "d"]), ("message",))
    assert [(group.message, group.tasks, group.is_rest, group.example) for group in groups] == [
        ("b", 2, False, "t3"),
        ("a", 1, False, "t0"),
        (None, 2, True, "t4"),
    ]


def test_a_long_or_an_empty_message_is_a_group_too() -> None:
    groups = failures._grouped(failed(["", " \n", "x" * 500]), ("message",))
    assert [(group.message, group.tasks) for group in groups] == [("", 2), ("x" * 200, 1)]
    without = failures._grouped([TaskInfo("a", TaskStatus.ERROR)], ("handler", "kind", "message"))
    assert [(group.handler, group.kind, group.message, group.example) for group in without] == [("", "", "", "")]


def test_a_task_that_waits_is_changed_and_one_that_has_finished_is_refused(gowork, mark: str) -> None:
    add_waiting(gowork, mark, 1)
    gowork("add", f"{mark}-done", "21", "--handler", "double", "--wait")
    chosen = ("change", f"{mark}-0", f"{mark}-done", "--priority", "high", "--queue", mark, "--in", "2h")
    result = gowork(*chosen, "-o", "json")
    assert result.exit_code == 1
    assert "has finished with COMPLETED" in result.stderr
    (task,) = json.loads(result.stdout)
    assert (task["id"], task["queue"], task["priority"]) == (f"{mark}-0", mark, "HIGH")
    assert task["changed_fields"] == ["priority", "queue", "run_at"]
    assert "changed" in gowork("show", f"{mark}-0").stdout
    shown = gowork("change", f"{mark}-0", "--expires-in", "1h").stdout
    assert f"{mark}-0" in shown
    assert gowork("change", f"{mark}-0", "--never-expires", "--at", "2030-01-01T00:00").exit_code == 0
    task = json.loads(gowork("show", f"{mark}-0", "-o", "json").stdout)
    assert (task["expires_at"], task["run_at"][:7]) in ((None, "2030-01"), (None, "2029-12"))


def test_now_starts_what_was_to_start_later(gowork, mark: str) -> None:
    gowork("add", mark, "21", "--handler", "double", "--in", "1h")
    assert gowork("change", mark, "--now").exit_code == 0
    assert json.loads(gowork("wait", mark, "-o", "json").stdout)[0]["result"] == 42


@pytest.mark.parametrize(
    "words",
    [[], ["--in", "1h", "--now"], ["--at", "2030-01-01T00:00", "--now"], ["--expires-in", "1h", "--never-expires"]],
)
def test_a_change_of_nothing_or_of_one_thing_twice_is_wrong_usage(gowork, words: list[str]) -> None:
    assert gowork("change", "a", *words).exit_code == 2


def test_a_failed_task_is_retried_with_another_payload_and_handler(gowork, mark: str) -> None:
    gowork("add", mark, "no", "--handler", "fail", "--wait")
    assert gowork("retry", mark, "--payload", "21", "--handler", "double").exit_code == 0
    assert json.loads(gowork("wait", mark, "-o", "json").stdout)[0]["result"] == 42
    assert json.loads(gowork("show", mark, "-o", "json").stdout)["changed_fields"] == ["handler", "payload"]
    gowork("add", f"{mark}-2", "no", "--handler", "fail", "--wait")
    assert gowork("retry", f"{mark}-2", "--payload", "-", input="still no").exit_code == 0
    gowork("wait", f"{mark}-2")
    assert json.loads(gowork("show", f"{mark}-2", "-o", "json").stdout)["payload"] == "still no"


@pytest.mark.parametrize("words", [["a", "b", "--payload", "1"], ["--filter", "id = a", "--yes", "--handler", "h"]])
def test_another_payload_is_for_a_single_task(gowork, words: list[str]) -> None:
    result = gowork("retry", *words)
    assert result.exit_code == 2
    assert "single ID" in result.stderr
