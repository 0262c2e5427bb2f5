"""Makes the demo's 1,000 tasks, and the right result of each, which is computed here and not by a handler."""

from __future__ import annotations

import hashlib
import json
import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from gowork.client import NewTask

FILES, SORTS, CALLS = 600, 300, 100
#: The handlers that these tasks need.
HANDLERS = {"demo.sha256", "shell", "demo.fetch"}
FILE_BYTES = 64 << 10
SORT_LINES = 500
#: How long the loopback server takes for an answer, in seconds.
ANSWER_SECONDS = 0.2


@dataclass(frozen=True)
class Job:
    """A task and its right result."""

    kind: str
    task: NewTask
    #: The fields that the result must have, with their values.
    answer: dict[str, Any]


def make_jobs(folder: Path, port: int) -> list[Job]:
    """Writes the files to digest, and returns all jobs in random order.

    Args:
        folder: where to write the files.
        port: the port of the server on loopback.
    """
    # The seed is fixed, so that all runs do the same work.
    chance = random.Random(2026)
    jobs = [*_digests(folder, chance), *_sorts(chance), *_calls(port)]
    chance.shuffle(jobs)
    return jobs


def _digests(folder: Path, chance: random.Random) -> Iterator[Job]:
    for number in range(FILES):
        data = chance.randbytes(FILE_BYTES)
        path = folder / f"{number:03}.bin"
        path.write_bytes(data)
        task = NewTask({"path": str(path)}, id=f"sha256-{number:03}", handler="demo.sha256")
        yield Job("SHA-256 of a file", task, {"sha256": hashlib.sha256(data).hexdigest(), "bytes": FILE_BYTES})


def _sorts(chance: random.Random) -> Iterator[Job]:
    for number in range(SORTS):
        numbers = chance.sample(range(10**9), SORT_LINES)
        unsorted, expected = ("".join(f"{n}\n" for n in order) for order in (numbers, sorted(numbers)))
        task = NewTask({"command": ["sort", "-n"], "stdin": unsorted}, id=f"sort-{number:03}", handler="shell")
        yield Job("shell: sort -n", task, {"exit_code": 0, "stdout": expected})


def _calls(port: int) -> Iterator[Job]:
    for number in range(CALLS):
        payload = {"host": "127.0.0.1", "port": port, "path": f"/squares/{number}"}
        task = NewTask(payload, id=f"fetch-{number:03}", handler="demo.fetch")
        yield Job("async HTTP call", task, {"n": number, "square": number**2})


@contextmanager
def squares_server() -> Iterator[int]:
    """Serves /squares/N on loopback, slowly. Yields the port."""
    server = _Server(("127.0.0.1", 0), _Squares)
    thread = threading.Thread(target=server.serve_forever, name="squares")
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Prints nothing about a caller that was killed while it waited."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Squares(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        time.sleep(ANSWER_SECONDS)
        n = int(self.path.rpartition("/")[2])
        body = json.dumps({"n": n, "square": n * n}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Prints nothing, because it would disturb the progress bars."""
