"""`gowork plugin new` writes a package with a handler, and nothing over what is there."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from packaging.requirements import Requirement

from gowork.worker import __version__
from gowork.worker._app.plugin_command import main
from gowork.worker._authoring.scaffold import Names, ScaffoldError, names_of, write_plugin


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("thumbnails", Names("thumbnails", "gowork-plugin-thumbnails", "gowork_plugin_thumbnails", "thumbnails")),
        ("gowork-plugin-a-b", Names("a-b", "gowork-plugin-a-b", "gowork_plugin_a_b", "a_b")),
        ("a_b2", Names("a-b2", "gowork-plugin-a-b2", "gowork_plugin_a_b2", "a_b2")),
        # A keyword, something built in, and what the files import.
        ("import", Names("import", "gowork-plugin-import", "gowork_plugin_import", "import_task")),
        ("print", Names("print", "gowork-plugin-print", "gowork_plugin_print", "print_task")),
        ("cancel", Names("cancel", "gowork-plugin-cancel", "gowork_plugin_cancel", "cancel_task")),
    ],
)
def test_a_plugin_and_what_belongs_to_it_are_called_alike(name: str, names: Names) -> None:
    assert names_of(name) == names


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Thumb.Nails", "such as thumb-nails"),
        ("9lives", "such as lives"),
        ("a--b", "such as a-b"),
        ("-a", "such as a"),
        ("", "can't be a plugin's name"),
        ("ü", "can't be a plugin's name"),
        ("../up", "such as up"),
        ("a\n", "such as a"),
        ("a" * 61, "at most 60 characters"),
        ("gowork-plugin", "says nothing"),
        ("echo", "comes with gowork.* such as my-echo"),
        ("gowork-plugin-shell", "'shell' is a handler that comes with gowork"),
        ("python_async", "'python-async' is a handler that comes with gowork"),
    ],
)
def test_a_name_that_can_not_be_one_is_refused_with_one_that_can(name: str, said: str) -> None:
    with pytest.raises(ScaffoldError, match=said):
        names_of(name)


def test_all_handlers_that_come_with_gowork_are_refused() -> None:
    root = Path(__file__).parents[4]
    sources = [*root.glob("plugins/*/src/*/plugin.py"), root / "packages/gowork-worker/src/gowork/worker/_core/echo.py"]
    names = {name for source in sources for name in re.findall(r'@handler\("([^"]+)"', source.read_text())}
    assert len(names) > len(sources)
    for name in names:
        with pytest.raises(ScaffoldError, match="comes with gowork"):
            names_of(name)


@pytest.mark.parametrize("name", [pytest.param("thumbnails", marks=pytest.mark.longer), "import", "cancel", "handler"])
def test_its_tests_pass_and_its_metadata_are_right(name: str, tmp_path: Path) -> None:
    names = names_of(name)
    written = write_plugin(names, tmp_path / "new")
    assert sorted(written) == sorted(
        path.relative_to(tmp_path / "new") for path in (tmp_path / "new").rglob("*") if path.is_file()
    )
    metadata = tomllib.loads((tmp_path / "new/pyproject.toml").read_text())
    assert metadata["project"]["entry-points"]["gowork.plugins"] == {names.plugin: f"{names.module}.plugin"}
    (needed,) = map(Requirement, metadata["project"]["dependencies"])
    assert needed.name == "gowork-worker"
    assert needed.specifier.contains(__version__, prereleases=True)
    for path in (tmp_path / "new").rglob("*.py"):
        ast.parse(path.read_text())
    assert "$" not in (tmp_path / "new/README.md").read_text()
    assert (tmp_path / "new/README.md").read_text().index("\ngowork up ") > 0
    # pip must find gowork's packages installed, because on an index their names could be anybody's.
    workflow = yaml.safe_load((tmp_path / "new/.github/workflows/ci.yml").read_text())
    commands = [step["run"] for step in workflow["jobs"]["test"]["steps"] if "run" in step]
    assert commands[0] == "pip install wheels/gowork_{proto,base,worker}-*.whl"
    assert commands[1] == "pip install -e '.[test]'"
    assert "${{ matrix.python }}" in (tmp_path / "new/.github/workflows/ci.yml").read_text()
    told = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore"],
        cwd=tmp_path / "new",
        env={**os.environ, "PYTHONPATH": "src"},
        capture_output=True,
        text=True,
    )
    assert "4 passed" in told.stdout, told.stdout


def test_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path, tmp_path / "file"):
        with pytest.raises(ScaffoldError, match="was left as it is"):
            write_plugin(names_of("a"), folder)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ScaffoldError, match="file.* can't be written: Not a directory"):
        write_plugin(names_of("a"), tmp_path / "file/new")


def test_the_command_says_what_it_has_written_and_what_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(main, ["new", "thumbnails"])
    assert told.exit_code == 0
    assert "src/gowork_plugin_thumbnails/plugin.py" in told.output
    assert "cd gowork-plugin-thumbnails" in told.output
    # In an order in which each works: without a leader a worker waits, and so does a task.
    assert 0 < told.output.index("\n  gowork up ") < told.output.index("\n  gowork add ")
    again = CliRunner().invoke(main, ["new", "thumbnails"])
    assert again.exit_code == 2
    assert "gowork-plugin-thumbnails is not empty" in again.output
    assert CliRunner().invoke(main, ["new", "thumbnails", "-d", "my place"]).output.count("cd 'my place'") == 1
