"""`gowork plugins` lists the plugins of other environments too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from made_environments import equipped, install, with_plugin

from gowork.worker._app import plugins_command

ONE = "from gowork.worker import handler\n\n@handler\ndef one() -> None: ...\n"


def listed(*arguments: str) -> Result:
    return CliRunner().invoke(plugins_command.main, arguments)


def rows_of(*arguments: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(listed(*arguments, "-o", "json").output)
    return rows


def test_plugins_of_other_environments_are_listed_with_these(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = with_plugin(tmp_path / "env", "reports")
    # It has no library named tiny, so nothing of it can be loaded here.
    arguments = ["--plugin", "echo", "--plugin", "reports", "--plugin-env", "env"]
    answer = listed(*arguments)
    assert answer.exit_code == 0
    lines = [line.split() for line in answer.output.splitlines()]
    assert lines[0][:3] == ["ENVIRONMENT", "PLUGIN", "VERSION"]
    assert lines[1][:4] == ["(own)", "echo", "-", "echo"]
    assert lines[2][:4] == [path, "reports", "1.0", "reports"]
    assert [(row["environment"], row["plugin"], row["errors"]) for row in rows_of(*arguments)] == [
        ("", "echo", []),
        (path, "reports", []),
    ]


def test_a_table_of_the_own_environment_alone_names_no_environment() -> None:
    assert listed("--plugin", "echo").output.startswith("PLUGIN ")


def test_a_plugin_that_is_nowhere_is_told_once(tmp_path: Path) -> None:
    path = str(equipped(tmp_path / "env"))
    rows = rows_of("--plugin", "nobody", "--plugin-env", path)
    assert [(row["plugin"], row["errors"]) for row in rows] == [("nobody", ["no plugin of this name is installed"])]


def test_a_handler_of_two_environments_is_an_error_in_both(tmp_path: Path) -> None:
    paths = [equipped(tmp_path / name) for name in ("a", "b")]
    for path in paths:
        install(path, "ones", ONE)
    arguments = [word for path in paths for word in ("--plugin-env", str(path))]
    rows = rows_of("--plugin", "ones", *arguments)
    assert [row["environment"] for row in rows] == [str(path) for path in paths]
    assert {error for row in rows for error in row["errors"]} == {"another environment offers the handler 'one' too"}
    assert listed("--plugin", "ones", *arguments).exit_code == 1


def test_paths_that_a_worker_refuses_are_refused(tmp_path: Path) -> None:
    path = equipped(tmp_path / "env")
    (tmp_path / "link").symlink_to(path)
    for paths, words in (([""], "a path is empty"), ([str(path), str(tmp_path / "link")], "are the same environment")):
        answer = listed(*(word for each in paths for word in ("--plugin-env", each)))
        assert answer.exit_code == 2
        assert words in answer.output


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (None, "{path} does not exist; make it with: python3 -m venv {path}"),
        ("", "no plugin is installed there"),
    ],
    ids=["no environment", "no plugin"],
)
def test_an_environment_at_fault_is_listed_with_what_is_wrong(tmp_path: Path, code: str | None, words: str) -> None:
    path = tmp_path / "env"
    if code is not None:
        equipped(path)
    rows = rows_of("--plugin-env", str(path))
    (row,) = [row for row in rows if row["environment"]]
    assert (row["plugin"], row["errors"]) == ("", [words.format(path=path)])
    assert "echo" in [row["plugin"] for row in rows]


def test_a_plugin_of_an_environment_that_ends_its_process_is_named_and_hides_no_other(tmp_path: Path) -> None:
    path = equipped(tmp_path / "env")
    install(path, "deadly", "import os\nos._exit(3)\n")
    install(path, "ones", "from gowork.worker import handler\n@handler('one')\ndef one(ctx): ...\n")
    rows = [row for row in rows_of("--plugin-env", str(path)) if row["environment"]]
    assert {row["plugin"]: row["errors"] for row in rows} == {
        "deadly": ["it ends the process that loads it (exit code 3)"],
        "ones": [],
    }
    assert [handler["name"] for row in rows for handler in row["handlers"]] == ["one"]
