"""The adapter of awa with PostgreSQL: two processes of 64 workers each. The producer asks the database."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass

import awa
from conversation import PAYLOAD, SERVER, converse, worker

#: Its URLs name a host, also where a socket takes the host's place.
_URL = SERVER.replace("@/", "@localhost/")
#: How often the producer asks whether all tasks of a burst, or one task, have completed, in seconds.
_LOOK_SECONDS = 0.02
_LOOK_FOR_ONE_SECONDS = 0.002
_WORKERS = 2
#: Its workers remove what has completed, so completed tasks can't be counted. `awa.jobs` shows those that have not
#: completed, but takes a tenth of a second for some hundred tasks. So the tables behind it are asked.
_OPEN = """
    SELECT (SELECT count(*) FROM awa.ready_entries) - (SELECT count(*) FROM awa.done_entries)
        - (SELECT coalesce(sum(completed_count), 0) FROM awa.receipt_completion_batches)::bigint AS count
"""


@dataclass
class Nothing:
    """The task that does nothing."""

    payload: str


class Producer:
    """The client."""

    client: awa.Client

    def start(self) -> None:
        self.client = awa.Client(_URL)
        self.client.migrate()
        for _ in range(_WORKERS):
            worker("awa_adapter.py", "worker")
        # Tasks go into the faster storage once workers have announced themselves.
        while self._count("SELECT count(*) AS count FROM awa.runtime_instances") < _WORKERS:
            time.sleep(_LOOK_SECONDS)

    def burst(self, tasks: int) -> float:
        self.client.enqueue_many_copy([Nothing(PAYLOAD)] * tasks, queue="bench")
        submitted = time.perf_counter()
        while self._count(_OPEN) > 0:
            time.sleep(_LOOK_SECONDS)
        return submitted

    def single(self) -> None:
        job = self.client.insert(Nothing(PAYLOAD), queue="bench")
        while not self._has_completed(job.id):
            time.sleep(_LOOK_FOR_ONE_SECONDS)

    def _has_completed(self, id: int) -> bool:
        try:
            return bool(self.client.get_job(id).state == awa.JobState.Completed)
        except awa.AwaError as error:
            # It was there once, so workers have removed it since, and they remove what has completed alone.
            if "not found" in str(error):
                return True
            raise

    def _count(self, query: str) -> int:
        with self.client.transaction() as transaction:
            return int(transaction.fetch_one(query)["count"])


async def work() -> None:
    client = awa.AsyncClient(_URL)

    @client.task(Nothing, queue="bench")
    async def nothing(job: awa.Job[Nothing]) -> None:
        """Does nothing."""

    await client.start([("bench", 64)])
    await asyncio.Event().wait()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(work())
    producer = Producer()
    converse(producer.start, producer.burst, producer.single)
