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


def test_the_tasks_before_a_task_are_drawn_with_those_before_them(gowork: Any, mark: str) -> None:
    a, b, c, d = (f"{mark}-{letter}" for letter in "abcd")
    gowork("add", a, "work", "--in", "1h")
    gowork("add", b, "work", "--after", a)
    gowork("add", c, "work", "--after", a)
    gowork("add", d, "work", "--after", b, "--after", c, "--after", a)
    drawn = gowork("show", d).stdout.partition("\nruns after\n")[2].splitlines()
    assert [line.strip() for line in drawn] == [
        f"├── {b} WAITING",
        f"│   └── {a} (see above)",
        f"├── {c} WAITING",
        f"│   └── {a} (see above)",
        f"└── {a} PENDING",
    ]
    gowork("cancel", a)
    gowork("wait", d, "--timeout", "30")
    assert f"{c} CANCELLED" in gowork("show", d).stdout
    assert "\nruns after\n" not in gowork("show", a).stdout


def test_a_long_chain_is_not_drawn_to_its_end(gowork: Any, mark: str, tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [{"payload": "x", "id": f"{mark}-0", "in": "1h"}]
    lines += [{"payload": "x", "id": f"{mark}-{n}", "after": [f"{mark}-{n - 1}"]} for n in range(1, 10)]
    lines += [{"payload": "x", "id": f"{mark}-wide{n}", "in": "1h"} for n in range(50)]
    lines.append({"payload": "x", "id": f"{mark}-all", "after": [f"{mark}-wide{n}" for n in range(50)]})
    file = tmp_path / "tasks.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    gowork("add", "--file", str(file))
    drawn = gowork("show", f"{mark}-9").stdout
    assert f"{mark}-3 WAITING" in drawn
    assert "… and 1 before it" in drawn
    assert "… and 10 more" in gowork("show", f"{mark}-all").stdout
