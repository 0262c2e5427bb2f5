"""Starts the processes that are measured, on free ports, and stops each by its own process id."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import types
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import psutil

HERE = Path(__file__).parent
#: How long a process may take to stop before it is killed, in seconds.
STOP_SECONDS = 20.0


class StartError(Exception):
    """A process ended before it was ready; the message has its log."""


class Processes:
    """Starts Python programs, with a folder for their logs and files. A context manager: its end stops all of them."""

    def __init__(self, directory: Path) -> None:
        """`directory` is on the disk that is to be measured; the folder is made in it."""
        self.folder = Path(tempfile.mkdtemp(prefix="gowork-bench-", dir=directory))
        self._running: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # The last one first, so that workers can leave a leader that is still there.
        for process in [*self._running.values()][::-1]:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout:
                process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, name: str, *arguments: str, **variables: str) -> Any:
        """Starts `python ARGUMENTS…` with these variables, and returns the JSON that it prints when it is ready."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("GOWORK_", "OTEL_"))}
        environment |= variables
        log_path = self.folder / f"{name}.log"
        with log_path.open("w") as log:
            process = self._running[name] = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=HERE,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            raise StartError(f"{name} did not start:\n{log_path.read_text()}")
        return json.loads(line)

    def stop(self, name: str) -> None:
        """Stops the process of this name with SIGTERM."""
        process = self._running.pop(name)
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_SECONDS)
        if process.stdout:
            process.stdout.close()

    def kill(self, name: str) -> None:
        """Sends SIGKILL to this process, and to none that it has started."""
        process = self._running.pop(name)
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()

    def pid(self, name: str) -> int:
        return self._running[name].pid


def leader(processes: Processes) -> Any:
    """Starts a leader with SQLite on free ports, and returns its addresses."""
    listen = [part for port in ("cluster", "scheduler", "http") for part in (f"--{port}-listen", "127.0.0.1:0")]
    store = f"sqlite:///{processes.folder / 'gowork.db'}"
    return processes.start("leader", "-m", "gowork.leader", *listen, "--store", store, "--print-addresses")


class Cluster:
    """A leader with SQLite and one worker with runner processes."""

    def __init__(
        self,
        processes: Processes,
        runners: int = 2,
        leader: Sequence[str] = ("-m", "gowork.leader"),
        variables: Mapping[str, str] = types.MappingProxyType({}),
    ) -> None:
        """Starts both; `leader` is the leader's program, and both get these environment variables."""
        self._of = processes
        self._leader = leader
        self._variables = variables
        #: {"cluster": "HOST:PORT", "scheduler": "HOST:PORT", "http": "HOST:PORT"}
        self.addresses = dict.fromkeys(("cluster", "scheduler", "http"), "127.0.0.1:0")
        #: {"leader", "supervisor" or "runner N": process}
        self.processes: dict[str, psutil.Process] = {}
        self.start_leader()
        processes.start(
            "worker", "-m", "gowork.worker", "--leader", self.addresses["cluster"], "--runners", str(runners),
            "--import", "handlers", "--print-ready", **variables,
        )  # fmt: skip
        supervisor = psutil.Process(processes.pid("worker"))
        self.processes["supervisor"] = supervisor
        # The warden is a child of the supervisor too.
        found = [child for child in supervisor.children() if "gowork.worker._runner" in child.cmdline()]
        self.processes |= {f"runner {number}": runner for number, runner in enumerate(found, 1)}

    def start_leader(self) -> None:
        """Starts the leader, at the addresses that it had before."""
        listen = [part for port, address in self.addresses.items() for part in (f"--{port}-listen", address)]
        store = f"sqlite:///{self._of.folder / 'gowork.db'}"
        arguments = (*self._leader, *listen, "--store", store, "--print-addresses")
        told = self._of.start("leader", *arguments, **self._variables)
        # It tells where its store is, too.
        self.addresses = {port: told[port] for port in self.addresses}
        self.processes["leader"] = psutil.Process(self._of.pid("leader"))

    def cpu_seconds(self) -> dict[str, float]:
        """The processor time that each process has used so far, in seconds."""
        return {name: cpu_seconds(process) for name, process in self.processes.items()}

    def resident_mb(self) -> dict[str, float]:
        """Resident memory of each process in MB (10^6 bytes)."""
        return {name: process.memory_info().rss / 1e6 for name, process in self.processes.items()}

    def commits(self) -> float:
        """The number of batches that the leader has made durable."""
        return metric(self.addresses["http"], "gowork_store_commit_seconds_count")


@contextlib.contextmanager
def cluster(directory: Path) -> Iterator[Cluster]:
    """Yields a fresh cluster, and stops and removes it at the end."""
    with Processes(directory) as processes:
        yield Cluster(processes)


def metric(http: str, name: str) -> float:
    """Returns the value of a metric, with its labels if it has any, of the leader whose HTTP address this is."""
    with urllib.request.urlopen(f"http://{http}/metrics", timeout=10) as response:
        for line in response.read().decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
    raise LookupError(f"the leader has no metric {name}")


def main_thread_seconds(process: psutil.Process) -> float:
    """The user and system time of the process's first thread, in seconds: in a leader, that of its loop."""
    times = next(thread for thread in process.threads() if thread.id == process.pid)
    return float(times.user_time + times.system_time)


def cpu_seconds(process: psutil.Process) -> float:
    """The user and system time of all threads of the process, in seconds."""
    times = process.cpu_times()
    return float(times.user + times.system)
