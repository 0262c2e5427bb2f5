"""An executor without a process around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._core.context import Place
from gowork.worker._core.plugins import load
from gowork.worker._core.selection import Selection
from gowork.worker._runner import messages
from gowork.worker._runner.completion import AttemptReport, Completion
from gowork.worker._runner.executor import Executor
from gowork.worker._runner.outbox import Outbox
from gowork.worker._runner.table import SlotTable


class Rig:
    """An executor with what surrounds it."""

    def __init__(self, handlers: list[Callable[..., Any]], slots: int, spare: int) -> None:
        self.reports: dict[int, session.Report] = {}
        self.order: list[int] = []
        self.stopping: list[tuple[int, int, messages.StopKind]] = []
        self.withheld: list[int] = []
        self.waiting: list[int] = []
        self.broken: list[BaseException] = []
        self.executed: list[messages.Executed] = []
        self.progress: list[session.ProgressReport] = []
        self.changed = asyncio.Event()
        #: A report may come twice; the first counts, as for a supervisor.
        self.may_repeat = False
        self.table = SlotTable.private(slots, spare)
        self.outbox = Outbox(self._take, self.executed.append)
        self.executor = Executor(
            load(Selection(plugins=("echo",)), handlers),
            Place("w"),
            self.table,
            self.outbox,
            lambda *stop: self.stopping.append(stop),
            self.withheld.append,
            self.waiting.append,
            self.broken.append,
        )

    def feed(self, *grants: tuple[int, str] | tuple[int, str, str], **fields: Any) -> None:
        self.executor.feed(
            session.Grant(
                fence=fence,
                id=f"task-{fence}",
                attempt=1,
                task=tasks.Task(
                    id=f"task-{fence}", handler=name, payload=payload[0] if payload else "", **fields
                ).SerializeToString(),
            )
            for fence, name, *payload in grants
        )

    async def report(self, fence: int) -> session.Report:
        async with asyncio.timeout(120):
            while fence not in self.reports:
                await self.changed.wait()
                self.changed.clear()
        return self.reports[fence]

    def _take(self, reports: list[AttemptReport], size: int, progress: list[session.ProgressReport]) -> None:
        for report in reports:
            assert report.fence not in self.reports or self.may_repeat
            if report.fence in self.reports:
                continue
            self.reports[report.fence] = report.message() if isinstance(report, Completion) else report
            self.order.append(report.fence)
        self.progress += progress
        self.changed.set()


@pytest.fixture
async def make_rig() -> AsyncIterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def make(*handlers: Callable[..., Any], slots: int = 2, spare: int = 0) -> Rig:
        rigs.append(Rig(list(handlers), slots, spare))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.executor.close()
        await rig.executor.finished()
