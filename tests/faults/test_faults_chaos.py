"""A chaos run that is short enough for CI, and histories that its checker must refuse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from chaos_faults import Event, Kind, plan
from chaos_history import Execution, History, read_executions
from chaos_load import Ledger
from run_chaos import run

from gowork.client import Attempt, AttemptOutcome, Failure, FailureKind, TaskInfo, TaskStatus

#: Its plan kills each kind of process within the first seconds.
SEED = 11
SECONDS = 7.0
COMPLETED, LOST = AttemptOutcome.COMPLETED, AttemptOutcome.LOST


def test_one_seed_gives_one_plan() -> None:
    assert plan(3, 60) == plan(3, 60) != plan(4, 60)


@pytest.mark.longer
def test_nothing_is_lost_or_unexplained_while_processes_are_killed_and_stopped(tmp_path: Path) -> None:
    result = run(tmp_path, SECONDS, SEED)
    assert list(result.found) == []
    kinds = {event.kind for event in result.events}
    assert kinds >= {Kind.KILL_RUNNER, Kind.KILL_WORKER, Kind.KILL_LEADER}
    assert len(result.history.ledger.acknowledged) > 200


def attempt(number: int, outcome: AttemptOutcome = COMPLETED, *, worker: str = "w1", **fields: float) -> Attempt:
    """Attempt n has the fence 10 n, and lasts from second 10 n to 10 n + 1."""
    at = {"started": 10.0 * number, "ended": 10.0 * number + 1} | fields
    started, ended = (datetime.fromtimestamp(at[name], UTC) for name in ("started", "ended"))
    return Attempt(number, worker, outcome, started, ended, "", 10 * number)


def execution(number: int, *, id: str = "t", worker: str = "w1", how: str = "returned", **fields: float) -> Execution:
    """The run of the attempt with this number, in a process of its own."""
    started, ended = fields.get("started", 10.0 * number), fields.get("ended", 10.0 * number + 1)
    return Execution(id, 10 * number, number, number, worker, started, int(started * 1000), ended, how)


def task(*attempts: Attempt, id: str = "t", **fields: object) -> TaskInfo:
    """A completed task with these attempts."""
    fence = attempts[-1].fence
    used = sum(attempt.outcome in (COMPLETED, AttemptOutcome.FAILED) for attempt in attempts)
    found = TaskInfo(
        id, TaskStatus.COMPLETED, "quick", attempts=attempts, fence=fence, result=str(fence), attempts_used=used
    )
    return replace(found, **fields)  # type: ignore[arg-type]


def history(found: TaskInfo, *executions: Execution, events: tuple[Event, ...] = (), **ledger: object) -> History:
    """The history of one task."""
    known = Ledger(**({"acknowledged": {found.id: None}} | ledger))  # type: ignore[arg-type]
    return History({found.id: found}, executions, known, events, 0.0)


KILLED = Event(Kind.KILL_WORKER, "w1", 10.5, 12.0, frozenset({1}))
#: The worker of the first attempt was cut off, and its run went on beside the second.
CUT_OFF = replace(KILLED, kind=Kind.STOP_SUPERVISOR, until=25.0)
LATE = execution(1, ended=20.5)


@pytest.mark.parametrize(
    "explained",
    [
        history(task(attempt(1)), execution(1)),
        history(task(attempt(1, LOST), attempt(2)), execution(2), events=(KILLED,)),
        history(task(attempt(1, LOST), attempt(2)), LATE, execution(2), events=(CUT_OFF,)),
        history(
            task(attempt(1, LOST), attempt(2)), execution(1, started=20.4, ended=20.5), execution(2), events=(CUT_OFF,)
        ),
        history(task(attempt(1, AttemptOutcome.INTERRUPTED), attempt(2)), execution(2)),
    ],
    ids=["plain", "killed", "cut off", "cut off and late", "handed back"],
)
def test_a_history_that_is_explained_has_no_findings(explained: History) -> None:
    assert explained.found() == []


FAILED_FOR_GOOD = {"status": TaskStatus.ERROR, "result": ""}
BAD: dict[str, Callable[[], History]] = {
    "acknowledged tasks are never lost": lambda: history(
        task(attempt(1)), execution(1), acknowledged={"t": None, "gone": None}
    ),
    "no call is refused": lambda: history(task(attempt(1)), execution(1), errors=["INTERNAL"]),
    "every execution is an attempt on record": lambda: history(task(attempt(1)), execution(1), execution(2)),
    "an attempt runs at most once": lambda: history(task(attempt(1)), execution(1), execution(1)),
    "every task ends": lambda: history(task(attempt(1, AttemptOutcome.FAILED), status=TaskStatus.PENDING)),
    "a completed task has one completion": lambda: history(
        task(attempt(1), attempt(2)), execution(1), execution(2)
    ),
    "a completion is final": lambda: history(task(attempt(1), **FAILED_FOR_GOOD), execution(1)),
    "the result is that of the attempt that was accepted": lambda: history(
        task(attempt(1), result="9"), execution(1)
    ),
    "only blameworthy attempts count": lambda: history(task(attempt(1), attempts_used=2), execution(1)),
    "a task ends as its kind says": lambda: history(task(attempt(1), handler="hopeless"), execution(1)),
    "nothing is cancelled that nobody cancelled": lambda: history(
        task(attempt(1, AttemptOutcome.CANCELLED), status=TaskStatus.CANCELLED), execution(1)
    ),
    "attempts are numbered from 1": lambda: history(task(attempt(2)), execution(2)),
    "fences only grow": lambda: history(
        task(replace(attempt(1, LOST), fence=30), attempt(2)), execution(2), events=(KILLED,)
    ),
    "an attempt that ended by itself is one that ran so": lambda: history(task(attempt(1))),
    "a handler knows its attempt": lambda: history(task(attempt(1)), execution(1, worker="w2")),
    "no task runs twice at once": lambda: history(
        task(attempt(1, AttemptOutcome.INTERRUPTED), attempt(2)), LATE, execution(2)
    ),
    "fences grow in the order of starts": lambda: history(
        task(attempt(1, AttemptOutcome.INTERRUPTED), attempt(2)), execution(1, started=30.0, ended=31.0), execution(2)
    ),
    "an attempt is lost by a fault alone": lambda: history(
        task(attempt(1, LOST), attempt(2)), execution(2), events=(replace(KILLED, target="w2"),)
    ),
    "only a task whose runner died under it is quarantined": lambda: history(
        task(
            attempt(1, LOST), failure=Failure(FailureKind.QUARANTINED, "", "", ""), **FAILED_FOR_GOOD
        ),
        execution(1),
        events=(KILLED,),
    ),
    "a cancelled task is not started again": lambda: history(
        task(attempt(1, AttemptOutcome.INTERRUPTED), attempt(2)), execution(2), cancels={"t": None}, cancelled={"t": 9}
    ),
    "nothing starts before its time": lambda: history(
        task(attempt(1), run_at=datetime.fromtimestamp(11, UTC)), execution(1)
    ),
    "follow-ups are scheduled with a completion, or not at all": lambda: history(
        task(attempt(1), handler="parent", payload='{"children": 1}'), execution(1)
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", BAD)
def test_each_rule_is_found_broken(rule: str) -> None:
    assert any(found.startswith(rule) for found in BAD[rule]().found())


def test_records_of_a_killed_process_have_no_end(tmp_path: Path) -> None:
    path = tmp_path / "7.chaos"
    path.write_text(
        '["start", "a", 1, 1, 7, "w", 1000000000, 5]\n'
        '["start", "b", 2, 1, 7, "w", 1500000000, 6]\n'
        '["end", "a", 1, 1, 7, "w", 2000000000, 7, "returned"]\n'
    )
    assert read_executions([path]) == [
        Execution("a", 1, 1, 7, "w", 1.0, 5, 2.0, "returned"),
        Execution("b", 2, 1, 7, "w", 1.5, 6),
    ]
