"""Talks with the adapter of a system: adapters/conversation.py has the other end, and describes the lines.

An adapter is another program, with libraries that are not ours. So it gets a bound for each answer, and whatever it
says is checked. At the end it is killed with all that it has started.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil
from peer_environments import LeftOutError

#: How long each answer may take, in seconds.
ANSWER_SECONDS = 180.0
#: How long an answer may be, in bytes.
ANSWER_BYTES_MAX = 1 << 20
#: How much of what went wrong is repeated, in characters.
_SAID_MAX = 200
#: How long processes may take to be gone after they were killed, in seconds.
_GONE_SECONDS = 10.0


@dataclass(frozen=True)
class Burst:
    """How long a burst took, in seconds since its first submit."""

    #: Until the last task was acknowledged.
    submitted: float
    #: Until the producer had seen all of them complete.
    completed: float


class Adapter:
    """A running adapter. A context manager: its end kills the adapter and all that it has started."""

    def __init__(self, python: Path, script: Path, variables: Mapping[str, str], log: Path, seconds: float) -> None:
        """Args:
        python, script: the Python of its environment, and its program.
        variables: further environment variables.
        log: the file for what it and its workers print.
        seconds: how long each answer may take.
        """
        self._seconds = seconds
        self._log = log
        self._buffer = b""
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("GOWORK_", "OTEL_", "PYTHON")) and name != "VIRTUAL_ENV"
        }
        with log.open("w") as output:
            self._process = subprocess.Popen(
                [str(python), str(script)],
                cwd=script.parent,
                env={**environment, "PYTHONUNBUFFERED": "1", **variables},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        processes = self.started
        # The group holds what the adapter's own children have left behind, and the list what has left the group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        psutil.wait_procs(processes, timeout=_GONE_SECONDS)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    @property
    def started(self) -> list[psutil.Process]:
        """What the adapter has started, without itself: the workers."""
        try:
            return psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def start(self) -> None:
        """Starts the workers, and waits until one task has been run."""
        self._ask({"do": "start"})

    def burst(self, tasks: int) -> Burst:
        """Submits tasks, and waits for all."""
        answer = self._ask({"do": "burst", "tasks": tasks})
        burst = Burst(self._positive(answer.get("submitted")), self._positive(answer.get("completed")))
        if burst.submitted > burst.completed:
            raise LeftOutError("its adapter says that tasks completed before they were submitted")
        return burst

    def singles(self, samples: int, seconds: float) -> list[float]:
        """Runs tasks one after the other, and returns how many milliseconds each took from submit to result.

        Args:
            samples: how many at most.
            seconds: none begins later than this after the first.
        """
        answer = self._ask({"do": "singles", "samples": samples, "seconds": seconds})
        ms = answer.get("ms")
        if not isinstance(ms, list) or not 0 < len(ms) <= samples:
            raise LeftOutError(f"its adapter gives no list of at most {samples} times: {_short(ms)}")
        return [self._positive(each) for each in ms]

    def _ask(self, request: Mapping[str, object]) -> dict[str, Any]:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died(request) from None
        line = self._line(request)
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            raise LeftOutError(f"its adapter answers no JSON to {request['do']!r}: {_short(line)}") from None
        if not isinstance(answer, dict):
            raise LeftOutError(f"its adapter answers no object to {request['do']!r}: {_short(answer)}")
        if "error" in answer:
            raise LeftOutError(f"{request['do']!r} failed: {_short(answer['error'])}")
        return answer

    def _line(self, request: Mapping[str, object]) -> bytes:
        """The adapter's next line."""
        assert self._process.stdout
        until = time.monotonic() + self._seconds
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise LeftOutError(f"its adapter did not answer {request['do']!r} within {self._seconds:g} s")
            read = os.read(self._process.stdout.fileno(), 1 << 16)
            if not read:
                raise self._died(request)
            self._buffer += read
            if len(self._buffer) > ANSWER_BYTES_MAX:
                raise LeftOutError(f"its adapter answers {request['do']!r} with more than {ANSWER_BYTES_MAX} bytes")
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _died(self, request: Mapping[str, object]) -> LeftOutError:
        said = self._log.read_text(errors="replace").strip().splitlines()
        return LeftOutError(f"its adapter ended during {request['do']!r}: {_short(said[-1] if said else 'no word')}")

    @staticmethod
    def _positive(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise LeftOutError(f"its adapter gives a time that is none: {_short(value)}")
        return float(min(value, sys.float_info.max))


def resident_mb(processes: Iterable[psutil.Process]) -> float:
    """The resident memory of these processes in MB (10^6 bytes). Pages that processes share count once.

    PostgreSQL's processes share most of theirs. Where the system does not tell what is shared, it counts in each.
    """
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            memory: Any = process.memory_info()
            with contextlib.suppress(psutil.AccessDenied):
                memory = process.memory_full_info()
            total += getattr(memory, "pss", memory.rss)
    return total / 1e6


def _short(said: object) -> str:
    """The first line of what was said, as far as it is repeated."""
    text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
    line = (text.strip().splitlines() or [""])[0]
    return line if len(line) <= _SAID_MAX else line[:_SAID_MAX] + "…"
