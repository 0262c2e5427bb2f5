"""Starts the real processes of a cluster, on free ports, and stops them cleanly."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from own_ports import own_addresses

from gowork.base.tls_files import TlsFiles

COMMANDS = Path(sys.executable).parent
#: How long a process may take to stop, in seconds.
STOP_SECONDS = 20
#: How long a command may take to find that it was given what makes no sense, in seconds.
MISUSED_SECONDS = 60


@dataclass(frozen=True)
class RunningLeader:
    """A leader's addresses, as HOST:PORT, its store, and its process."""

    cluster: str
    scheduler: str
    http: str
    store: str
    process: subprocess.Popen[str]


def start_leader(folder: Path, *addresses: str, more: Sequence[str] = ()) -> RunningLeader:
    """Starts a leader that keeps its store and its log in this folder.

    Args:
        folder: its working directory.
        addresses: where it listens: cluster, scheduler, HTTP, as an earlier leader did. Left out: at its own ports.
        more: further options.
    """
    names = ("cluster", "scheduler", "http")
    listen = [f"--{name}-listen={address}" for name, address in zip(names, addresses or own_addresses(3), strict=True)]
    process = start(
        "gowork-leader", *listen, f"--store=sqlite:///{folder}/leader.db", "--print-addresses", *more, folder=folder
    )
    return RunningLeader(**json.loads(first_line(process, folder / "gowork-leader.log")), process=process)


@contextmanager
def sharing_leaders(
    folder: Path,
    log: str,
    names: Sequence[str],
    *addresses: str,
    more: Callable[[str], Sequence[str]] = lambda name: (),
) -> Iterator[dict[str, RunningLeader]]:
    """Starts leaders that share a log, each with a folder of its own, and ends those that still run.

    Args:
        folder: has their folders.
        log: the URL of the log.
        names: what they are called.
        addresses: see `start_leader`; the same for all.
        more: returns further options of a leader.
    """
    with ExitStack() as stack:
        leaders = {}
        for name in names:
            own = folder / name
            own.mkdir()
            leaders[name] = start_leader(own, *addresses, more=[f"--log={log}", f"--name={name}", *more(name)])
            stack.callback(kill, leaders[name].process)
        yield leaders


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


def misused(command: str, *arguments: str, folder: Path) -> str:
    """Runs one of gowork's commands, which must end by itself as after wrong usage, and returns what it says."""
    told = subprocess.run(
        [str(COMMANDS / command), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=MISUSED_SECONDS,
        check=False,
    )
    assert told.returncode == 2, told
    assert "Traceback" not in told.stderr
    return told.stderr


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
