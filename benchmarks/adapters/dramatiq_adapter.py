"""The adapter of Dramatiq with Redis: two processes of eight threads, and results in Redis."""

from __future__ import annotations

import time

import dramatiq
from conversation import PAYLOAD, SERVER, converse, worker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

_WAIT_MS = 300_000

broker = RedisBroker(url=f"unix://{SERVER}")
broker.add_middleware(Results(backend=RedisBackend(url=f"unix://{SERVER}")))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def nothing(payload: str) -> None:
    """Does nothing."""


def start() -> None:
    worker("-m", "dramatiq", "dramatiq_adapter", "--processes", "2", "--threads", "8")


def burst(tasks: int) -> float:
    group = dramatiq.group([nothing.message(PAYLOAD) for _ in range(tasks)]).run()
    submitted = time.perf_counter()
    for _ in group.get_results(block=True, timeout=_WAIT_MS):
        pass
    return submitted


def single() -> None:
    nothing.send(PAYLOAD).get_result(block=True, timeout=_WAIT_MS)


if __name__ == "__main__":
    converse(start, burst, single)
