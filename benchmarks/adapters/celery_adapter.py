"""The adapter of Celery with Redis: late acknowledgement, two processes, and results in Redis."""

from __future__ import annotations

import time

from celery import Celery, group
from conversation import PAYLOAD, SERVER, converse, worker

app = Celery("bench", broker=f"redis+socket://{SERVER}", backend=f"redis+socket://{SERVER}")
# The documentation recommends many prefetched tasks where tasks are short, and rejection where none may be lost.
app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True, worker_prefetch_multiplier=64)


@app.task(name="nothing")
def nothing(payload: str) -> None:
    """Does nothing."""


def start() -> None:
    worker("-m", "celery", "--app", "celery_adapter", "worker", "--concurrency", "2", "--loglevel", "WARNING")


def burst(tasks: int) -> float:
    results = group(nothing.s(PAYLOAD) for _ in range(tasks)).apply_async()
    submitted = time.perf_counter()
    results.get()
    return submitted


def single() -> None:
    nothing.delay(PAYLOAD).get()


if __name__ == "__main__":
    converse(start, burst, single)
