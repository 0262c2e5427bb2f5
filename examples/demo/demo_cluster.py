"""A leader and its workers as processes of this machine, each stopped by its own process id."""

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
#: Few enough that 1,000 tasks take a while to watch.
SLOTS = 4


class StartError(Exception):
    """A process ended before it was ready, or can't do its part."""


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
        """Starts workers side by side, and returns when the leader has taken all of them in.

        Args:
            names: what to call them.
            needed: the handlers that each must offer: without one, tasks would wait for it for ever.
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
        """Ends a process as the kernel would when memory runs out: at once, with no chance to say goodbye.

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
        # Variables would override what the demo asks for.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("GOWORK_")}
        out, log = self._files(name)
        with out.open("w") as stdout, log.open("w") as stderr:
            self.processes[name] = subprocess.Popen(
                [str(Path(sys.executable).parent / command), *arguments],
                cwd=Path(__file__).parent,
                env=environment,
                stdin=subprocess.DEVNULL,
                # Files, since pipes would break when a kept cluster outlives the demo.
                stdout=stdout,
                stderr=stderr,
                # Ctrl-C is for the demo, which then stops its processes one by one.
                start_new_session=True,
            )

    def _first_line(self, name: str) -> str:
        """The line by which a process says that it is ready."""
        out, log = self._files(name)
        while "\n" not in (text := out.read_text()):
            if self.processes[name].poll() is not None:
                raise StartError(f"{name} did not start:\n{log.read_text()}")
            time.sleep(0.02)
        return text.partition("\n")[0]

    def _files(self, name: str) -> tuple[Path, Path]:
        return self.folder / f"{name}.out", self.folder / f"{name}.log"
