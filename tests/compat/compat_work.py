"""Schedules every kind of task and prints their outcomes as JSON: `python3 compat_work.py ADDRESS`.

It runs as a program whose module path begins with the packages of the version under test.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from gowork.client import AsyncClient, Client, RetryPolicy, TaskCancelled, TaskFailed

#: What `outcomes` returns, whichever versions client, leader and worker have.
EXPECTED: dict[str, Any] = {
    "double": [2 * n for n in range(100)],
    "reverse": "cba",
    "flaky": ["attempt 2", ["FAILED", "COMPLETED"]],
    "napping": "rested",
    "parent": "p-child",
    "child": 82,
    "failing": "fails for good",
    "retried by the task's own policy": 2,
    "again": "the same",
    "cancelled": True,
    "async": 42,
    "paused": ["default"],
    "paused then": [],
    "listed": 100,
}


def outcomes(address: str) -> dict[str, Any]:
    """Schedules every kind of task, waits for all, and returns {what was tried: its outcome}."""
    with Client(address, timeout=120) as client:
        many = client.schedule_many(({"value": n} for n in range(100)), handler="double", labels={"lot": "many"})
        found: dict[str, Any] = {"double": [handle.result() for handle in list(many)]}
        reverse = client.schedule(b"abc", handler="reverse").result()
        found["reverse"] = reverse.decode() if isinstance(reverse, bytes) else reverse
        flaky = client.schedule("", handler="flaky", id="flaky").result()
        found["flaky"] = [flaky, [attempt.outcome.name for attempt in client.get("flaky").attempts]]
        found["napping"] = client.schedule("", handler="napping", delay=0.05).result()
        found["parent"] = client.schedule({"value": 40}, handler="parent", id="p").result()
        found["child"] = client.handle("p-child").result()
        try:
            client.schedule("", handler="failing").result()
        except TaskFailed as error:
            found["failing"] = error.task.failure.message if error.task.failure else None
        policy = RetryPolicy(max_attempts=2, initial_delay=0.01)
        client.schedule("", handler="failing", retry=policy, id="twice").wait()
        found["retried by the task's own policy"] = len(client.get("twice").attempts)
        options: dict[str, Any] = {"handler": "double", "id": "again", "priority": "high", "time_limit": 30}
        first = client.schedule({"value": 1}, **options)
        second = client.schedule({"value": 1}, **options)
        found["again"] = "the same" if first.id == second.id else "another"
        running = client.schedule("", handler="until_cancelled", id="cancelled")
        for seen in client.watch(id_prefix="cancelled"):
            if seen.progress is not None:
                break
        client.cancel("cancelled")
        try:
            running.result()
        except TaskCancelled:
            found["cancelled"] = True
        client.pause_queue("default")
        found["paused"] = [queue.name for queue in client.queues() if queue.paused]
        client.resume_queue("default")
        found["paused then"] = [queue.name for queue in client.queues() if queue.paused]
        found["listed"] = len(list(client.tasks(labels={"lot": "many"})))
    found["async"] = asyncio.run(_asynchronously(address))
    return found


async def _asynchronously(address: str) -> Any:
    async with AsyncClient(address, timeout=120) as client:
        return await (await client.schedule({"value": 21}, handler="double")).result()


if __name__ == "__main__":
    json.dump(outcomes(sys.argv[1]), sys.stdout)
