"""A client in a process of its own: schedules tasks, waits until all complete, and prints how long that took.

It works with every version of gowork, because it uses only what all of them have. It traces if the OTEL_* variables ask
for it.

    python benchmarks/producer.py ADDRESS HANDLER WARM_UP TASKS
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

from gowork.client import Client

PAYLOAD = "x" * 50
SHOW_EVERY = 1_000


def main(address: str, handler: str, warm_up: int, tasks: int) -> None:
    if any(name.startswith("OTEL_") for name in os.environ):
        from gowork.base import telemetry

        telemetry.start("gowork-bench")
    with Client(address) as client:
        produce(client, handler, warm_up)
        began, computed = time.perf_counter(), time.process_time()
        produce(client, handler, tasks)
        took = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - computed}
    sys.stdout.write(json.dumps(took) + "\n")
    sys.stdout.flush()


def produce(
    client: Client, handler: str, tasks: int, tell: Callable[[], object] = lambda: None, payload: str = PAYLOAD
) -> None:
    """Schedules `tasks` tasks and waits until all complete; calls `tell` after each SHOW_EVERY of them."""
    handles = client.schedule_many((payload for _ in range(tasks)), handler=handler)
    done = 0
    for handle in client.as_completed(handles):
        done += 1
        if not done % SHOW_EVERY:
            tell()
        if done == tasks:
            # Raises if the task failed: failed tasks end faster than those that ran.
            handle.result()
    if done != tasks:
        raise RuntimeError(f"{done} of {tasks} tasks completed")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
