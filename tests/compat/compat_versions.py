"""Runs the packages of 0.1.0, from the wheels that are kept beside this file, and those of the work tree.

Both need the same libraries, so 0.1.0 needs no environment of its own: its unpacked wheels come first on the path.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
STOP_SECONDS = 30


@dataclass(frozen=True)
class Version:
    """The packages of one version."""

    name: str
    #: The folder that comes first on its processes' module path; empty for the work tree.
    path: str = ""

    def start(self, *arguments: str, folder: Path, log: str) -> subprocess.Popen[str]:
        """Starts `python3 -m …` of this version; its log goes to a file in the folder."""
        with (folder / log).open("a") as stderr:
            return subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=folder,
                env=self._environment(),
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )

    def run(self, *arguments: str, folder: Path) -> str:
        """Runs `python3 …` of this version to its end, and returns what it printed."""
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{self.name}: {arguments} ended with {done.returncode}:\n{done.stderr}"
        return done.stdout

    def _environment(self) -> dict[str, str]:
        path = os.pathsep.join(part for part in (self.path, str(HERE)) if part)
        return {**os.environ, "PYTHONPATH": path}


NEW = Version("work tree")


def unpack_old(folder: Path) -> Version:
    """Unpacks the wheels of 0.1.0 into this folder, and returns that version."""
    for wheel in sorted((HERE / "wheels").glob("*-0.1.0-*.whl")):
        zipfile.ZipFile(wheel).extractall(folder)
    return Version("0.1.0", str(folder))


@dataclass(frozen=True)
class Cluster:
    """A leader and a worker, each of a version of its own."""

    #: Where clients reach its leader, as HOST:PORT.
    scheduler: str
    #: Where workers reach it.
    cluster: str


@contextmanager
def cluster(
    folder: Path,
    leader: Version,
    worker: Version | None,
    store: Path | None = None,
    *options: str,
    default_handler: str = "",
) -> Iterator[Cluster]:
    """Starts both, waits until the worker is ready, and stops them cleanly at the end.

    Args:
        folder: where they run and log.
        leader: the leader's version.
        worker: the worker's version; None for no worker.
        store: the leader's database; a new one when left out.
        options: further options of the leader.
        default_handler: the handler of a callback worker (`--listen`); empty for a worker with a session.
    """
    with ExitStack() as stack:
        listen = [f"--{name}-listen=127.0.0.1:0" for name in ("cluster", "scheduler", "http")]
        store = store or folder / "gowork.db"
        arguments = ["gowork.leader", *listen, f"--store=sqlite:///{store}", "--print-addresses", *options]
        process = leader.start(*arguments, folder=folder, log="leader.log")
        stack.enter_context(_stopped(process, folder / "leader.log"))
        addresses = _first_line(process, folder / "leader.log")
        if worker is not None:
            arguments = ["gowork.worker", "--leader", addresses["cluster"], "--import", "compat_handlers"]
            if default_handler:
                arguments += ["--listen=127.0.0.1:0", "--scheduler", addresses["scheduler"]]
                arguments += ["--default-handler", default_handler]
            process = worker.start(
                *arguments, "--runners=1", "--slots=8", "--print-ready", folder=folder, log="worker.log"
            )
            stack.enter_context(_stopped(process, folder / "worker.log"))
            _first_line(process, folder / "worker.log")
        yield Cluster(addresses["scheduler"], addresses["cluster"])


def _first_line(process: subprocess.Popen[str], log: Path) -> Mapping[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"it did not start:\n{log.read_text()}"
    told: Mapping[str, Any] = json.loads(line)
    return told


@contextmanager
def _stopped(process: subprocess.Popen[str], log: Path) -> Iterator[None]:
    try:
        yield
        process.terminate()
        assert process.wait(STOP_SECONDS) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
