"""The tasks of a soak, and how each of them must end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gowork.client import NewTask, TaskInfo

#: {kind of handler: its share of the tasks}; the kind in a process of its own has few, because it costs more.
KINDS = {"plain": 1.0, "plain_limited": 1.0, "plain_graced": 1.0, "on_loop": 1.0, "on_loop_limited": 1.0, "alone": 0.05}
#: The reason of attempts that were rightly handed back: tasks that wait behind long ones are recalled.
_RECALLED = "waited behind long tasks"


@dataclass(frozen=True)
class Case:
    """One way to use a handler."""

    name: str
    #: The words of its payload, which tell the handler what to do.
    plan: tuple[str, ...] = ()
    status: str = "COMPLETED"
    #: The outcome of each attempt by its number; the last one ends the task.
    outcomes: tuple[str, ...] = ("COMPLETED",)
    #: The task's options.
    options: dict[str, Any] = field(default_factory=dict)
    #: The share of tasks of this case; it is small for those that hold a slot for long.
    share: float = 1.0
    #: Whether the client cancels the task.
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
    """All cases with all kinds of handlers, mixed: `number` of each whose share is 1, fewer of others."""
    for n in range(number):
        for case in CASES:
            for kind, share in KINDS.items():
                # The share's tasks are spread evenly.
                if n and int(n * share * case.share) == int((n - 1) * share * case.share):
                    continue
                plan = {"n": n, **dict.fromkeys(case.plan, 1)}
                options = {"priority": ("low", "medium", "high")[n % 3], **case.options}
                yield case, NewTask(plan, id=f"{name}/{case.name}/{kind}/{n}", handler=kind, **options)


def fault_of(case: Case, task: TaskInfo) -> str | None:
    """A sentence about what is wrong with a task that has ended; None when nothing is."""
    ran = [attempt for attempt in task.attempts if _RECALLED not in attempt.reason]
    outcomes = tuple(attempt.outcome.value for attempt in ran)
    # A handler goes by the number of its attempt, and recalled attempts have numbers too.
    wanted = tuple(case.outcomes[min(attempt.number, len(case.outcomes)) - 1] for attempt in ran)
    # A task that is cancelled before it has started has no attempt.
    is_whole = bool(ran) or case.is_cancelled
    if task.status.value == case.status and is_whole and outcomes == wanted and case.outcomes[-1] not in outcomes[:-1]:
        return None
    failure = f"{task.failure.type}: {task.failure.message}"[:200] if task.failure is not None else ""
    return f"{task.id}: {task.status.value} after {outcomes}, not {case.status} after {case.outcomes}. {failure}"
