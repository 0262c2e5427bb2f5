"""Starts the real processes of a cluster, on free ports, and stops them cleanly."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

COMMANDS = Path(sys.executable).parent
#: How long a process may take to stop, in seconds.
STOP_SECONDS = 20


@dataclass(frozen=True)
class RunningLeader:
    """Where a leader serves, as HOST:PORT, and its process."""

    cluster: str
    scheduler: str
    http: str
    process: subprocess.Popen[str]


@contextmanager
def running_leader(folder: Path) -> Iterator[RunningLeader]:
    """A leader that keeps its store and its log in this folder, and must stop with exit code 0."""
    listen = [part for name in ("cluster", "scheduler", "http") for part in (f"--{name}-listen", "127.0.0.1:0")]
    store = ["--store", f"sqlite:///{folder}/leader.db"]
    with running("gowork-leader", *listen, *store, "--print-addresses", folder=folder) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"the leader did not start:\n{(folder / 'gowork-leader.log').read_text()}"
        yield RunningLeader(**json.loads(line), process=process)


@contextmanager
def running(command: str, *arguments: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A command of gowork's that runs until it gets SIGTERM, then ends with exit code 0; its log goes to the folder."""
    with (folder / f"{command}.log").open("a") as log:
        process = subprocess.Popen(
            [str(COMMANDS / command), *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_SECONDS) == 0, (folder / f"{command}.log").read_text()
    finally:
        process.kill()
        process.communicate()
