"""The console script as a user runs it: `gowork-leader` in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

COMMAND = Path(sys.executable).parent / "gowork-leader"
#: How long a process may take for anything, in seconds.
PATIENCE = 120
FREE_PORTS = ("--cluster-listen=127.0.0.1:0", "--scheduler-listen=127.0.0.1:0", "--http-listen=127.0.0.1:0")


@dataclass(frozen=True)
class RunningLeader:
    """Where it serves, as HOST:PORT, where it keeps tasks, and its process."""

    cluster: str
    scheduler: str
    http: str
    store: str
    process: subprocess.Popen[str]

    def stop(self) -> tuple[int, str]:
        """Asks it to stop; its exit code and its log."""
        self.process.send_signal(signal.SIGTERM)
        _, log = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, log

    def page(self, path: str) -> tuple[int, str]:
        """The status and the text of a page."""
        try:
            with urllib.request.urlopen(f"http://{self.http}{path}", timeout=PATIENCE) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """This process's, with no variable of gowork's but these."""
    return {key: value for key, value in os.environ.items() if not key.startswith("GOWORK_")} | dict(variables)


@contextmanager
def running(folder: Path, *arguments: str, stderr: int = subprocess.PIPE, **variables: str) -> Iterator[RunningLeader]:
    """A leader with its data in this folder; it is killed at the end when the test has not stopped it."""
    process = subprocess.Popen(
        [str(COMMAND), *FREE_PORTS, "--print-addresses", *arguments],
        cwd=folder,
        env=environment({"GOWORK_DATA_DIR": str(folder), **variables}),
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate(timeout=PATIENCE)[1]
        yield RunningLeader(**json.loads(line), process=process)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def refused_start(
    folder: Path, *arguments: str, ports: Sequence[str] = FREE_PORTS, **variables: str
) -> tuple[int, str]:
    """The exit code and the standard error of a leader that does not start."""
    done = subprocess.run(
        [str(COMMAND), *ports, *arguments],
        cwd=folder,
        env=environment({"GOWORK_DATA_DIR": str(folder), **variables}),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr
