"""Starts the real processes of a cluster, on free ports, and stops them cleanly."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gowork.base.tls_files import TlsFiles

COMMANDS = Path(sys.executable).parent
#: How long a process may take to stop, in seconds.
STOP_SECONDS = 20


@dataclass(frozen=True)
class RunningLeader:
    """A leader's addresses, as HOST:PORT, and its process."""

    cluster: str
    scheduler: str
    http: str
    process: subprocess.Popen[str]


def start_leader(folder: Path, *addresses: str, more: Sequence[str] = ()) -> RunningLeader:
    """Starts a leader that keeps its store and its log in this folder.

    Args:
        folder: its working directory.
        addresses: where it listens: cluster, scheduler, HTTP, as an earlier leader did. Free ports when left out.
        more: further options.
    """
    names = ("cluster", "scheduler", "http")
    listen = [
        f"--{name}-listen={address}" for name, address in zip(names, addresses or ["127.0.0.1:0"] * 3, strict=True)
    ]
    process = start(
        "gowork-leader", *listen, f"--store=sqlite:///{folder}/leader.db", "--print-addresses", *more, folder=folder
    )
    return RunningLeader(**json.loads(first_line(process, folder / "gowork-leader.log")), process=process)


def start_worker(folder: Path, leader: RunningLeader, *arguments: str) -> subprocess.Popen[str]:
    """Starts a worker, and returns when the leader has welcomed it."""
    process = start("gowork-worker", "--leader", leader.cluster, "--print-ready", *arguments, folder=folder)
    first_line(process, folder / "gowork-worker.log")
    return process


def start(command: str, *arguments: str, folder: Path) -> subprocess.Popen[str]:
    """Starts one of gowork's commands in this folder. Its log goes to a file there."""
    with (folder / f"{command}.log").open("a") as log:
        return subprocess.Popen(
            [str(COMMANDS / command), *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True
        )


def tls_options(files: TlsFiles) -> list[str]:
    """The options of a command for these files."""
    given = {"ca": files.ca, "cert": files.cert, "key": files.key, "client-ca": files.client_ca, "name": files.name}
    return [f"--tls-{name}={value}" for name, value in given.items() if value]


def first_line(process: subprocess.Popen[str], log: Path) -> str:
    """Waits for the line by which a process says that it is ready, and returns it."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        kill(process)
    assert line, f"it did not start:\n{log.read_text()}"
    return line


@contextmanager
def stopped_cleanly(process: subprocess.Popen[str]) -> Iterator[None]:
    """Sends the process SIGTERM at the end of the block; it must end with exit code 0."""
    try:
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_SECONDS) == 0
    finally:
        kill(process)


def kill(process: subprocess.Popen[str]) -> None:
    """Ends the process at once, if it still runs."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            # What nobody reads any more can't be written.
            with suppress(BrokenPipeError):
                pipe.close()
