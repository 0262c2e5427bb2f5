"""The adapter of DBOS with PostgreSQL: two processes that take workflows from a queue. A burst is one transaction."""

from __future__ import annotations

import sys
import threading
import time

import sqlalchemy
from conversation import PAYLOAD, SERVER, converse, worker
from dbos import DBOS, DBOSClient, EnqueueOptions

#: How often workers ask for tasks and the producer for a result, in seconds.
_WORKER_LOOK_SECONDS = 0.1
_LOOK_SECONDS = 0.01
_URL = SERVER.replace("postgresql:", "postgresql+psycopg:")
_OPTIONS = EnqueueOptions(queue_name="bench", workflow_name="nothing")


@DBOS.workflow(name="nothing")
def nothing(payload: str) -> None:
    """Does nothing."""


class Producer:
    """The client and its engine."""

    client: DBOSClient
    engine: sqlalchemy.Engine

    def start(self) -> None:
        DBOS.migrate(_URL)
        self.engine = sqlalchemy.create_engine(_URL)
        self.client = DBOSClient(system_database_url=_URL)
        for number in range(2):
            worker("dbos_adapter.py", f"worker-{number}")

    def burst(self, tasks: int) -> float:
        with self.engine.begin() as connection:
            handles = [self.client.enqueue_in_transaction(connection, _OPTIONS, PAYLOAD) for _ in range(tasks)]
        submitted = time.perf_counter()
        for handle in handles:
            handle.get_result(polling_interval_sec=_LOOK_SECONDS)
        return submitted

    def single(self) -> None:
        self.client.enqueue(_OPTIONS, PAYLOAD).get_result(polling_interval_sec=_LOOK_SECONDS)


def work(executor: str) -> None:
    DBOS(config={"name": "bench", "system_database_url": _URL, "executor_id": executor, "log_level": "WARNING"})
    DBOS.launch()
    DBOS.register_queue("bench", polling_interval_sec=_WORKER_LOOK_SECONDS)
    threading.Event().wait()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        work(sys.argv[1])
    producer = Producer()
    converse(producer.start, producer.burst, producer.single)
