"""`gowork add --after`, and what the commands tell of tasks that come after others, against a real cluster."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def mark() -> str:
    """The beginning of this test's own ids."""
    return uuid.uuid4().hex


def test_a_task_comes_after_others(gowork: Any, mark: str) -> None:
    first, second, last = f"{mark}-1", f"{mark}-2", f"{mark}-3"
    for id in (first, second):
        gowork("add", id, "work", "--in", "1h")
    gowork("add", last, "work", "--after", first, "--after", second, "--after-rule", "all_finished")
    told = json.loads(gowork("show", last, "-o", "json").stdout)
    assert (told["after"], told["after_rule"]) == ([first, second], "ALL_FINISHED")
    shown = " ".join(gowork("show", last).stdout.split())
    assert f"runs after {first}, {second}, when all have ended" in shown
    assert "of these 2 have not ended" in " ".join(gowork("why", last).stdout.split())
    gowork("cancel", first, second)
    assert gowork("wait", last, "--timeout", "30").exit_code == 0


def test_what_can_never_run_any_more_says_why(gowork: Any, mark: str) -> None:
    first, last = f"{mark}-1", f"{mark}-2"
    gowork("add", first, "work", "--in", "1h")
    gowork("add", last, "work", "--after", first)
    gowork("cancel", first)
    gowork("wait", last, "--timeout", "30")
    assert f"'{first}' has not" in " ".join(gowork("why", last).stdout.split())


def test_lines_of_a_file_come_after_others(gowork: Any, mark: str, tmp_path: Path) -> None:
    lines = [
        {"payload": "b", "id": f"{mark}-2", "after": [f"{mark}-1"], "after_rule": "any_failed"},
        {"payload": "a", "id": f"{mark}-1", "in": "1h"},
    ]
    file = tmp_path / "tasks.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert gowork("add", "--file", str(file)).exit_code == 0
    assert json.loads(gowork("show", f"{mark}-2", "-o", "json").stdout)["after_rule"] == "ANY_FAILED"
    file.write_text(json.dumps({"payload": "c", "after": "x"}) + "\n")
    assert "after is" in gowork("add", "--file", str(file)).stderr


def test_what_does_not_hang_together_is_refused(gowork: Any, invoke: Any, mark: str) -> None:
    refused = invoke(["add", "work", "--after-rule", "any_failed"])
    assert (refused.exit_code, "give --after with --after-rule" in refused.stderr) == (2, True)
    told = gowork("add", "work", "--after", mark)
    assert told.exit_code != 0
    assert f"no task has the id '{mark}'" in " ".join(told.stderr.split())
