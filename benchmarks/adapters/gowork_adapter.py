"""The adapter of gowork: a leader with SQLite and a worker with two runners, both as they come."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from conversation import FOLDER, PAYLOAD, converse

from gowork.client import Client, TaskHandle

#: Where `bench.thread` is, the handler that does nothing.
_HANDLERS = Path(__file__).parents[1]
_HANDLER = "bench.thread"


class Producer:
    """The client, and what it has started."""

    client: Client

    def start(self) -> None:
        listen = [part for port in ("cluster", "scheduler", "http") for part in (f"--{port}-listen", "127.0.0.1:0")]
        store = f"sqlite:///{FOLDER / 'gowork.db'}"
        addresses = self._started("gowork.leader", *listen, "--store", store, "--print-addresses")
        self._started(
            *("gowork.worker", "--leader", addresses["cluster"], "--name", "bench"),
            *("--runners", "2", "--import", "handlers", "--print-ready"),
        )
        self.client = Client(addresses["scheduler"])

    def _started(self, module: str, *arguments: str) -> dict[str, str]:
        """Starts a module, and returns the JSON that it prints when it is ready."""
        command = [sys.executable, "-m", module, *arguments]
        process = subprocess.Popen(command, cwd=_HANDLERS, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert process.stdout
        return dict(json.loads(process.stdout.readline()))

    def burst(self, tasks: int) -> float:
        submitted = 0.0

        def handles() -> Iterator[TaskHandle]:
            nonlocal submitted
            yield from self.client.schedule_many((PAYLOAD for _ in range(tasks)), handler=_HANDLER)
            submitted = time.perf_counter()

        for handle in self.client.as_completed(handles()):
            handle.result()
        return submitted

    def single(self) -> None:
        self.client.schedule(PAYLOAD, handler=_HANDLER).result()


if __name__ == "__main__":
    producer = Producer()
    converse(producer.start, producer.burst, producer.single)
