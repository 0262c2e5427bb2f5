"""Measures how fast the SQLite store commits, beside what the disk can do, with an idle and with a busy main thread.

    python benchmarks/store_commit.py [--rows 1000] [--batches 100] [--body-bytes 100] [--directory DIR]

A leader under load has a busy main thread: Python that computes, in turns of about a millisecond. The store's threads
must get the interpreter's lock from it, so wall-clock time then shows how often they ask for it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Coroutine
from pathlib import Path

from gowork.leader._core.model import LaneKey, Priority, Standing, Status
from gowork.leader.store.protocol import Batch, MovedTask, NewTask, Record, changed_number
from gowork.leader.store.sqlite import SqliteStore

LANE = LaneKey("default", Priority.LOW, "resize", ())


def quantiles(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    p50, p99 = statistics.median(ordered), ordered[int(len(ordered) * 0.99)]
    return f"p50 {p50 * 1e3:6.2f} ms  p99 {p99 * 1e3:6.2f} ms  max {ordered[-1] * 1e3:6.2f} ms"


def raw_sync(directory: Path, payload_bytes: int, times: int = 300) -> list[float]:
    """Appends to a file and forces it to disk, as a commit does with its log; returns the seconds of each time."""
    taken = []
    payload = os.urandom(payload_bytes)
    descriptor = os.open(directory / "raw", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    for _ in range(times):
        began = time.perf_counter()
        os.write(descriptor, payload)
        os.fdatasync(descriptor)
        taken.append(time.perf_counter() - began)
    os.close(descriptor)
    return taken


def writer_cpu_seconds() -> float:
    for thread in threading.enumerate():
        if thread.name.startswith("gowork-store-write") and thread.ident is not None:
            return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    raise LookupError("no writer thread")


async def burn() -> None:
    """Keeps the main thread computing."""
    while True:
        until = time.perf_counter() + 0.001
        while time.perf_counter() < until:
            pass
        await asyncio.sleep(0)


class Load:
    """Makes batches of new tasks, of grants and of completions."""

    def __init__(self, store: SqliteStore, term: int, next_seq: int, rows: int, body_bytes: int) -> None:
        self.store, self.term, self.seq, self.rows = store, term, next_seq, rows
        self.number = 0
        self.body = os.urandom(body_bytes)
        self.pending = Standing(Status.PENDING, 1_761_900_000_000)
        self.running = Standing(
            Status.RUNNING, 1_761_900_000_000, term << 40 | 1, 1, 0, "worker-7f3a", "0" * 32, 1_761_900_000_100
        )
        self.completed = Standing(
            Status.COMPLETED,
            1_761_900_000_000,
            term << 40 | 1,
            1,
            1,
            "worker-7f3a",
            "0" * 32,
            1_761_900_000_100,
            1_761_900_000_200,
            result='{"ok":true}',
        )

    def changed(self) -> int:
        self.number += 1
        return changed_number(self.term, self.number)

    def inserts(self, rows: int) -> Batch:
        changed, first = self.changed(), self.seq
        self.seq += rows
        return Batch(
            [
                NewTask(Record(seq, task_id(seq), changed, self.body, self.pending), LANE, (), 0)
                for seq in range(first, first + rows)
            ]
        )

    def moves(self, inserted: Batch, standing: Standing) -> Batch:
        changed = self.changed()
        return Batch(moves=[MovedTask(new.record.seq, changed, standing) for new in inserted.inserts])


def task_id(seq: int) -> str:
    # Ids like the client's own (UUIDv7): in the order of time, with a random end.
    return str(uuid.UUID(int=(0x0190 << 112) | (seq << 64) | int.from_bytes(os.urandom(8), "big")))


async def commit_all(store: SqliteStore, batches: list[Batch]) -> tuple[list[float], float]:
    cpu = writer_cpu_seconds()
    taken = []
    for batch in batches:
        began = time.perf_counter()
        await store.commit(batch)
        taken.append(time.perf_counter() - began)
    return taken, writer_cpu_seconds() - cpu


async def with_main_thread(busy: bool, work: Callable[[], Coroutine[None, None, None]]) -> None:
    if not busy:
        await work()
        return
    burning = asyncio.ensure_future(burn())
    try:
        await work()
    finally:
        burning.cancel()


async def measure(store: SqliteStore, load: Load, busy: bool, batches: int) -> None:
    main_thread = "busy main thread" if busy else "idle main thread"
    inserts = [load.inserts(load.rows) for _ in range(batches)]
    runs: list[tuple[str, list[Batch]]] = [
        ("insert", inserts),
        ("grant", [load.moves(batch, load.running) for batch in inserts]),
        ("finish", [load.moves(batch, load.completed) for batch in inserts]),
    ]
    for name, committed in runs:
        taken, cpu = await commit_all(store, committed)
        rows = load.rows * batches
        print(
            f"{main_thread}  {name:7s} {rows / sum(taken):9,.0f} rows/s  "
            f"{cpu / rows * 1e6:5.2f} us CPU a row   {load.rows} rows a commit: {quantiles(taken)}"
        )
    taken, _ = await commit_all(store, [load.inserts(1) for _ in range(300)])
    print(f"{main_thread}  1 row a commit: {quantiles(taken)}")
    taken = []
    for _ in range(20):
        ids = [task_id(load.seq) for _ in range(10_000)]
        began = time.perf_counter()
        await store.load(ids)
        taken.append(time.perf_counter() - began)
    print(f"{main_thread}  load of 10,000 unknown ids: {quantiles(taken)}")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000, help="tasks in a batch [1000]")
    parser.add_argument("--batches", type=int, default=100, help="batches of each kind [100]")
    parser.add_argument("--body-bytes", type=int, default=100, help="bytes of a task's body [100]")
    parser.add_argument("--directory", type=Path, help="where to write [the directory of temporary files]")
    parser.add_argument(
        "--switch-interval-ms", type=float, default=0.5, help="for sys.setswitchinterval; Python's own is 5 [0.5]"
    )
    options = parser.parse_args()
    sys.setswitchinterval(options.switch_interval_ms / 1000)
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        directory = Path(name)
        store = SqliteStore(directory / "gowork.db")
        opened = await store.open()
        load = Load(store, opened.term, opened.next_seq, options.rows, options.body_bytes)
        for busy in (False, True):
            for payload_bytes in (4 << 10, 256 << 10):
                raw = quantiles(raw_sync(directory, payload_bytes))
                print(f"raw append and fdatasync of {payload_bytes >> 10:3d} KiB: {raw}")

            async def work(busy: bool = busy) -> None:
                await measure(store, load, busy, options.batches)

            await with_main_thread(busy, work)
        began = time.perf_counter()
        await store.close()
        closed = time.perf_counter() - began
        print(f"close: {closed * 1e3:.0f} ms, {(directory / 'gowork.db').stat().st_size >> 20} MiB")


if __name__ == "__main__":
    asyncio.run(main())
