"""Makes `store-0.1.0/gowork.db` with the packages of 0.1.0: `python3 tests/compat/make_store.py`. It was run once.

The store holds finished tasks (results, failures, attempts, a follow-up), pending ones (waiting, delayed, expiring, one
that has failed and is tried again later), a paused queue and one with limits. `test_compat_store.py` checks how each of
them ends.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from compat_versions import HERE, Version, cluster, unpack_old

STORE = HERE / "store-0.1.0" / "gowork.db"


def main() -> None:
    """Starts a cluster of 0.1.0, runs this file again as the client that fills its store, and stops the cluster."""
    if len(sys.argv) > 1:
        (fill_with_worker if sys.argv[1] == "worker" else fill_without_worker)(sys.argv[2])
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        old: Version = unpack_old(folder / "old")
        store = folder / "gowork.db"
        for worker in (old, None):
            with cluster(folder, old, worker, store) as running:
                old.run(str(Path(__file__)), "worker" if worker else "alone", running.scheduler, folder=folder)
        STORE.parent.mkdir(exist_ok=True)
        shutil.copyfile(store, STORE)


def fill_with_worker(address: str) -> None:
    """Schedules the tasks that a worker runs."""
    from gowork.client import Client, RetryPolicy

    with Client(address) as client:
        client.schedule({"value": 21}, handler="double", id="completed").result()
        client.schedule(b"abc", handler="reverse", id="bytes").result()
        client.schedule("", handler="failing", id="failed").wait()
        client.schedule("", handler="flaky", id="retried").wait()
        client.schedule({"value": 1}, handler="parent", id="parent").wait()
        client.handle("parent-child").wait()
        # It fails once. Its second attempt is due after five minutes, which have passed when a test opens the store.
        later = RetryPolicy(max_attempts=2, initial_delay=300)
        client.schedule("", handler="flaky", id="to-be-retried", retry=later)
        while not client.get("to-be-retried").attempts:
            continue


def fill_without_worker(address: str) -> None:
    """Schedules the tasks that no worker has taken, and changes queues."""
    from gowork.client import Client

    with Client(address) as client:
        client.schedule({"value": 1}, handler="double", id="pending", priority="high", labels={"kind": "pending"})
        client.schedule({"value": 2}, handler="double", id="delayed", delay=1)
        client.schedule({"value": 3}, handler="double", id="far", run_at=datetime(2100, 1, 1, tzinfo=UTC))
        client.schedule({"value": 4}, handler="double", id="expiring", expires_at=datetime(2100, 1, 1, tzinfo=UTC))
        client.schedule({"value": 5}, handler="double", id="held", queue="paused")
        client.pause_queue("paused")
        client.schedule({"value": 6}, handler="double", id="limited", queue="limited")
        client.configure_queue("limited", concurrency_limit=1, weight=5)
        client.schedule("", handler="until_cancelled", id="cancelled")
        client.cancel("cancelled")


if __name__ == "__main__":
    main()
