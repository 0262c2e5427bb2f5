"""What the adapters share: how they talk with `benchmarks/peers.py`. It needs the standard library alone.

An adapter is a producer of one system, in that system's own environment. It reads requests from its input and writes
an answer to its output, each a JSON object in a line of its own:

    {"do": "start"}                              its workers run, and one task has been run
    {"do": "burst", "tasks": 500}                {"submitted": 0.8, "completed": 1.9}: seconds since the first submit
    {"do": "singles", "samples": 300, "seconds": 5}    {"ms": [2.7, …]}: submit → result, one task after the other

An answer to what went wrong is {"error": "what"}. The end of the input ends the adapter and its workers.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: What each task carries, of 50 bytes.
PAYLOAD = "x" * 50
#: Where the system's server listens: a socket's path for Redis, a URL for PostgreSQL, nothing without a server.
SERVER = os.environ.get("PEER_SERVER", "")
#: A folder on the disk that is measured.
FOLDER = Path(os.environ.get("PEER_FOLDER", "."))


def worker(*command: str) -> subprocess.Popen[bytes]:
    """Starts `python COMMAND…` beside the adapters, in the adapter's group of processes."""
    return subprocess.Popen([sys.executable, *command], cwd=Path(__file__).parent, stdin=subprocess.DEVNULL)


def converse(start: Callable[[], object], burst: Callable[[int], float], single: Callable[[], object]) -> None:
    """Answers requests until the input ends.

    Args:
        start: starts the workers; need not wait until they are ready.
        burst: submits the given number of tasks and waits for all; returns the value of `time.perf_counter` at which
            the last one was acknowledged.
        single: submits one task and waits for its result.
    """
    # What a library prints belongs to the log.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    while True:
        request = json.loads(requests.get())
        try:
            answer = _answer(request, start, burst, single)
        # Whatever a library raises is the answer.
        except Exception as error:  # noqa: BLE001
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _read(requests: queue.SimpleQueue[str]) -> None:
    """Reads in a thread of its own, so that the end of the input ends an adapter that hangs."""
    for line in sys.stdin:
        requests.put(line)
    os.killpg(0, signal.SIGKILL)


def _answer(
    request: dict[str, Any], start: Callable[[], object], burst: Callable[[int], float], single: Callable[[], object]
) -> dict[str, Any]:
    if request["do"] == "start":
        start()
        single()
        return {}
    if request["do"] == "burst":
        began = time.perf_counter()
        submitted = burst(request["tasks"])
        return {"submitted": submitted - began, "completed": time.perf_counter() - began}
    samples: list[float] = []
    until = time.perf_counter() + request["seconds"]
    while len(samples) < request["samples"] and time.perf_counter() < until:
        began = time.perf_counter()
        single()
        samples.append((time.perf_counter() - began) * 1e3)
    return {"ms": samples}
