"""Starts the servers of other task systems, each for one system alone, on a socket in a folder of its own.

They force to disk what they acknowledge: Redis its append-only file after each command that writes (`appendfsync
always`), PostgreSQL its log at each commit (`fsync` and `synchronous_commit`, both as they come).
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from peer_environments import LeftOutError
from processes import HERE

sys.path.append(str(HERE.parent / "packages/gowork-leader/tests/log"))
from postgresql_server import PostgresqlServer

#: {server: the program that must be on PATH}
PROGRAMS = {"redis": "redis-server", "postgresql": "postgres"}
_REDIS = ("--port", "0", "--appendonly", "yes", "--appendfsync", "always", "--save", "", "--daemonize", "no")
#: How long Redis may take until it listens, in seconds.
_START_SECONDS = 30.0
_LOOK_SECONDS = 0.01


class Server:
    """A server that runs."""

    def __init__(self, address: str, pid: int | None) -> None:
        #: What its clients need: a socket's path for Redis, a URL for PostgreSQL.
        self.address = address
        self._pid = pid

    @property
    def processes(self) -> list[psutil.Process]:
        """All of its processes."""
        if self._pid is None:
            return []
        first = psutil.Process(self._pid)
        return [first, *first.children(recursive=True)]


def missing(server: str) -> str:
    """Why this server can't run here; nothing if it can."""
    programs = {"": (), "redis": ("redis-server",), "postgresql": ("initdb", "postgres")}[server]
    absent = [program for program in programs if shutil.which(program) is None]
    return f"not on PATH: {', '.join(absent)}; see docs/benchmarks.md" if absent else ""


def version_of(server: str) -> str:
    """Its version, such as 7.0.15."""
    said = subprocess.run([PROGRAMS[server], "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\d+(\.\d+)+", said)
    return found.group() if found else said.strip()


@contextlib.contextmanager
def running(server: str, folder: Path) -> Iterator[Server]:
    """Yields a fresh server of this kind with its data below `folder`, and ends it.

    Raises:
        LeftOutError: it is not installed, or does not start.
    """
    if reason := missing(server):
        raise LeftOutError(reason)
    if server == "redis":
        with _redis(folder) as redis:
            yield redis
    elif server == "postgresql":
        with _postgresql(folder) as postgresql:
            yield postgresql
    else:
        yield Server("", None)


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[Server]:
    # The path of a socket has at most 107 bytes, so that it is not in the folder, wherever that is.
    with tempfile.TemporaryDirectory(prefix="gowork-redis-") as short:
        yield from _redis_at(folder, Path(short) / "redis.sock")


def _redis_at(folder: Path, socket: Path) -> Iterator[Server]:
    log = folder / "redis.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            ["redis-server", *_REDIS, "--dir", str(folder), "--unixsocket", str(socket)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        until = time.monotonic() + _START_SECONDS
        while not socket.exists():
            if process.poll() is not None or time.monotonic() > until:
                raise LeftOutError(f"Redis does not start: {_last_line(log.read_text(errors='replace'))}")
            time.sleep(_LOOK_SECONDS)
        yield Server(str(socket), process.pid)
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _postgresql(folder: Path) -> Iterator[Server]:
    try:
        server = PostgresqlServer(directory=folder).__enter__()
    except (AssertionError, LookupError, OSError) as error:
        # Where it has no user of its own, root can't start it.
        raise LeftOutError(f"PostgreSQL does not start: {_last_line(str(error))}") from None
    try:
        yield Server(f"postgresql://postgres@/postgres?host={server.socket_path.parent}", server.pid)
    finally:
        server.__exit__()


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it says nothing"])[-1]
