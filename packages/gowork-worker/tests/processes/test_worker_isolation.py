"""Real runner processes whose handlers do what they should not: no other plugin's task is harmed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.worker._core.selection import Selection

CARELESS = Selection(plugins=("echo",), imports=("worker_careless", "worker_neighbour"))
ON_BOTH = (
    "directory",
    "umask",
    "alarm",
    "locale",
    "environment",
    "time zone",
    "log level",
    "log handlers",
    "log off",
    "log configuration",
    "module path",
    "recursion limit",
    "switch interval",
    "socket timeout",
    "decimal precision",
    "warnings",
    "garbage collector",
    "loop policy",
    "time",
    "json",
    "closed streams",
    "other streams",
    "closed descriptors",
)
ON_LOOP = ("signal handlers", "signal of the loop", "exception handler", "debugging")
CASES = [
    *(("change", what) for what in ON_BOTH),
    *(("change_on_loop", what) for what in (*ON_BOTH, *ON_LOOP)),
]


async def found(scripted: Any, fence: int, handler: str = "find") -> dict[str, Any]:
    """What the neighbour finds in its process."""
    scripted.grant(fence, handler)
    report = await scripted.report(fence)
    assert report.outcome == tasks.ATTEMPT_OUTCOME_COMPLETED, report
    answer: dict[str, Any] = json.loads(report.result)
    return answer


@pytest.mark.parametrize(("careless", "what"), CASES)
async def test_what_a_handler_changes_is_as_it_was_when_the_next_task_runs(
    leader: Any, start_worker: Any, careless: str, what: str
) -> None:
    service = await start_worker(slots=2, runners=1, selection=CARELESS, log_format="text")
    scripted = await leader.session()
    before = [await found(scripted, 1), await found(scripted, 2, "find_on_loop")]
    scripted.grant(3, careless, what)
    assert (await scripted.report(3)).outcome == tasks.ATTEMPT_OUTCOME_COMPLETED
    assert [await found(scripted, 4), await found(scripted, 5, "find_on_loop")] == before
    assert service.supervisor.measures.runners_lost == 0


@pytest.mark.parametrize(
    ("what", "setting"),
    [
        ("resource limits", "resource limits"),
        ("log record factory", "log record factory"),
        ("logger class", "logger class"),
        ("processor time", "alarm"),
    ],
)
async def test_what_few_handlers_change_is_restored_within_a_second(
    leader: Any, start_worker: Any, eventually: Any, what: str, setting: str
) -> None:
    service = await start_worker(slots=2, runners=1, selection=CARELESS, log_format="text")
    scripted = await leader.session()
    before = await found(scripted, 1)
    scripted.grant(2, "change", what)
    assert (await scripted.report(2)).outcome == tasks.ATTEMPT_OUTCOME_COMPLETED
    await eventually(lambda: service.supervisor.measures.settings_restored)
    assert service.supervisor.measures.settings_restored == {setting: 1}
    assert await found(scripted, 3) == before
    assert service.supervisor.measures.runners_lost == 0


async def test_a_change_is_counted_and_the_line_names_the_handler(
    leader: Any, start_worker: Any, eventually: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    service = await start_worker(slots=1, runners=1, selection=CARELESS, log_format="text")
    scripted = await leader.session()
    scripted.grant(1, "change", "umask")
    await scripted.report(1)
    await eventually(lambda: service.supervisor.measures.settings_restored)
    assert service.supervisor.measures.settings_restored == {"umask": 1}
    log = ""
    while "which is restored" not in log:
        log += await eventually(lambda: capfd.readouterr().err)
    assert "setting=umask handlers=change" in log


@pytest.mark.parametrize("what", ["log configuration", "log handlers", "closed streams", "closed descriptors"])
async def test_what_others_log_afterwards_is_written(
    leader: Any, start_worker: Any, eventually: Any, capfd: pytest.CaptureFixture[str], what: str
) -> None:
    await start_worker(slots=1, runners=1, selection=CARELESS, log_format="text")
    scripted = await leader.session()
    scripted.grant(1, "change", what)
    await scripted.report(1)
    scripted.grant(2, "complain", "out of coffee")
    await scripted.report(2)
    log = ""
    while "the end" not in log:
        log += await eventually(lambda: capfd.readouterr().err)
    (line,) = [line for line in log.splitlines() if "out of coffee" in line]
    assert "fence=2 handler=complain" in line


async def test_a_handler_that_runs_keeps_what_it_has_changed_until_it_ends(leader: Any, start_worker: Any) -> None:
    await start_worker(slots=3, runners=1, selection=CARELESS)
    scripted = await leader.session()
    await scripted.until(lambda: scripted.credit == 3)
    at_first = (await found(scripted, 1))["directory"]
    scripted.grant(2, "change_and_hold", "directory")
    await scripted.started(2)
    assert (await found(scripted, 3))["directory"] == "/"
    scripted.grant(4, "hold")
    await scripted.started(4)
    scripted.send(cancelled=[2])
    await scripted.report(2)
    assert (await found(scripted, 5))["directory"] == at_first
    scripted.send(cancelled=[4])
    await scripted.report(4)


async def test_what_a_handler_adds_to_environment_and_module_path_stays_behind_the_rest(
    leader: Any, start_worker: Any
) -> None:
    service = await start_worker(slots=1, runners=1, selection=CARELESS)
    scripted = await leader.session()
    scripted.grant(1, "add_to_surroundings", "/elsewhere")
    await scripted.report(1)
    scripted.grant(2, "surroundings")
    name, first, last = json.loads((await scripted.report(2)).result)
    assert (name, last) == ("/elsewhere", "/elsewhere")
    assert first != "/elsewhere"
    del service


@pytest.mark.parametrize(
    "how",
    ["sys.exit", "KeyboardInterrupt", "SystemExit", "GeneratorExit", "CancelledError", "StopIteration", "of its own"],
)
@pytest.mark.parametrize("handler", ["end", "end_on_loop"])
async def test_whatever_a_handler_raises_fails_its_own_attempt_alone(
    leader: Any, start_worker: Any, handler: str, how: str
) -> None:
    service = await start_worker(slots=2, runners=1, selection=CARELESS)
    scripted = await leader.session()
    await scripted.until(lambda: scripted.credit == 2)
    scripted.grant(1, "hold")
    await scripted.started(1)
    scripted.grant(2, handler, how)
    assert (await scripted.report(2)).outcome == tasks.ATTEMPT_OUTCOME_FAILED
    await found(scripted, 3)
    await found(scripted, 4, "find_on_loop")
    assert 1 not in scripted.reports
    scripted.send(cancelled=[1])
    assert (await scripted.report(1)).outcome == tasks.ATTEMPT_OUTCOME_CANCELLED
    assert service.supervisor.measures.runners_lost == 0


@pytest.mark.parametrize("handler", ["abort", "crash", "leave"])
async def test_a_handler_that_dies_in_native_code_takes_no_task_of_another_runner(
    leader: Any, start_worker: Any, handler: str
) -> None:
    service = await start_worker(slots=2, runners=2, selection=CARELESS)
    scripted = await leader.session()
    await scripted.until(lambda: scripted.credit == 2)
    scripted.grant(1, "hold")
    await scripted.started(1)
    scripted.grant(2, handler)
    assert (await scripted.report(2)).outcome == tasks.ATTEMPT_OUTCOME_LOST
    assert 1 not in scripted.reports
    scripted.send(cancelled=[1])
    assert (await scripted.report(1)).outcome == tasks.ATTEMPT_OUTCOME_CANCELLED
    await found(scripted, 3)
    assert service.supervisor.measures.runners_lost == 1


@pytest.mark.parametrize(
    ("handler", "payload"),
    [
        ("leave_thread", ""),
        ("leave_task", ""),
        ("flood_logs", "20000"),
        ("flood_output", "8"),
        ("leave_descriptors", "200"),
    ],
)
async def test_what_a_handler_leaves_or_writes_harms_no_other_task(
    leader: Any, start_worker: Any, capfd: pytest.CaptureFixture[str], handler: str, payload: str
) -> None:
    service = await start_worker(slots=2, runners=1, selection=CARELESS, log_format="text")
    scripted = await leader.session()
    before = await found(scripted, 1)
    scripted.grant(2, handler, payload)
    assert (await scripted.report(2)).outcome == tasks.ATTEMPT_OUTCOME_COMPLETED
    assert await found(scripted, 3) == before
    await found(scripted, 4, "find_on_loop")
    assert service.supervisor.measures.runners_lost == 0
    capfd.readouterr()


@pytest.mark.parametrize(("handler", "payload"), [("replace_output", ""), ("use_up_descriptors", "")])
async def test_a_runner_that_a_handler_has_used_up_is_replaced_and_loses_no_task(
    leader: Any, start_worker: Any, eventually: Any, handler: str, payload: str
) -> None:
    service = await start_worker(slots=2, runners=1, selection=CARELESS)
    scripted = await leader.session()
    await scripted.until(lambda: scripted.credit == 2)
    scripted.grant(1, "hold")
    await scripted.started(1)
    (first,) = service.supervisor.fleet.pids
    scripted.grant(2, handler, payload)
    assert (await scripted.report(2)).outcome == tasks.ATTEMPT_OUTCOME_COMPLETED
    scripted.send(cancelled=[1])
    assert (await scripted.report(1)).outcome == tasks.ATTEMPT_OUTCOME_CANCELLED
    await eventually(lambda: first not in service.supervisor.fleet.pids)
    await found(scripted, 3)
    assert service.supervisor.measures.runners_lost == 0
