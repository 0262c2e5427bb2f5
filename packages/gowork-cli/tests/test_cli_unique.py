"""`gowork add --unique` says which task has the key, against a real cluster."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

LATER = ("--in", "1h")


@pytest.fixture
def mark() -> str:
    """An id and key of this test's own."""
    return uuid.uuid4().hex


def test_a_task_whose_key_another_one_has_is_not_scheduled(gowork: Any, mark: str) -> None:
    add = ("add", mark, "work", "--unique", mark, "--unique-for", "1h", *LATER)
    first, again = gowork(*add), gowork(*add)
    assert (first.stdout, first.stderr) == (again.stdout, again.stderr) == (f"{mark}\n", "")
    second = gowork("add", "work", "--unique", mark, *LATER)
    assert (second.exit_code, second.stdout) == (0, f"{mark}\n")
    assert second.stderr == f"gowork: task {mark} has this unique key, so none was scheduled\n"
    assert json.loads(gowork("add", "work", "--unique", mark, "-o", "json").stdout) == {"id": mark, "is_new": False}
    assert mark in gowork("show", mark).stdout.partition("unique key")[2]
    shown = json.loads(gowork("show", mark, "-o", "json").stdout)
    assert (shown["unique_key"], shown["unique_for"]) == (mark, 3600)


def test_lines_of_a_file_have_keys_of_their_own(gowork: Any, mark: str, tmp_path: Path) -> None:
    lines = [
        {"payload": "a", "id": f"{mark}-1", "unique": mark, "in": "1h"},
        {"payload": "b", "id": f"{mark}-2", "unique": mark, "unique_for": "2h", "in": "1h"},
        {"payload": "c", "id": f"{mark}-3", "in": "1h"},
    ]
    file = tmp_path / "tasks.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = gowork("add", "--file", str(file)).stdout
    assert told == "scheduled 2 tasks; for 1 lines another task has the unique key\n"
    again = gowork("add", "--file", str(file), "-o", "jsonl").stdout
    assert [json.loads(line)["id"] for line in again.splitlines()] == [f"{mark}-1", f"{mark}-1", f"{mark}-3"]


def test_a_time_without_a_key_is_refused(invoke: Any) -> None:
    refused = invoke(["add", "work", "--unique-for", "1h"])
    assert refused.exit_code == 2
    assert "give --unique with --unique-for" in refused.stderr
