"""`gowork groups`, and what other commands tell of groups, against a real cluster."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def id() -> str:
    """The id of this test's own group."""
    return uuid.uuid4().hex


def record(output: Any) -> dict[str, Any]:
    assert output.exit_code == 0, output.stderr
    found: dict[str, Any] = json.loads(output.stdout)
    return found


def words(output: Any) -> str:
    return " ".join(output.stdout.split())


def test_a_group_is_opened_filled_sealed_and_ends(gowork: Any, id: str) -> None:
    assert gowork("groups", "open", id).stdout.strip() == id
    assert record(gowork("groups", "open", id, "-o", "json")) == {"id": id}
    for name in "ab":
        gowork("add", f"{id}/{name}", "work", "--in", "1h")
    assert "it is an open group; children so far: 2" in words(gowork("why", id))
    shown = words(gowork("show", id))
    assert "handler (none: it is a group)" in shown
    assert f"runs after its children, when all have completed; see gowork groups show {id}" in shown
    assert "children 2 so far; it is open" in words(gowork("groups", "show", id))
    told = record(gowork("groups", "seal", id, "-o", "json"))
    assert (told["expected"], told["children"], told["unfinished"], told["status"]) == (2, 2, 2, "PENDING")
    row = next(line.split() for line in gowork("groups").stdout.splitlines() if id in line)
    assert row[1:8] == ["PENDING", "2", "2", "2", "0", "0", "0"]
    gowork("cancel", f"{id}/a")
    assert gowork("wait", id, "--timeout", "30").exit_code == 1
    ended = record(gowork("groups", "show", id, "-o", "json"))
    assert (ended["status"], ended["cancelled"], ended["unfinished"]) == ("CANCELLED", 1, 1)
    assert record(gowork("show", id, "-o", "json"))["group"] is True


def test_a_sealed_group_says_how_many_are_there(gowork: Any, id: str) -> None:
    gowork(
        "groups",
        "open",
        id,
        "payload",
        "--handler",
        "nobody",
        "--no-check",
        "--children",
        "3",
        "--after-rule",
        "any_failed",
    )
    assert "children 0 of 3" in words(gowork("groups", "show", id))
    told = record(gowork("show", id, "-o", "json"))
    assert (told["handler"], told["payload"], told["after_rule"]) == ("nobody", "payload", "ANY_FAILED")
    assert "runs after its children, if one has failed" in words(gowork("show", id))
    refused = gowork("groups", "seal", id, "--children", "4")
    assert refused.exit_code != 0
    assert "is sealed with 3 children, and can't have 4" in " ".join(refused.stderr.split())


def test_a_group_is_cancelled_with_its_children(gowork: Any, id: str) -> None:
    gowork("groups", "open", id)
    for name in ("a", "b"):
        gowork("add", f"{id}/{name}", "work", "--in", "1h")
    assert words(gowork("groups", "cancel", id)) == "children cancelled: 2; asked to stop: 0"
    done = record(gowork("groups", "cancel", id, "-o", "json"))
    assert done == {"id": id, "cancelled": 0, "asked_to_stop": 0}
    assert record(gowork("show", f"{id}/b", "-o", "json"))["status"] == "CANCELLED"


def test_lines_of_a_file_make_groups(gowork: Any, id: str, tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    lines = [
        {"payload": "", "id": id, "group": True},
        {"payload": "a", "id": f"{id}/0", "in": "1h"},
        {"payload": "", "id": f"{id}/1", "group": 0},
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert gowork("add", "--file", str(file)).exit_code == 0
    assert record(gowork("groups", "show", id, "-o", "json"))["children"] == 2
    file.write_text(json.dumps({"payload": "c", "group": "x"}) + "\n")
    assert 'group is "x", not a number, true or false' in gowork("add", "--file", str(file)).stderr


def test_no_group_has_no_numbers(gowork: Any, id: str) -> None:
    for command in ("show", "seal", "cancel"):
        refused = gowork("groups", command, id)
        assert refused.exit_code != 0
        assert id in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "give the ID of the group"),
        (["a", "b", "c", "--handler", "h"], "too many words"),
        (["a", "b"], "give a --handler with a PAYLOAD"),
        (["a", "--children", "-1"], "-1 is not in the range"),
    ],
)
def test_what_does_not_hang_together_is_refused(invoke: Any, arguments: list[str], told: str) -> None:
    refused = invoke(["groups", "open", *arguments])
    assert (refused.exit_code, told in refused.stderr) == (2, True), refused.stderr
