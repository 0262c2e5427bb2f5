"""The adapter of Taskiq with a stream of Redis: two processes, and results in Redis."""

from __future__ import annotations

import asyncio
import time

from conversation import PAYLOAD, SERVER, converse, worker
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

#: How many tasks are on their way to Redis at once.
_AT_ONCE = 64
#: How often the producer looks for a result, in seconds.
_LOOK_SECONDS = 0.01

broker = RedisStreamBroker(f"unix://{SERVER}").with_result_backend(RedisAsyncResultBackend(f"unix://{SERVER}"))
loop = asyncio.new_event_loop()


@broker.task(task_name="nothing")
async def nothing(payload: str) -> None:
    """Does nothing."""


def start() -> None:
    loop.run_until_complete(broker.startup())
    worker("-m", "taskiq", "worker", "taskiq_adapter:broker", "--workers", "2", "--log-level", "WARNING")


async def _burst(tasks: int) -> float:
    sent = []
    for begin in range(0, tasks, _AT_ONCE):
        sent += await asyncio.gather(*(nothing.kiq(PAYLOAD) for _ in range(min(_AT_ONCE, tasks - begin))))
    submitted = time.perf_counter()
    for task in sent:
        (await task.wait_result(check_interval=_LOOK_SECONDS)).raise_for_error()
    return submitted


async def _single() -> None:
    task = await nothing.kiq(PAYLOAD)
    (await task.wait_result(check_interval=_LOOK_SECONDS)).raise_for_error()


if __name__ == "__main__":
    converse(
        start,
        lambda tasks: loop.run_until_complete(_burst(tasks)),
        lambda: loop.run_until_complete(_single()),
    )
