"""The page /metrics of a worker."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterable
from typing import Any

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from gowork.worker._app.metrics import metrics_page
from gowork.worker._desk.events import DrainBegun
from gowork.worker._runner.messages import EXECUTION_BUCKETS, ExecutedRow, TracedRow
from gowork.worker._supervisor.measures import SETTINGS_MAX
from gowork.worker._supervisor.supervisor import Supervisor

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
TRACE = "0af7651916cd43dd8448eb211c80319c"


def page(supervisor: Supervisor, accept: str = "") -> str:
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "HTTP_ACCEPT": accept}
    return b"".join(metrics_page(supervisor)(environ, lambda *_: lambda data: None)).decode()


def values(families: Iterable[Metric]) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


async def test_metrics_have_the_names_and_values_of_what_ran(leader: Any, start_worker: Any, eventually: Any) -> None:
    service = await start_worker(slots=3)
    scripted = await leader.session()
    scripted.grant(1, "echo", "x", queue="mail")
    await scripted.report(1)
    await eventually(lambda: service.supervisor.measures.executions)
    shown = values(read_text(page(service.supervisor)))
    assert shown["gowork_task_execution_seconds_count", ("echo", "mail", "completed")] == 1
    assert shown["gowork_worker_slots", ("free",)] == 3
    assert shown["gowork_worker_slots", ("busy",)] == 0
    assert ("gowork_worker_loop_lag_seconds_count", ()) in shown
    assert shown["gowork_worker_runners_lost_total", ()] == 0


async def test_restored_settings_are_counted_under_a_bounded_number_of_names(start_worker: Any) -> None:
    supervisor = (await start_worker()).supervisor
    supervisor.measures.restored({"umask": 2})
    supervisor.measures.restored({f"setting {number}": 1 for number in range(SETTINGS_MAX)})
    supervisor.measures.restored({"umask": 1})
    shown = values(read_text(page(supervisor)))
    counts = {
        labels: count for (name, labels), count in shown.items() if name == "gowork_worker_settings_restored_total"
    }
    assert (counts["umask",], counts["other",]) == (3, 1)
    assert len(counts) == SETTINGS_MAX + 1


def traced(supervisor: Supervisor) -> None:
    """Counts three attempts, one of them traced."""
    counts = [0] * (len(EXECUTION_BUCKETS) + 1)
    counts[2] = 3
    exemplar = TracedRow(2, TRACE, 0.02, 1767225600.5)
    supervisor.measures.executed([ExecutedRow("mail", "send", "completed", tuple(counts), 0.06, (exemplar,))])


async def test_execution_times_lead_to_traces_in_openmetrics(start_worker: Any) -> None:
    supervisor = (await start_worker()).supervisor
    traced(supervisor)
    text = page(supervisor, OPENMETRICS)
    families = {family.name: family for family in read_openmetrics(text)}
    found = {
        sample.labels["le"]: sample.exemplar
        for sample in families["gowork_task_execution_seconds"].samples
        if sample.exemplar is not None
    }
    assert list(found) == ["0.025"]
    assert found["0.025"].labels == {"trace_id": TRACE}
    assert (found["0.025"].value, float(found["0.025"].timestamp)) == (0.02, 1767225600.5)
    assert families["gowork_task_execution_seconds"].unit == "seconds"
    assert "trace_id" not in page(supervisor)


@pytest.mark.tool("promtool")
async def test_promtool_has_nothing_to_say_against_the_page(start_worker: Any) -> None:
    supervisor = (await start_worker()).supervisor
    traced(supervisor)
    command = ["promtool", "check", "metrics"]
    done = await asyncio.to_thread(subprocess.run, command, input=page(supervisor), capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


async def test_slots_are_told_apart_by_what_they_do(leader: Any, start_worker: Any, eventually: Any) -> None:
    supervisor: Supervisor = (await start_worker(slots=5, runners=2)).supervisor
    assert sum(supervisor.slots().values()) == 5
    scripted = await leader.session()
    await eventually(lambda: supervisor.slots()["free"] == 5)
    scripted.grant(1, "until_cancelled")
    scripted.grant(2, "isolated_stubborn")
    for fence in (1, 2):
        await scripted.started(fence)
    states = {"busy": 2, "free": 3, "withheld": 0, "blocked": 0, "starting": 0}
    await eventually(lambda: supervisor.slots() == states)
    scripted.grant(3, "hog", "20")
    blocked = next(iter(await eventually(lambda: [r for r in supervisor.desk.roster.ordinary if r.is_blocked])))
    idle = blocked.slots - supervisor.fleet.running(blocked.id) - blocked.lent
    assert supervisor.slots() == {**states, "busy": 3, "free": 2 - idle, "blocked": idle}
    supervisor.feed(DrainBegun())
    assert supervisor.slots() == {**states, "busy": 3, "free": 0, "withheld": 2 - idle, "blocked": idle}
