"""Runs a leader and workers in processes of their own, with the handlers of these tests."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from clusters import kill, start_leader, start_worker, stopped_cleanly

HANDLERS = Path(__file__).with_name("tracing_handlers.py")


class Cluster:
    """A leader and workers. Each inherits the environment of the moment when it is started."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        shutil.copy(HANDLERS, folder)
        self.leader = start_leader(folder)
        self.workers: list[subprocess.Popen[str]] = []

    def restart_leader(self) -> None:
        """Kills the leader, and starts another one at the same addresses."""
        old = self.leader
        kill(old.process)
        self.leader = start_leader(self._folder, old.cluster, old.scheduler, old.http)

    def work(self, *arguments: str) -> subprocess.Popen[str]:
        """Starts a worker."""
        options = ("--import", "tracing_handlers", "--runners", "1", "--slots", "2", *arguments)
        self.workers.append(start_worker(self._folder, self.leader, *options))
        return self.workers[-1]

    def stop(self) -> None:
        """Stops all processes; each must end with 0."""
        for process in (*self.workers, self.leader.process):
            if process.poll() is None:
                with stopped_cleanly(process):
                    pass

    def kill(self) -> None:
        for process in (*self.workers, self.leader.process):
            kill(process)
