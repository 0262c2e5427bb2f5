"""What is scheduled, and what must come of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gowork.client import NewTask, TaskInfo

#: Every kind of handler, and the share of tasks that it gets: a process of its own costs more.
KINDS = {"plain": 1.0, "plain_limited": 1.0, "plain_graced": 1.0, "on_loop": 1.0, "on_loop_limited": 1.0, "alone": 0.05}
#: Why an attempt may have been handed back though nothing is wrong: what lies behind long tasks is recalled.
_RECALLED = "waited behind long tasks"


@dataclass(frozen=True)
class Case:
    """One way to use a handler."""

    name: str
    #: What its payload says besides its number.
    plan: tuple[str, ...] = ()
    status: str = "COMPLETED"
    #: The outcome of each attempt by its number; the last one's ends the task.
    outcomes: tuple[str, ...] = ("COMPLETED",)
    #: Of the task.
    options: dict[str, Any] = field(default_factory=dict)
    #: How many of the tasks are of this case: those that hold a slot for long are few.
    share: float = 1.0
    #: The client cancels it.
    is_cancelled: bool = False


CASES = (
    Case("nothing"),
    Case("yields", ("yield",)),
    Case("tells", ("progress", "log", "spans", "state")),
    Case("retries", ("retry",), outcomes=("FAILED", "FAILED", "COMPLETED")),
    Case("snoozes", ("snooze", "progress"), outcomes=("SNOOZED", "COMPLETED")),
    Case("follows", ("follow",)),
    Case("fails", ("progress", "fail"), "ERROR", ("FAILED",)),
    Case("unspeakable", ("unspeakable",), "ERROR", ("FAILED",), {"retry": 1}),
    Case("cancels itself", ("cancel_itself",), "CANCELLED", ("CANCELLED",)),
    Case("late", ("hold",), "ERROR", ("TIMED_OUT",), {"retry": 1, "time_limit": 0.05}, share=0.1),
    Case("cancelled", ("progress", "hold"), "CANCELLED", ("CANCELLED",), share=0.1, is_cancelled=True),
    Case("keyed", ("yield",), options={"concurrency_key": "one"}, share=0.2),
    Case("limited", ("log",), options={"time_limit": 120, "priority": "high", "queue": "fast"}),
)


def tasks_of(name: str, number: int) -> Iterator[tuple[Case, NewTask]]:
    """All cases with all kinds of handlers, mixed, `number` of each that has a whole share."""
    for n in range(number):
        for case in CASES:
            for kind, share in KINDS.items():
                # This share of each hundred, spread evenly.
                if n and int(n * share * case.share) == int((n - 1) * share * case.share):
                    continue
                plan = {"n": n, **dict.fromkeys(case.plan, 1)}
                options = {"priority": ("low", "medium", "high")[n % 3], **case.options}
                yield case, NewTask(plan, id=f"{name}/{case.name}/{kind}/{n}", handler=kind, **options)


def fault_of(case: Case, task: TaskInfo) -> str | None:
    """What is wrong with a task that has ended; None when nothing is."""
    ran = [attempt for attempt in task.attempts if _RECALLED not in attempt.reason]
    outcomes = tuple(attempt.outcome.value for attempt in ran)
    # A handler goes by the number of its attempt, and those that were recalled have one too.
    wanted = tuple(case.outcomes[min(attempt.number, len(case.outcomes)) - 1] for attempt in ran)
    # One that is cancelled before it has started has no attempt.
    is_whole = bool(ran) or case.is_cancelled
    if task.status.value == case.status and is_whole and outcomes == wanted and case.outcomes[-1] not in outcomes[:-1]:
        return None
    failure = f"{task.failure.type}: {task.failure.message}"[:200] if task.failure is not None else ""
    return f"{task.id}: {task.status.value} after {outcomes}, not {case.status} after {case.outcomes}. {failure}"
