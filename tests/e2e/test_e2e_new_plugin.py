"""A plugin that `gowork plugin new` has written is installed, tested, checked and run, as its author would at first."""

from __future__ import annotations

import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest
from clusters import COMMANDS, first_line, start_leader, stopped_cleanly

from gowork.client import Client


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The Python of an environment that has what this one has, and where more can be installed."""
    venv.create(tmp_path / "venv", with_pip=True, symlinks=True)
    found = tmp_path / "venv/bin/python"
    own = sysconfig.get_path("purelib", vars={"base": str(tmp_path / "venv"), "platbase": str(tmp_path / "venv")})
    others = [sysconfig.get_path(kind) for kind in ("purelib", "platlib")]
    lines = "".join(f"import site; site.addsitedir({other!r})\n" for other in dict.fromkeys(others))
    Path(own, "others.pth").write_text(lines)
    return found


@pytest.mark.longer
def test_a_new_plugin_is_installed_tested_checked_and_run(tmp_path: Path, python: Path) -> None:
    def run(*command: str | Path, folder: Path) -> str:
        told = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
        assert told.returncode == 0, told.stdout + told.stderr
        return told.stdout

    run(COMMANDS / "gowork", "plugin", "new", "thumbnails", folder=tmp_path)
    plugin = tmp_path / "gowork-plugin-thumbnails"
    run(python, "-m", "pip", "install", "-q", "--no-index", "--no-build-isolation", "-e", ".[test]", folder=plugin)
    assert "4 passed" in run(python, "-m", "pytest", "-q", "-W", "ignore", folder=plugin)
    check = "from gowork.worker._app.plugin_command import main; main()"
    payload = '{"text": "tick", "times": 3}'
    told = run(python, "-c", check, "check", "thumbnails", "--try", "thumbnails", payload, folder=tmp_path)
    assert "FAULT" not in told
    assert "thumbnails: stops when cancelled" in told
    leader = start_leader(tmp_path)
    log = tmp_path / "worker.log"
    with log.open("w") as told_here:
        worker = subprocess.Popen(
            [python, "-m", "gowork.worker", "--leader", leader.cluster, "--print-ready"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=told_here,
            text=True,
        )
    with stopped_cleanly(leader.process), stopped_cleanly(worker):
        first_line(worker, log)
        with Client(leader.scheduler) as client:
            assert client.schedule(payload, handler="thumbnails").result() == {"text": "tick tick tick"}
