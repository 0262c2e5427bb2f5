"""Which role may make which call, and who makes the call that is served now."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextvars import ContextVar
from functools import lru_cache
from typing import Annotated, Any
from urllib.parse import quote, unquote

from msgspec import Meta, Struct
from msgspec.structs import replace

from gowork.base.identities import Role

_CLUSTER = "cluster.v1.LeaderService/"
_TASKS = "scheduler.v1.SchedulerService/"

#: Calls that say who leads, and who is a member.
_ANYBODY = {f"{_TASKS}GetLeader", f"{_CLUSTER}Leaders", f"{_CLUSTER}Members"}
_SEES = {
    f"{_TASKS}{name}"
    for name in (
        "GetTasks", "GetTask", "ListTasks", "WaitTasks", "WaitTask", "WatchTasks", "Stats", "Activity", "ExplainTask",
        "ListQueues", "GetSchedule", "ListSchedules", "GetGroup", "ListGroups",
    )
} | {f"{_CLUSTER}ListHandlers"}  # fmt: skip
_SCHEDULES = {
    f"{_TASKS}{name}"
    for name in (
        "ScheduleTask", "ScheduleTasks", "SubmitTasks", "CancelTask", "RetryTask", "CancelTasks", "RetryTasks",
        "UpdateTask", "AddSchedule", "PauseSchedule", "ResumeSchedule", "TriggerSchedule", "RemoveSchedule",
        "BackfillSchedule", "SealGroup",
    )
}  # fmt: skip
_WORKS = {
    "worker.v1.SessionService/Connect",
    *(f"{_CLUSTER}{name}" for name in ("Join", "Leave", "Heartbeat")),
    *(f"{_TASKS}{name}" for name in ("TaskComplete", "TaskProgress")),
}
#: Calls that are recorded whoever makes them.
ADMINISTERS = frozenset(
    {
        *(f"{_TASKS}{name}" for name in ("PurgeTasks", "PauseQueue", "ResumeQueue", "ConfigureQueue", "BackupStore")),
        *(f"{_CLUSTER}{name}" for name in ("Drain", "StepDown", "RemoveLeader", "CompareStores")),
    }
)
COPIES = f"{_CLUSTER}CopyStore"
#: Calls that concern all queues and handlers. Who is bound to some may make none of them. Which tasks and queues the
#: other calls are about is checked with each request.
CONCERN_ALL = frozenset(
    {
        *(f"{_TASKS}{name}" for name in ("GetTasks", "ListGroups", "BackupStore")),
        *(f"{_CLUSTER}{name}" for name in ("Join", "Leave", "Heartbeat")),
        *(f"{_CLUSTER}{name}" for name in ("Drain", "StepDown", "RemoveLeader", "CompareStores")),
    }
)

#: {role: the calls that it may make}. What no role has is denied to all.
CALLS: dict[Role, frozenset[str]] = {
    Role.CLIENT: frozenset(_ANYBODY | _SEES | _SCHEDULES),
    Role.WORKER: frozenset(_ANYBODY | _WORKS),
    Role.ADMIN: frozenset(_ANYBODY | _SEES | _SCHEDULES | ADMINISTERS | {f"{_CLUSTER}Leave"}),
    Role.READ_ONLY: frozenset(_ANYBODY | _SEES),
    # A heartbeat of nobody asks whether the other leader leads.
    Role.LEADER: frozenset(_ANYBODY | {COPIES, f"{_CLUSTER}Heartbeat"}),
    Role.PROXY: frozenset(),
}


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """What one identity may take of a leader; None: as much as there is for all."""

    calls_per_second: Annotated[float, Meta(gt=0)] | None = None
    #: Tasks that it schedules.
    tasks_per_second: Annotated[float, Meta(gt=0)] | None = None
    #: Tasks that are pending in a queue into which it schedules, whoever scheduled them.
    pending_tasks: Annotated[int, Meta(ge=0)] | None = None
    #: Sessions of workers that it has open.
    sessions: Annotated[int, Meta(ge=0)] | None = None
    #: Waits, watches and other streams that it has open, and besides, streams of submissions.
    streams: Annotated[int, Meta(ge=0)] | None = None

    def over(self, others: Limits) -> Limits:
        """Returns these limits, and where there is none, the other one."""
        return Limits(
            *(mine if mine is not None else theirs for mine, theirs in zip(self._all, others._all, strict=True))
        )

    @property
    def _all(self) -> tuple[Any, ...]:
        return self.calls_per_second, self.tasks_per_second, self.pending_tasks, self.sessions, self.streams


class Identity(Struct, frozen=True):
    """Who makes a call."""

    name: str
    roles: frozenset[Role]
    #: The queues and handlers whose tasks it may have to do with, as patterns with * and ?; None: all.
    queues: tuple[str, ...] | None = None
    handlers: tuple[str, ...] | None = None
    limits: Limits = Limits()
    #: The roles that the authenticator gave it; None: the leader knows it by itself.
    vouched: frozenset[Role] | None = None

    @property
    def is_bound(self) -> bool:
        """Whether it may have to do with some tasks only."""
        return self.queues is not None or self.handlers is not None

    def may(self, call: str) -> bool:
        """Whether one of its roles may make a call, named service/method."""
        return any(call in CALLS[role] for role in self.roles)

    def has_rights_of(self, other: Identity) -> bool:
        """Whether it may do what the other one may, and no more. Limits may differ."""
        return replace(self, limits=other.limits) == other

    def may_queue(self, queue: str) -> bool:
        """Whether it may have to do with tasks of this queue."""
        return self.queues is None or _matches(self.queues, queue)

    def may_handler(self, handler: str) -> bool:
        """Whether it may have to do with tasks of this handler; empty: the default one."""
        return self.handlers is None or _matches(self.handlers, handler)

    def may_lane(self, queue: str, handler: str) -> bool:
        """Whether it may have to do with tasks of this queue and handler."""
        return self.may_queue(queue) and self.may_handler(handler)

    @property
    def words(self) -> str:
        """As in "client web"."""
        if not self.roles:
            return f"{self.name}, which has no role,"
        return f"{'+'.join(sorted(role.value for role in self.roles))} {self.name}"

    def encoded(self) -> str:
        """Returns the name and the roles as a leader hands them on to another."""
        return f"{'+'.join(sorted(role.value for role in self.roles))}/{quote(self.name, safe='')}"


def decoded(text: str) -> tuple[str, frozenset[Role]]:
    """Returns the name and the roles that another leader has handed on. Unknown roles are left out.

    Raises:
        ValueError: the text has another form.
    """
    roles, separator, name = text.partition("/")
    if not separator or not name:
        raise ValueError
    return unquote(name, errors="strict"), frozenset(role for role in Role if role.value in roles.split("+"))


#: Who makes the call that is served now; None: nobody asks who callers are.
CALLER: ContextVar[Identity | None] = ContextVar("CALLER", default=None)


def caller_name() -> str:
    """Returns the name of who makes the call that is served now; empty: nobody asks who callers are."""
    caller = CALLER.get()
    return "" if caller is None else caller.name


def pending_max() -> int | None:
    """Returns how many tasks may be pending in a queue into which the caller schedules; None: any number."""
    caller = CALLER.get()
    return None if caller is None else caller.limits.pending_tasks


def _matches(patterns: Sequence[str], text: str) -> bool:
    return _compiled(tuple(patterns)).fullmatch(text) is not None


@lru_cache(4096)
def _compiled(patterns: tuple[str, ...]) -> re.Pattern[str]:
    # No pattern matches nothing, and the empty one matches the empty text.
    return re.compile("|".join(map(_translated, patterns)) if patterns else r"(?!)", re.DOTALL)


def _translated(pattern: str) -> str:
    """Returns a pattern as a regular expression. Only * and ? are special."""
    return re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
