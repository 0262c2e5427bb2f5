"""A user's project is checked by mypy and by pyright: what is right passes in both, and each wrong line is an error."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Set
from pathlib import Path

import pytest

from gowork.client import InvalidArgument, NewTask, Priority
from gowork.client._requests import TaskEncoder
from gowork.worker import HandlerDefinitionError, handler

ROOT = Path(__file__).parents[2]
PROJECT = Path(__file__).with_name("project")
SOURCES = [str(path) for path in sorted((*ROOT.glob("packages/*/src"),))]
#: How long a type checker may take, in seconds.
CHECK_SECONDS = 250


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, outside of this repository and its configuration."""
    folder = tmp_path_factory.mktemp("project")
    for path in PROJECT.iterdir():
        shutil.copy(path, folder / path.name.removesuffix(".txt"))
    return folder


def run(command: list[str], folder: Path, **environment: str) -> str:
    result = subprocess.run(
        command,
        cwd=folder,
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=CHECK_SECONDS,
    )
    assert result.returncode in (0, 1), result.stdout + result.stderr
    return result.stdout


def mypy_errors(project: Path, files: Set[str]) -> dict[str, dict[int, str]]:
    """Returns {file: {number of a line: its first error}}."""
    found: dict[str, dict[int, str]] = {name: {} for name in files}
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--show-error-codes", *sorted(files)]
    for line in run(command, project, MYPYPATH=":".join(SOURCES)).splitlines():
        if match := re.match(r"([^:]+):(\d+): error: (.*)", line):
            found[match[1]].setdefault(int(match[2]), match[3])
    return found


def pyright_errors(project: Path, files: Set[str]) -> dict[str, dict[int, str]]:
    settings = {"typeCheckingMode": "strict", "extraPaths": SOURCES, "include": sorted(files)}
    (project / "pyrightconfig.json").write_text(json.dumps(settings))
    output = run([sys.executable, "-m", "basedpyright", "--outputjson", "--level", "error"], project)
    found: dict[str, dict[int, str]] = {name: {} for name in files}
    for error in json.loads(output)["generalDiagnostics"]:
        name, line = Path(error["file"]).name, error["range"]["start"]["line"] + 1
        found[name].setdefault(line, error["message"])
    return found


def wrong_lines(name: str) -> set[int]:
    lines = (PROJECT / f"{name}.txt").read_text().splitlines()
    return {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}


def compare(found: dict[str, dict[int, str]]) -> None:
    for name, errors in found.items():
        unexpected = {line: text for line, text in errors.items() if line not in wrong_lines(name)}
        assert not unexpected, (name, unexpected)
        assert set(errors) == wrong_lines(name), name


def test_mypy_finds_each_wrong_line_and_no_other(project: Path) -> None:
    compare(mypy_errors(project, {"handlers.py", "right.py", "wrong.py", "literals.py"}))


def test_pyright_finds_each_wrong_line_and_no_other(project: Path) -> None:
    compare(pyright_errors(project, {"handlers.py", "right.py", "wrong.py"}))


@pytest.mark.parametrize("priority", ["LOW", "Medium", "high", Priority.HIGH])
def test_a_priority_that_type_checkers_take_is_taken_at_run_time(priority: Priority) -> None:
    assert TaskEncoder({"priority": priority}).task("x").priority


def test_a_misspelt_priority_is_refused_at_run_time_too() -> None:
    with pytest.raises(InvalidArgument, match="priority"):
        TaskEncoder({}).task(NewTask("x", priority="HIHG"))  # type: ignore[arg-type]


def test_a_misspelt_option_is_refused_with_the_right_one() -> None:
    with pytest.raises(HandlerDefinitionError, match="no option 'max_attempt'.*did you mean 'max_attempts'"):

        @handler(max_attempt=3)  # type: ignore[call-overload]
        def mistyped() -> None: ...


def test_a_name_may_be_given_by_name() -> None:
    @handler(name="named")
    def function() -> None: ...

    assert TaskEncoder({"handler": function}).task("x").handler == "named"
