"""The commands `gowork retry`, `gowork purge` and `gowork store`, against a real cluster."""

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


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody can be asked, though standard input is no terminal here."""
    monkeypatch.setattr("gowork.cli.questions.can_ask", lambda: True)


@pytest.mark.usefixtures("asked")
def test_purge_names_what_it_removes_and_asks(gowork, mark: str) -> None:
    for n in range(7):
        gowork("add", f"{mark}-{n}", "21", "--handler", "double", "--wait")
    refused = gowork("purge", f"{mark}-0", input="n\n")
    assert refused.exit_code == 1
    assert f"Remove 1 finished task: {mark}-0, with their results?" in refused.stderr
    assert json.loads(gowork("purge", f"{mark}-0", "--yes", "-o", "json").stdout) == {"purged": 1}
    result = gowork("purge", "--filter", f'id = "{mark}*"', input="y\n")
    # Before click 8.4 its runner echoes the answer on standard output, whatever the question was asked on.
    assert (result.exit_code, result.stdout.removeprefix(" y\n")) == (0, "removed 6 tasks\n")
    named = ", ".join(f"{mark}-{n}" for n in range(1, 6))
    assert f"Remove 6 finished tasks: {named}, …, with their results?" in result.stderr
    assert gowork("show", f"{mark}-1").exit_code == 1


@pytest.mark.usefixtures("asked")
def test_an_input_that_ends_before_the_answer_removes_nothing(gowork, mark: str) -> None:
    gowork("add", mark, "21", "--handler", "double", "--wait")
    assert gowork("purge", mark, input="").exit_code == 130
    assert gowork("show", mark).exit_code == 0


def test_purge_removes_nothing_where_nobody_can_be_asked(gowork, mark: str) -> None:
    gowork("add", mark, "21", "--handler", "double", "--wait")
    for words in ([mark], ["--filter", f'id = "{mark}"'], ["--older-than", "0s"]):
        refused = gowork("purge", *words, input="y\n")
        assert refused.exit_code == 2
        assert "--yes" in refused.stderr
    assert gowork("show", mark).exit_code == 0


def test_a_dry_run_counts_and_removes_nothing(gowork, mark: str) -> None:
    gowork("add", f"{mark}-done", "21", "--handler", "double", "--wait")
    gowork("add", f"{mark}-later", "21", "--in", "1h")
    for words in ([f"{mark}-done", f"{mark}-later", "nobody"], ["--filter", f'id = "{mark}*"']):
        result = gowork("purge", *words, "--dry-run")
        assert (result.exit_code, result.stdout) == (0, f"would remove 1 finished task: {mark}-done\n")
        told = json.loads(gowork("purge", *words, "--dry-run", "-o", "json").stdout)
        assert told == {"matched": 1, "more": False, "examples": [f"{mark}-done"]}
    old = gowork("purge", "--filter", f'id = "{mark}*"', "--older-than", "1h", "--dry-run")
    assert old.stdout == "would remove 0 finished tasks\n"
    assert gowork("show", f"{mark}-done").exit_code == 0


def test_an_escaped_star_removes_the_one_task_of_that_name(gowork, mark: str) -> None:
    for name in (f"{mark}0", f"{mark}*"):
        gowork("add", name, "21", "--handler", "double", "--wait")
    assert gowork("purge", "--filter", rf'id = "{mark}\*"', "--yes").stdout == "removed 1 task\n"
    assert gowork("show", f"{mark}0").exit_code == 0


def test_purge_without_a_choice_is_wrong_usage(gowork) -> None:
    assert gowork("purge", "--yes").exit_code == 2
    assert gowork("purge", "a", "--older-than", "1d", "--yes").exit_code == 2
    assert gowork("purge", "--filter", " ", "--yes").exit_code == 2


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


def test_a_backup_that_cannot_be_written_is_told_by_the_name_that_was_given(gowork, tmp_path: Path) -> None:
    file = tmp_path / "missing" / "gowork.backup"
    result = gowork("store", "backup", str(file))
    assert result.exit_code == 1
    assert result.stderr == f"gowork: {file} can't be written: No such file or directory\n"
