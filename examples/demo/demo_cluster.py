"""Starts a leader and workers as processes on this machine, and stops each by its own process id."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

#: How long a process may take to stop before it is killed, in seconds.
STOP_SECONDS = 10
#: How many tasks each worker runs at once: few, so that 1,000 tasks take long enough to watch.
SLOTS = 4


class StartError(Exception):
    """A process ended before it was ready, or a worker lacks a handler."""


class DemoCluster:
    """Starts processes on free ports, and keeps their logs and the store in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        #: {"cluster": "HOST:PORT", "scheduler": "HOST:PORT", "http": "HOST:PORT"}
        self.addresses: dict[str, str] = {}

    def start_leader(self) -> None:
        """Starts the leader, and returns when it serves."""
        listen = [part for name in ("cluster", "scheduler", "http") for part in (f"--{name}-listen", "127.0.0.1:0")]
        store = ["--store", f"sqlite:///{self.folder / 'gowork.db'}"]
        self._start("leader", "gowork-leader", *listen, *store, "--print-addresses")
        self.addresses = json.loads(self._first_line("leader"))

    def start_workers(self, names: list[str], needed: set[str]) -> None:
        """Starts all workers at once, and returns when all have joined.

        Args:
            names: the workers' names.
            needed: the handlers that each worker must offer. Without one, its tasks would wait for ever.

        Raises:
            StartError: when a worker did not start, or does not offer a handler.
        """
        handlers = ["--import", "demo_handlers", "--slots", str(SLOTS), "--runners", "1"]
        state = ["--state-dir", str(self.folder / "workers")]
        for name in names:
            leader = ["--leader", self.addresses["cluster"]]
            self._start(name, "gowork-worker", *leader, "--name", name, *state, *handlers, "--print-ready")
        for name in names:
            missing = needed - set(json.loads(self._first_line(name))["handlers"])
            if missing:
                raise StartError(f"{name} does not offer {sorted(missing)}; is gowork-plugin-shell installed?")

    def kill(self, name: str) -> int:
        """Kills a process as the kernel does when memory runs out: at once, without a chance to leave the cluster.

        Returns:
            The id that the process had.
        """
        process = self.processes.pop(name)
        process.kill()
        process.wait()
        return process.pid

    def stop(self) -> None:
        """Stops the workers, then the leader."""
        for process in [*self.processes.values()][::-1]:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()

    def _start(self, name: str, command: str, *arguments: str) -> None:
        # Variables GOWORK_… could change what the demo does.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("GOWORK_")}
        # Where processes of this machine ask one another. A worker that is killed leaves its socket behind.
        environment["RUNTIME_DIRECTORY"] = str(self.folder)
        out, log = self._files(name)
        with out.open("w") as stdout, log.open("w") as stderr:
            self.processes[name] = subprocess.Popen(
                [str(Path(sys.executable).parent / command), *arguments],
                cwd=Path(__file__).parent,
                env=environment,
                stdin=subprocess.DEVNULL,
                # Files are used because pipes would break when a kept cluster outlives the demo.
                stdout=stdout,
                stderr=stderr,
                # Ctrl-C must reach only the demo, which then stops its processes one by one.
                start_new_session=True,
            )

    def _first_line(self, name: str) -> str:
        """Waits for the line by which a process says that it is ready, and returns it."""
        out, log = self._files(name)
        while "\n" not in (text := out.read_text()):
            if self.processes[name].poll() is not None:
                raise StartError(f"{name} did not start:\n{log.read_text()}")
            time.sleep(0.02)
        return text.partition("\n")[0]

    def _files(self, name: str) -> tuple[Path, Path]:
        return self.folder / f"{name}.out", self.folder / f"{name}.log"
