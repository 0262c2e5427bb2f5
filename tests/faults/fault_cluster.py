"""Real processes to be killed: a leader that is started again at its addresses, workers, and news of their handlers."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
from own_ports import own_addresses

from gowork.client import Client

COMMANDS = Path(sys.executable).parent
HERE = Path(__file__).parent
#: How long a test waits for anything, in seconds.
PATIENCE = 120.0


class News(NamedTuple):
    """One line that a handler writes to the test: what happened in which attempt, and the pids of runner and child."""

    event: str
    id: str
    attempt: int
    runner: int
    child: int


class Cluster:
    """One leader, any number of workers and a client, in one folder."""

    def __init__(self, folder: Path, handlers: str = "fault_handlers") -> None:
        """`handlers` is the module of this folder that workers import."""
        self._folder = folder
        self._handlers = handlers
        self._addresses = dict(zip(("cluster", "scheduler", "http"), own_addresses(3), strict=True))
        self.leader: subprocess.Popen[str] | None = None
        self.workers: dict[str, subprocess.Popen[str]] = {}
        #: All processes that were seen below supervisors; at the end none may be left.
        self._seen: set[psutil.Process] = set()
        os.mkfifo(folder / "news")
        # Open for reading and writing, so that neither side waits for the other to open it.
        self._news = os.open(folder / "news", os.O_RDWR)
        self._unread = b""
        self._gates: dict[str, int] = {}

    def start_leader(self, lease: float | None = None) -> None:
        """Starts a leader at this cluster's addresses, with the usual lease or a lease in seconds."""
        listen = [f"--{name}-listen={address}" for name, address in self._addresses.items()]
        command: list[object] = [COMMANDS / "gowork-leader"]
        if lease is not None:
            command = [sys.executable, HERE / "fault_leader.py", lease]
        self.leader = self._start(
            *map(str, command), *listen, f"--store=sqlite:///{self._folder}/leader.db", "--print-addresses"
        )
        self._first_line(self.leader)

    def kill_leader(self) -> None:
        assert self.leader is not None
        self.leader.kill()
        self.leader.communicate()

    def stop_leader(self) -> None:
        """Sends the leader SIGTERM, as an operator does; it must end with 0."""
        assert self.leader is not None
        self.leader.terminate()
        self.leader.communicate(timeout=PATIENCE)
        assert self.leader.returncode == 0

    def restart_leader(self) -> None:
        """Stops the leader and starts it again."""
        self.stop_leader()
        self.start_leader()

    @property
    def leader_address(self) -> str:
        """Where workers find the leader."""
        return self._addresses["cluster"]

    def start_worker(
        self, name: str, *arguments: str, leader: str = "", ready: bool = True, program: Sequence[str] = ()
    ) -> None:
        """Starts a worker, and waits until the leader has welcomed it unless `ready` is False.

        Args:
            name: its name.
            arguments: further options.
            leader: the address at which it calls the leader; empty for the leader's own.
            ready: whether to wait.
            program: what to run; empty for the worker's own command.
        """
        self.workers[name] = self._start(
            *(program or (str(COMMANDS / "gowork-worker"),)),
            *("--leader", leader or self.leader_address, "--name", name, "--import", self._handlers, "--print-ready"),
            *("--state-dir", str(self._folder / "state")),
            *arguments,
        )
        if ready:
            self._first_line(self.workers[name])
            self._seen.update(self.processes(name))

    def kill_worker(self, name: str) -> None:
        """Kills the supervisor alone; its runners must end by themselves."""
        worker = self.workers.pop(name)
        self._seen.update(psutil.Process(worker.pid).children(recursive=True))
        worker.kill()
        worker.wait()
        assert worker.stdout is not None
        worker.stdout.close()

    def exit_code(self, name: str) -> int:
        """Waits until the worker has ended by itself, and returns its exit code."""
        worker = self.workers.pop(name)
        worker.communicate(timeout=PATIENCE)
        return worker.returncode

    def processes(self, name: str) -> list[psutil.Process]:
        """The processes below a worker's supervisor."""
        found = psutil.Process(self.workers[name].pid).children(recursive=True)
        self._seen.update(found)
        return found

    @property
    def address(self) -> str:
        """Where clients find the leader."""
        return self._addresses["scheduler"]

    @property
    def http_address(self) -> str:
        """Where the leader shows its metrics."""
        return self._addresses["http"]

    def client(self, timeout: float = PATIENCE) -> Client:
        return Client(self.address, timeout=timeout)

    def gate(self, id: str) -> None:
        """Makes the gate at which the task's handler will wait; call it before the task is scheduled."""
        path = self._folder / f"{id}.gate"
        os.mkfifo(path)
        self._gates[id] = os.open(path, os.O_RDWR)

    def release(self, id: str) -> None:
        """Lets one attempt of this task pass its gate."""
        os.write(self._gates[id], b"go\n")

    def news(self, event: str, timeout: float = PATIENCE) -> News:
        """Waits for the next news of a handler, which must be this event."""
        news = self.any_news(timeout)
        assert news.event == event
        return news

    def any_news(self, timeout: float = PATIENCE) -> News:
        """Waits for the next news of a handler."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._unread:
            ready, _, _ = select.select([self._news], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no handler has told anything within {timeout} s:\n{self.log()}"
            self._unread += os.read(self._news, 4096)
        line, _, self._unread = self._unread.partition(b"\n")
        event, id, attempt, runner, child = line.decode().split(" ")
        return News(event, id, int(attempt), int(runner), int(child))

    def executions(self) -> Counter[tuple[str, int]]:
        """How often handlers say that they ran, by (task id, fence)."""
        runs: Counter[tuple[str, int]] = Counter()
        for path in self._folder.glob("*.record"):
            for line in path.read_text().splitlines():
                id, fence = line.split()
                runs[id, int(fence)] += 1
        return runs

    def log(self) -> str:
        return (self._folder / "log").read_text()

    def stop(self) -> None:
        """Kills everything, and checks that no process is left."""
        for name in list(self.workers):
            self.kill_worker(name)
        if self.leader is not None and self.leader.poll() is None:
            self.kill_leader()
        os.close(self._news)
        for gate in self._gates.values():
            os.close(gate)
        assert still_running(self._seen, PATIENCE) == []

    def _start(self, *command: str, log_name: str = "log") -> subprocess.Popen[str]:
        path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
        with (self._folder / log_name).open("a") as log:
            return subprocess.Popen(
                command,
                cwd=self._folder,
                env={**os.environ, "PYTHONPATH": path},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def _first_line(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"it did not start:\n{self.log()}"
        return line


@contextmanager
def running_cluster(folder: Path, handlers: str = "fault_handlers") -> Iterator[Cluster]:
    """Yields a cluster with a leader, and ends all its processes."""
    cluster = Cluster(folder, handlers)
    try:
        cluster.start_leader()
        yield cluster
    finally:
        cluster.stop()


def until(condition: Callable[[], bool], timeout: float = PATIENCE) -> None:
    """Tries the condition until it holds. It needs no pauses, because it asks a leader and waits for the answer."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s"


def still_running(processes: Iterable[psutil.Process], timeout: float) -> list[psutil.Process]:
    """Waits up to `timeout` seconds for the processes to end, and returns those that have not.

    Zombies count as ended.
    """
    deadline = time.monotonic() + timeout
    alive = list(processes)
    while alive and time.monotonic() < deadline:
        # FileNotFoundError: a thread of another process has the number of one that ended (Linux 6.9 and later).
        with contextlib.suppress(FileNotFoundError):
            _, alive = psutil.wait_procs(alive, timeout=0.02)
        alive = [process for process in alive if runs(process)]
    return alive


def runs(process: psutil.Process) -> bool:
    """Whether the process has not ended. A zombie has ended."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill(pid: int) -> None:
    """Sends SIGKILL."""
    os.kill(pid, signal.SIGKILL)
