"""Measures what the machine can do without gowork: force pages to disk, commit rows, answer calls.

Run as a program, it is the server that answers calls. It prints its address as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from gowork.base.channels import SERVER_OPTIONS
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.worker.v1 import session_pb2 as session

#: A page: the least by which SQLite's log grows.
_PAGE = bytes(4096)
#: Milliseconds between two heartbeats, as a leader with its usual lease asks for them.
_HEARTBEAT_MS = 3_333


class Disk:
    """A context manager: a file that grows and is forced to disk, as a log is."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / f"gowork-bench-{os.getpid()}.raw"
        self._descriptor = -1

    def __enter__(self) -> Disk:
        self._descriptor = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
        self._path.unlink()

    def sync(self) -> None:
        """Appends a page and waits until it is on the disk."""
        os.write(self._descriptor, _PAGE)
        os.fdatasync(self._descriptor)


def syncs_per_second(directory: Path, times: int = 500) -> float:
    with Disk(directory) as disk:
        began = time.perf_counter()
        for _ in range(times):
            disk.sync()
        return times / (time.perf_counter() - began)


def sqlite_tasks_per_second(directory: Path, tasks: int, commit_tasks: int, body_bytes: int) -> float:
    """How many tasks a second bare SQLite records with as few writes as gowork, by the same group commit.

    A task is three rows: what was asked, where it stands when it starts, and the latter again when it has ended. A
    commit carries the first two rows of `commit_tasks` new tasks and the third row of as many old ones.
    """
    path = directory / f"gowork-bench-{os.getpid()}.db"
    body, state = os.urandom(body_bytes), os.urandom(100)
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE specs (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, body BLOB)")
        connection.execute("CREATE TABLE standings (seq INTEGER PRIMARY KEY, status INTEGER, state BLOB)")
        began = time.perf_counter()
        for first in range(0, tasks + commit_tasks, commit_tasks):
            new = range(first, min(first + commit_tasks, tasks))
            old = range(first - commit_tasks, min(first, tasks)) if first else range(0)
            connection.execute("BEGIN")
            connection.executemany("INSERT INTO specs VALUES (?, ?, ?)", [(seq, f"{seq:036x}", body) for seq in new])
            connection.executemany("INSERT INTO standings VALUES (?, 2, ?)", [(seq, state) for seq in new])
            connection.executemany(
                "UPDATE standings SET status = 3, state = ? WHERE seq = ?", [(state, s) for s in old]
            )
            connection.execute("COMMIT")
        return tasks / (time.perf_counter() - began)
    finally:
        connection.close()
        for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
            with contextlib.suppress(FileNotFoundError):
                name.unlink()


async def _answer(request: pb.ScheduleTaskRequest, context: object) -> pb.ScheduleTaskResponse:
    return pb.ScheduleTaskResponse()


async def _hear(
    requests: AsyncIterator[session.ConnectRequest], context: object
) -> AsyncIterator[session.ConnectResponse]:
    await anext(requests)
    yield session.ConnectResponse(welcome=session.Welcome(heartbeat_ms=_HEARTBEAT_MS))
    async for _ in requests:
        yield session.ConnectResponse()


async def serve() -> None:
    """Serves a ScheduleTask and a session that do nothing, with the messages and options of a gowork leader."""
    server = grpc.aio.server(options=list(SERVER_OPTIONS))
    method = grpc.unary_unary_rpc_method_handler(
        _answer,
        request_deserializer=pb.ScheduleTaskRequest.FromString,
        response_serializer=pb.ScheduleTaskResponse.SerializeToString,
    )
    stream = grpc.stream_stream_rpc_method_handler(
        _hear,
        request_deserializer=session.ConnectRequest.FromString,
        response_serializer=session.ConnectResponse.SerializeToString,
    )
    services: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = {
        "scheduler.v1.SchedulerService": {"ScheduleTask": method},
        "worker.v1.SessionService": {"Connect": stream},
    }
    handlers = [grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items()]
    server.add_generic_rpc_handlers(tuple(handlers))
    port = server.add_insecure_port("127.0.0.1:0")
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await server.start()
    sys.stdout.write(f'"127.0.0.1:{port}"\n')
    sys.stdout.flush()
    await stopped.wait()
    await server.stop(grace=0)


def request(payload_bytes: int = 50) -> pb.ScheduleTaskRequest:
    """The request that a client sends for one task."""
    return pb.ScheduleTaskRequest(task=pb.Task(id="0" * 36, payload="x" * payload_bytes, handler="bench.thread"))


if __name__ == "__main__":
    asyncio.run(serve())
