"""Another project's `gowork` is found and named before anything of this project is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

#: The console scripts: (the module that each starts in, its name).
SCRIPTS = [
    ("gowork_cli_start", "gowork"),
    ("gowork_leader_start", "gowork-leader"),
    ("gowork_worker_start", "gowork-worker"),
]
each_script = pytest.mark.parametrize(("module", "program"), SCRIPTS)


def run(module: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # The folder comes before what stands on the path already, such as a tree in which an edit is planted.
    path = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    code = f"import sys; sys.argv[1:] = {list(arguments)!r}; from {module}.main import main; main()"
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=folder.parent,
        env={"PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
    )


@each_script
def test_a_foreign_package_is_named_in_one_line_with_what_to_do(module: str, program: str, tmp_path: Path) -> None:
    foreign = tmp_path / "gowork" / "__init__.py"
    foreign.parent.mkdir()
    foreign.write_text("raise RuntimeError('this is not the gowork that you look for')")
    done = run(module, tmp_path, "--version")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{program}: {foreign} is not part of this project")
    assert f"take {tmp_path} off the module path" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_distribution_that_brought_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "gowork").mkdir()
    (tmp_path / "gowork/__init__.py").touch()
    (tmp_path / "gowork-9.9.dist-info").mkdir()
    (tmp_path / "gowork-9.9.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: gowork\nVersion: 9.9\n")
    done = run("gowork_cli_start", tmp_path, "--version")
    assert done.returncode == 1
    assert "distribution 'gowork' 9.9" in done.stderr
    assert "pip uninstall gowork" in done.stderr


def test_a_file_of_that_name_is_named(tmp_path: Path) -> None:
    (tmp_path / "gowork.py").touch()
    done = run("gowork_cli_start", tmp_path, "--version")
    assert done.returncode == 1
    assert f"{tmp_path / 'gowork.py'} is not part of this project" in done.stderr
    assert "Rename it" in done.stderr


@each_script
def test_a_folder_without_an_init_does_no_harm(module: str, program: str, tmp_path: Path) -> None:
    (tmp_path / "gowork").mkdir()
    done = run(module, tmp_path, "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{program}, version ")
