"""Counts while a cluster runs in this process: commits, SQL statements, messages, calls of functions, and objects."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import apsw
from costs_wire import Wire
from costs_work import Work

from gowork.leader.store.protocol import Batch
from gowork.leader.store.sqlite import SqliteStore
from gowork.proto.scheduler.v1.scheduler_pb2 import Task
from gowork.worker._runner.executor import Executor
from gowork.worker._runner.outbox import Outbox
from gowork.worker._runner.threads import Threads

_SESSION = "/worker.v1.SessionService/Connect"


class Counted:
    """The costs of one cluster."""

    def __init__(self) -> None:
        #: {cost: its count}
        self.costs: Counter[str] = Counter()
        self.work = Work()
        self._on = False
        self._wire = Wire()
        self._lock = threading.Lock()
        #: The number of tasks given to handler threads since the beginning, and of those that have a report.
        self._given = self._reported = 0
        #: {threads of a runner that has none yet: the number of tasks that wait for them}
        self._without_threads: dict[Threads, int] = {}

    def at_rest(self) -> bool:
        """Whether every task that was given to a thread has its report."""
        return self._given == self._reported

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Patches what is counted; servers, stores and runners must be made within."""
        apsw.connection_hooks.append(self._traced)
        with ExitStack() as stack:
            stack.enter_context(self._wire.laid())
            stack.callback(apsw.connection_hooks.remove, self._traced)
            stack.enter_context(self._commits())
            stack.enter_context(self._runners())
            stack.enter_context(self.work.watching())
            yield

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Counts what happens meanwhile."""
        before = {method: list(messages) for method, messages in self._wire.messages.items()}
        self._on = True
        with self.work.counting():
            yield
        self._on = False
        for method, messages in self._wire.messages.items():
            names = ("frames of workers", "frames of the leader") if method == _SESSION else ("requests", "answers")
            for name, now, then in zip(names, messages, before.get(method, [0, 0]), strict=True):
                self.costs[name] += now - then
        self.costs.update(self.work.costs())

    def _traced(self, connection: apsw.Connection) -> None:
        connection.trace_v2(apsw.SQLITE_TRACE_STMT, self._statement)

    def _statement(self, event: dict[str, Any]) -> None:
        # A separate thread merges the log by PRAGMAs, at moments that differ from run to run.
        if self._on and not event["sql"].startswith("PRAGMA"):
            self.costs["SQL statements"] += 1

    @contextmanager
    def _commits(self) -> Iterator[None]:
        commit = SqliteStore.commit

        async def counted_commit(store: SqliteStore, batch: Batch) -> None:
            self.costs["commits"] += self._on
            await commit(store, batch)

        with mock.patch.object(SqliteStore, "commit", counted_commit):
            yield

    @contextmanager
    def _runners(self) -> Iterator[None]:
        init, feed, start = Executor.__init__, Executor.feed, Threads.start
        init_outbox, add = Outbox.__init__, Outbox.add

        def counted_init(executor: Executor, *arguments: Any, **named: Any) -> None:
            init(executor, *arguments, **named)
            self._without_threads[executor._threads] = 0

        def counted_feed(executor: Executor, grants: Any) -> None:
            self.costs["pipe messages to runners"] += self._on
            tasks = [Task.FromString(grant.task) for grant in grants]
            plain = sum(not executor._handlers[task.handler].is_async for task in tasks)
            if executor._threads in self._without_threads:
                self._without_threads[executor._threads] += plain
            else:
                self._given += plain
            feed(executor, grants)

        def counted_start(threads: Threads, waiting: int) -> None:
            start(threads, waiting)
            self._given += self._without_threads.pop(threads, 0)

        def counted_init_outbox(outbox: Outbox, send: Any, send_executed: Any) -> None:
            def counted_send(*work: Any) -> None:
                self.costs["pipe messages of runners"] += self._on
                send(*work)

            init_outbox(outbox, counted_send, send_executed)

        def counted_add(outbox: Outbox, report: Any, job: Any) -> None:
            add(outbox, report, job)
            if job is not None and not job.handler.is_async:
                # Last, because the loop goes on from here.
                with self._lock:
                    self._reported += 1

        with (
            mock.patch.object(Executor, "__init__", counted_init),
            mock.patch.object(Executor, "feed", counted_feed),
            mock.patch.object(Threads, "start", counted_start),
            mock.patch.object(Outbox, "__init__", counted_init_outbox),
            mock.patch.object(Outbox, "add", counted_add),
        ):
            yield
