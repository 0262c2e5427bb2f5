"""The adapter of Huey with SQLite: a consumer with two threads, and results in the same database."""

from __future__ import annotations

import time

from conversation import FOLDER, PAYLOAD, converse, worker
from huey import SqliteHuey

#: How often at most the producer looks for a result, in seconds.
_LOOK_SECONDS = 0.01

huey = SqliteHuey("bench", filename=str(FOLDER / "huey.db"), fsync=True, store_none=True)


@huey.task()
def nothing(payload: str) -> None:
    """Does nothing."""


def start() -> None:
    worker("-m", "huey.bin.huey_consumer", "huey_adapter.huey", "--workers", "2", "--quiet")


def burst(tasks: int) -> float:
    results = nothing.map([PAYLOAD] * tasks)
    submitted = time.perf_counter()
    results.get(blocking=True, max_delay=_LOOK_SECONDS)
    return submitted


def single() -> None:
    nothing(PAYLOAD).get(blocking=True, max_delay=_LOOK_SECONDS)


if __name__ == "__main__":
    # A task's name contains its module's name, which is another one here than in the consumer.
    import huey_adapter

    converse(start, huey_adapter.burst, huey_adapter.single)
