"""In which batches reports leave a runner, and which progress leaves with them."""

from __future__ import annotations

import asyncio
import gc

import pytest

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._core.plugins import Selection, load
from gowork.worker._runner import outcomes
from gowork.worker._runner.completion import AttemptReport
from gowork.worker._runner.job import Job
from gowork.worker._runner.messages import Executed
from gowork.worker._runner.outbox import Outbox


class Sent:
    """What an outbox has sent."""

    def __init__(self) -> None:
        #: The fences of each frame of reports.
        self.reports: list[list[int]] = []
        #: The fences of all progress.
        self.progress: list[int] = []
        #: How many attempts each frame of execution times has counted.
        self.executed: list[int] = []
        self.outbox = Outbox(self._take, self._count)

    def _take(self, reports: list[AttemptReport], size: int, progress: list[session.ProgressReport]) -> None:
        if reports:
            self.reports.append([report.fence for report in reports])
        self.progress += [word.fence for word in progress]

    def _count(self, executed: Executed) -> None:
        self.executed.append(sum(sum(row.counts) for row in executed.rows))


@pytest.fixture
async def sent() -> Sent:
    return Sent()


def job(fence: int) -> Job:
    handler = load(Selection(plugins=("echo",)), []).handlers["echo"]
    return Job(session.Grant(fence=fence, id=f"t{fence}"), tasks.Task(), handler)


async def test_the_more_reports_leave_together_the_longer_the_next_ones_gather(
    sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, waits = asyncio.get_running_loop(), list[float]()
    monkeypatch.setattr(loop, "time", lambda: 1.0)
    monkeypatch.setattr(loop, "call_later", lambda seconds, flush: waits.append(seconds))
    found = []
    for count in (1, 10, 1_000):
        for fence in range(count):
            sent.outbox.add(session.Report(fence=fence), None)
        await asyncio.sleep(0)
        sent.outbox.flush()
        waits.clear()
        sent.outbox.add(session.Report(fence=count), None)
        await asyncio.sleep(0)
        found += waits
        sent.outbox.flush()
    assert found == pytest.approx([0.001, 0.002, 0.005])


async def test_a_frame_of_one_mebibyte_takes_no_more_reports(sent: Sent) -> None:
    for fence in range(1, 6):
        sent.outbox.add(session.Report(fence=fence, result="x" * (600 << 10)), None)
    sent.outbox.flush()
    assert sent.reports == [[1, 2], [3, 4], [5]]


async def test_progress_of_an_attempt_does_not_leave_after_its_report(sent: Sent) -> None:
    for fence in (1, 2):
        sent.outbox.progress(fence, f"t{fence}", 0.5, "half")
    sent.outbox.add(outcomes.completed(1, "t1", None), job(1))
    sent.outbox.flush()
    sent.outbox.look_after()
    assert (sent.reports, sent.progress) == ([[1]], [2])


async def test_execution_times_are_sent_once_and_later_ones_by_a_timer_of_their_own(sent: Sent) -> None:
    for fence in (1, 2):
        sent.outbox.add(outcomes.completed(fence, f"t{fence}", None), job(fence))
        sent.outbox.flush()
        assert sent.outbox._executed_timer is not None
        sent.outbox.flush_executed()
        sent.outbox.flush_executed()
        assert sent.outbox._executed_timer is None
    assert sent.executed == [1, 1]


async def test_reports_that_come_while_garbage_is_collected_break_no_flush(sent: Sent) -> None:
    """A thread may add a report wherever the collector runs, because that lets other code run."""
    more = iter(range(2, 50))

    def add_one(phase: str, info: object) -> None:
        fence = next(more, None)
        if fence is not None:
            sent.outbox.add(session.Report(fence=fence), None)

    thresholds = gc.get_threshold()
    sent.outbox.add(session.Report(fence=1), None)
    gc.callbacks.append(add_one)
    gc.set_threshold(1, 1, 1)
    try:
        sent.outbox.flush()
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(add_one)
    sent.outbox.flush()
    fences = [fence for frame in sent.reports for fence in frame]
    assert len(fences) > 1
    assert fences == list(range(1, len(fences) + 1))
