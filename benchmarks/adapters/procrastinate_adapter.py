"""The adapter of Procrastinate with PostgreSQL: two processes of eight tasks each. The producer asks the database."""

from __future__ import annotations

import time

import procrastinate
from conversation import PAYLOAD, SERVER, converse, worker

#: How often the producer asks whether all tasks of a burst, or one task, have succeeded, in seconds.
_LOOK_SECONDS = 0.02
_LOOK_FOR_ONE_SECONDS = 0.002

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=SERVER))


@app.task(name="nothing")
async def nothing(payload: str) -> None:
    """Does nothing."""


def start() -> None:
    app.open()
    app.schema_manager.apply_schema()
    for _ in range(2):
        worker("-m", "procrastinate", "--app", "procrastinate_adapter.app", "worker", "--concurrency", "8")


def burst(tasks: int) -> float:
    ids = nothing.batch_defer(*[{"payload": PAYLOAD}] * tasks)
    submitted = time.perf_counter()
    query = "SELECT count(*) AS done FROM procrastinate_jobs WHERE id >= %(first)s AND status = 'succeeded'"
    connector = app.connector.get_sync_connector()
    while connector.execute_query_one(query, first=min(ids))["done"] < tasks:
        time.sleep(_LOOK_SECONDS)
    return submitted


def single() -> None:
    job = nothing.defer(payload=PAYLOAD)
    while app.job_manager.get_job_status(job) != procrastinate.jobs.Status.SUCCEEDED:
        time.sleep(_LOOK_FOR_ONE_SECONDS)


if __name__ == "__main__":
    converse(start, burst, single)
