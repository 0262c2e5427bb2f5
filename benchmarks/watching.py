"""Measures how many milliseconds a batch takes on the leader's loop while there are watches that nobody reads.

    python benchmarks/watching.py

Each line gives a number and a kind of watches. Each batch has 1,000 changed tasks in ten queues.
"""

from __future__ import annotations

import time

from gowork.leader._core.model import LaneKey, Priority, Spec, Standing, Status, Task
from gowork.leader._engine.watching import Feed, Watcher
from gowork.leader._rpc.filters import selection_of

TASKS = 1_000
BATCHES = 20

KINDS = {
    "all tasks": lambda number: "",
    "one queue of ten": lambda number: f'queue = "q{number % 10}"',
    "another queue each": lambda number: f'queue = "other{number}"',
    "one task each": lambda number: f'id = "t{number}"',
}


def batch() -> list[Task]:
    lanes = [LaneKey(f"q{number}", Priority.LOW, "h", ()) for number in range(10)]
    return [Task(n, Spec(f"t{n}", lanes[n % 10], b"x" * 100), Standing(Status.PENDING, 0), n) for n in range(TASKS)]


def main() -> None:
    tasks = batch()
    for kind, text_of in KINDS.items():
        for watches in (1, 100, 1_000):
            feed = Feed()
            for number in range(watches):
                feed.add(Watcher(selection_of(text_of(number))))
            started = time.perf_counter()
            for number in range(BATCHES):
                feed.publish(tasks, number, ())
            took = (time.perf_counter() - started) / BATCHES * 1000
            print(f"{kind:20} {watches:5} watches {took:8.2f} ms, {feed.unread_bytes >> 10:7} KiB unread")


if __name__ == "__main__":
    main()
