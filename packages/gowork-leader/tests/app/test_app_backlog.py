"""The leader that leads writes its backlog into the log, in the form of which CloudWatch makes metrics."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from leader_process import refused_start
from leader_serving import PATIENCE
from sharing_leaders import sharing

from gowork.base.logs import JsonFormatter
from gowork.leader._engine import backlog_log


class Lines(logging.Handler):
    """The lines about the backlog, as a log driver gets them."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())
        self.seen: list[dict[str, Any]] = []
        self._more = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        line = json.loads(self.format(record))
        if line["event"] == "backlog":
            self.seen.append(line)
            self._more.set()

    async def next_of(self, cluster: str, **wanted: object) -> dict[str, Any]:
        """Waits for a line that is not written yet, of this cluster and with these values."""
        at = len(self.seen)
        async with asyncio.timeout(PATIENCE):
            while True:
                for line in self.seen[at:]:
                    if line["Cluster"] == cluster and wanted.items() <= line.items():
                        return line
                at = len(self.seen)
                self._more.clear()
                await self._more.wait()


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    monkeypatch.setattr(backlog_log, "INTERVAL_SECONDS", 0.05)
    handler = Lines()
    logger = logging.getLogger("gowork.leader")
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)


async def test_only_the_leader_that_leads_writes_its_backlog_and_its_successor_goes_on(
    tmp_path: Path, lines: Lines
) -> None:
    async with sharing(tmp_path) as leaders:
        # The names differ so that the lines tell who wrote them. In a cluster they are the same.
        await leaders.start("a", cloudwatch="of-a")
        await leaders.submitted("a", "one", "two", "three", handler="work")
        line = await lines.next_of("of-a", BacklogPerSlot=3)
        assert (line["runnable_tasks"], line["slots"], line["busy_slots"]) == (3, 0, 0)
        assert line["BacklogWithoutSlots"] == 1
        await leaders.start("b", cloudwatch="of-b")
        await leaders.says("b", 200)
        for _ in range(3):
            await lines.next_of("of-a")
        assert {each["Cluster"] for each in lines.seen} == {"of-a"}
        await leaders.stop("a")
        ended = len(lines.seen)
        await lines.next_of("of-b", BacklogPerSlot=3)
        assert {each["Cluster"] for each in lines.seen[ended:]} == {"of-b"}


async def test_a_leader_that_is_not_asked_to_writes_none(tmp_path: Path, lines: Lines) -> None:
    async with sharing(tmp_path) as leaders:
        await leaders.start("a")
        await leaders.says("a", 200)
        await leaders.start("other", cloudwatch="of-other")
        await leaders.says("other", 200)
        await leaders.stop("a")
        await lines.next_of("of-other")
        assert {each["Cluster"] for each in lines.seen} == {"of-other"}


def test_the_line_is_in_the_embedded_metric_format() -> None:
    seen = backlog_log.Backlog(runnable=10, slots=4, busy=3)
    line = backlog_log.embedded(seen, "prod", 1_800_000_000_000)
    assert line["_aws"] == {
        "Timestamp": 1_800_000_000_000,
        "CloudWatchMetrics": [
            {
                "Namespace": "gowork",
                "Dimensions": [["Cluster"]],
                "Metrics": [
                    {"Name": "BacklogPerSlot", "Unit": "Count"},
                    {"Name": "BacklogWithoutSlots", "Unit": "Count"},
                    {"Name": "BusySlotsPercent", "Unit": "Percent"},
                ],
            }
        ],
    }
    # What the format demands: each metric is a number, and each dimension a text, beside `_aws`.
    assert (line["BacklogPerSlot"], line["BacklogWithoutSlots"], line["BusySlotsPercent"]) == (2.5, 0, 75.0)
    assert line["Cluster"] == "prod"


def test_what_is_not_known_without_slots_is_no_metric() -> None:
    line = backlog_log.embedded(backlog_log.Backlog(runnable=0, slots=0, busy=0), "prod", 1)
    assert "BusySlotsPercent" not in json.dumps(line)
    assert (line["BacklogPerSlot"], line["BacklogWithoutSlots"]) == (0, 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--cloudwatch-metrics needs --log-format json"),
        (("--log-format=json", "--log-level=warning"), "--log-level info or debug"),
        (("--log-format=json", "--cloudwatch-metrics="), "a name is 1 to 255 visible characters"),
        (("--log-format=json", "--cloudwatch-metrics=a b"), "a name is 1 to 255 visible characters"),
        (("--log-format=json", "--cloudwatch-metrics=:a"), "no colon first"),
    ],
)
def test_metrics_that_could_not_arrive_are_refused(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    code, error = refused_start(tmp_path, f"--data-dir={tmp_path}", "--cloudwatch-metrics=prod", *arguments)
    assert code == 2
    assert words in " ".join(error.split())
