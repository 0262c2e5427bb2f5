"""The demo, as `nox -s demo` runs it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

DEMO = Path(__file__).parents[2] / "examples/demo/run.py"
#: The demo's time limit, in seconds; README says that it takes about a minute.
DEMO_SECONDS = 90


def demo(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(DEMO), *arguments],
        cwd=folder,
        env={"COLUMNS": "200", "PATH": "/usr/bin:/bin", "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=DEMO_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def processes_of(folder: Path) -> list[psutil.Process]:
    """The leader and the workers of demos that keep their store in this folder."""
    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            environment = process.environ()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if any("gowork" in part for part in command) and environment.get("TMPDIR") == str(folder):
            found.append(process)
    return found


@pytest.mark.longer
def test_the_demo_completes_every_task_and_cleans_up(tmp_path: Path) -> None:
    out = demo(tmp_path)
    assert re.search(r"SIGKILL for worker \w+ \(pid \d+\), which held \d+ tasks", out)
    for kind, tasks in [("SHA-256 of a file", 600), ("shell: sort -n", 300), ("async HTTP call", 100)]:
        assert re.search(rf"{kind}\W+{tasks}\W+{tasks}\W+{tasks}\W", out), out
    assert out.count(" LIVE ") == 2
    assert out.count(" LOST ") == 1
    assert "nox -s demo -- --keep" in out
    assert processes_of(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.longer
def test_a_kept_cluster_stays_until_it_is_stopped_as_told(tmp_path: Path) -> None:
    out = demo(tmp_path, "--keep")
    running = processes_of(tmp_path)
    try:
        (pids,) = re.findall(r"kill ([\d ]+\d)", out)
        told = [psutil.Process(int(pid)) for pid in pids.split()]
        assert len(told) == 3, "the leader and two workers"
        (address,) = re.findall(r"GOWORK_LEADER=(\S+)", out)
        gowork = [str(Path(sys.executable).parent / "gowork"), "--leader", address, "show", "sort-007"]
        shown = subprocess.run(gowork, capture_output=True, text=True, timeout=120)
        assert shown.returncode == 0, shown.stderr
        assert "COMPLETED" in shown.stdout
        for process in told:
            process.terminate()
        _, alive = psutil.wait_procs(running, timeout=120)
        assert alive == []
    finally:
        for process in running:
            if process.is_running():
                process.kill()
