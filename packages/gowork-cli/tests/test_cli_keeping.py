"""`gowork retry`, `gowork purge` and `gowork store`, against a real cluster."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest


@pytest.fixture
def mark() -> str:
    return uuid.uuid4().hex


def test_a_failed_task_is_retried(gowork, mark: str) -> None:
    gowork("add", mark, "no", "--handler", "fail", "--wait")
    assert gowork("retry", mark).exit_code == 0
    gowork("wait", mark)
    task = json.loads(gowork("show", mark, "-o", "json").stdout)
    assert [attempt["outcome"] for attempt in task["attempts"]] == ["FAILED", "FAILED"]


def test_a_task_that_cannot_be_retried_is_told(gowork, mark: str) -> None:
    gowork("add", mark, "21", "--handler", "double", "--wait")
    result = gowork("retry", mark, "nobody")
    assert result.exit_code == 1
    assert "has completed" in result.stderr
    assert "nobody" in result.stderr


def test_purge_asks_and_says_how_many(gowork, mark: str) -> None:
    for n in range(2):
        gowork("add", f"{mark}-{n}", "no", "--handler", "fail", "--wait")
    refused = gowork("purge", f"{mark}-0", input="n\n")
    assert refused.exit_code == 1
    assert json.loads(gowork("purge", f"{mark}-0", "--yes", "-o", "json").stdout) == {"purged": 1}
    result = gowork("purge", "--filter", f'id = "{mark}*"', input="y\n")
    assert (result.exit_code, result.stdout) == (0, "removed 1 tasks\n")
    assert gowork("show", f"{mark}-1").exit_code == 1


def test_purge_without_a_choice_is_wrong_usage(gowork) -> None:
    assert gowork("purge", "--yes").exit_code == 2
    assert gowork("purge", "a", "--older-than", "1d", "--yes").exit_code == 2


def test_older_than_leaves_what_is_younger(gowork, mark: str) -> None:
    gowork("add", mark, "21", "--handler", "double", "--wait")
    assert gowork("purge", "--older-than", "1h", "--yes").stdout == "removed 0 tasks\n"
    assert gowork("show", mark).exit_code == 0


def test_a_backup_is_written_and_not_overwritten(gowork, tmp_path: Path) -> None:
    file = tmp_path / "gowork.backup"
    result = gowork("store", "backup", str(file))
    assert (result.exit_code, result.stdout) == (0, f"wrote {file}, {file.stat().st_size:,} bytes\n")
    again = gowork("store", "backup", str(file))
    assert again.exit_code == 1
    assert "is there already" in again.stderr
