"""Metrics that handlers keep with prometheus_client, on the page of a real worker."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics

MODULES = Path(__file__).parent.parent / "modules"


class Watched:
    """A worker's process with its page."""

    def __init__(self, process: asyncio.subprocess.Process, facts: dict[str, Any], home: Path) -> None:
        self.process = process
        self.runners: list[int] = facts["runners"]
        self._address = facts["http"]
        #: Where workers keep the metrics of their handlers.
        self.home = home

    def page(self, accept: str = "") -> str:
        request = urllib.request.Request(f"http://{self._address}/metrics", headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=120) as response:
            return str(response.read().decode())

    def values(self) -> dict[str, float]:
        """Each series, as it is written, and its value."""
        return {
            line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
            for line in self.page().splitlines()
            if not line.startswith("#")
        }

    def cups(self) -> float:
        """Of all kinds."""
        return sum(value for series, value in self.values().items() if series.startswith("coffee_cups_total"))

    def files(self) -> list[Path]:
        return [path for path in self.home.glob("*/*/*") if path.is_file()]

    async def stop(self) -> str:
        """What it has logged."""
        self.process.terminate()
        _, errors = await self.process.communicate()
        assert self.process.returncode == 0
        return errors.decode()


Start = Callable[..., Awaitable[Watched]]


@pytest.fixture
async def start(leader: Any, tmp_path: Path) -> AsyncIterator[Start]:
    processes: list[asyncio.subprocess.Process] = []

    async def start(*options: str, module: str = "worker_metrics", **variables: str) -> Watched:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gowork.worker", "--leader", leader.address, "--http-listen", "127.0.0.1:0"),
            *("--plugin", "echo", "--import", module, "--print-ready", "--runners", "1", "--slots", "2", *options),
            cwd=MODULES,
            env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), **variables},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        processes.append(process)
        assert process.stdout is not None
        return Watched(process, json.loads(await process.stdout.readline()), tmp_path / "gowork-metrics")

    yield start
    for process in processes:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_metrics_are_summed_over_runners_and_survive_them(leader: Any, start: Start) -> None:
    worker = await start("--runners", "2")
    scripted = await leader.session()
    await scripted.until(lambda: scripted.credit == 2)
    for fence in (1, 2):
        scripted.grant(fence, "brew_and_wait", "filter")
    killed, kept = [int(await scripted.started(fence)) for fence in (1, 2)]
    assert killed != kept
    values = worker.values()
    assert values['coffee_cups_total{kind="filter"}'] == 2
    assert values["coffee_brewing_seconds_count"] == 2
    assert values["coffee_brewing_seconds_sum"] == 4
    assert values['coffee_brewing_seconds_bucket{le="1.0"}'] == 0
    assert values['coffee_brewing_seconds_bucket{le="5.0"}'] == 2
    assert values["coffee_level"] == 2
    os.kill(killed, signal.SIGKILL)
    await scripted.report(1)
    values = worker.values()
    assert values['coffee_cups_total{kind="filter"}'] == 2
    assert values["coffee_brewing_seconds_count"] == 2
    assert values["coffee_best"] == 5
    scripted.send(cancelled=[2])
    await scripted.report(2)
    for fence in (3, 4, 5):
        scripted.grant(fence, "brew", "filter")
        await scripted.report(fence)
    assert worker.values()['coffee_cups_total{kind="filter"}'] == 5


async def test_the_page_with_handlers_metrics_is_openmetrics(leader: Any, start: Start) -> None:
    worker = await start()
    scripted = await leader.session()
    scripted.grant(1, "brew", "filter")
    await scripted.report(1)
    families = {family.name: family for family in read_openmetrics(worker.page("application/openmetrics-text"))}
    assert families["coffee_cups"].type == "counter"
    assert families["coffee_brewing_seconds"].type == "histogram"
    assert families["coffee_level"].type == "gauge"


@pytest.mark.tool("promtool")
async def test_promtool_has_nothing_to_say_against_handlers_metrics(leader: Any, start: Start) -> None:
    worker = await start()
    scripted = await leader.session()
    scripted.grant(1, "brew", "filter")
    await scripted.report(1)
    command = ["promtool", "check", "metrics"]
    page = worker.page()
    done = await asyncio.to_thread(subprocess.run, command, input=page, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


async def test_processes_that_end_leave_their_counts_and_nothing_else(
    leader: Any, start: Start, eventually: Any
) -> None:
    worker = await start()
    scripted = await leader.session()
    for fence in range(1, 6):
        scripted.grant(fence, "brew_and_die", "alone")
        assert "exited with code 3" in (await scripted.report(fence)).reason
        assert worker.cups() == fence
    # One runner is left, and perhaps one process for the next isolated task.
    await eventually(lambda: len({path.parent for path in worker.files()}) <= 2)
    assert worker.cups() == 5
    assert worker.values()["coffee_best"] == 5


async def test_what_children_of_handlers_count_is_counted(leader: Any, start: Start, eventually: Any) -> None:
    worker = await start()
    scripted = await leader.session()
    for fence in range(1, 4):
        scripted.grant(fence, "brew_in_child")
        assert (await scripted.report(fence)).reason == ""
        assert worker.cups() == fence
    # The runner's own, of counter, histogram and two gauges.
    assert {path.stem.rpartition("_")[2] for path in worker.files()} == {str(worker.runners[0])}


async def test_a_name_of_goworks_own_is_left_to_gowork(leader: Any, start: Start) -> None:
    worker = await start()
    scripted = await leader.session()
    scripted.grant(1, "brew", "filter")
    await scripted.report(1)
    for _ in range(2):
        assert worker.values()["gowork_worker_runners_lost_total"] == 0
    assert (await worker.stop()).count("a name of gowork's own") == 1


async def test_a_broken_file_takes_nothing_from_the_page(leader: Any, start: Start) -> None:
    worker = await start()
    scripted = await leader.session()
    scripted.grant(1, "brew", "filter")
    await scripted.report(1)
    directory = worker.files()[0].parent
    (directory / f"counter_{os.getpid()}.db").write_bytes(b"\xff" * 1000)
    os.mkfifo(directory / f"histogram_{os.getpid()}.db")
    assert worker.cups() == 1
    assert "gowork_worker_slots" in worker.page()


async def test_handlers_metrics_of_a_worker_without_runners_are_its_own(leader: Any, start: Start) -> None:
    worker = await start("--runners", "0")
    scripted = await leader.session()
    scripted.grant(1, "brew", "filter")
    await scripted.report(1)
    values = worker.values()
    assert values['coffee_cups_total{kind="filter"}'] == 1
    assert values["gowork_worker_runners_lost_total"] == 0
    assert values["process_start_time_seconds"] > 0


async def test_a_directory_that_the_user_has_chosen_is_left_to_the_user(
    leader: Any, start: Start, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    worker = await start(PROMETHEUS_MULTIPROC_DIR=str(theirs))
    scripted = await leader.session()
    scripted.grant(1, "brew", "filter")
    await scripted.report(1)
    assert worker.cups() == 0
    assert list(theirs.glob("counter_*.db"))
    assert not worker.home.exists()
    await worker.stop()
    assert list(theirs.glob("counter_*.db"))


async def test_a_runner_whose_handlers_keep_no_metrics_does_not_load_the_library(leader: Any, start: Start) -> None:
    worker = await start(module="worker_sample")
    scripted = await leader.session()
    scripted.grant(1, "surroundings")
    surroundings = json.loads((await scripted.report(1)).result)
    assert surroundings["imported"] is False
    assert Path(surroundings["directory"]).parent.parent == worker.home


async def test_a_worker_that_shows_no_metrics_keeps_none(leader: Any, start_worker: Any) -> None:
    await start_worker(slots=1, runners=1)
    scripted = await leader.session()
    scripted.grant(1, "surroundings")
    assert json.loads((await scripted.report(1)).result)["directory"] is None


async def test_a_worker_leaves_no_directory_and_removes_those_of_killed_ones(leader: Any, start: Start) -> None:
    killed = await start()
    (orphan,) = killed.home.iterdir()
    killed.process.kill()
    await killed.process.communicate()
    assert orphan.exists()
    worker = await start()
    assert orphan not in worker.home.iterdir()
    await worker.stop()
    assert list(worker.home.iterdir()) == []
