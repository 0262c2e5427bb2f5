"""Which role may make which call, as a table that is written down twice."""

from __future__ import annotations

import pytest
from access_callers import ALL_CALLS

from gowork.base.identities import Role
from gowork.leader._access.rights import ADMINISTERS, CALLS, Identity, Limits, decoded

#: {role: the calls that it may make besides those of everybody with a role}.
MAY = {
    "client": "GetTasks GetTask ListTasks WaitTasks WaitTask WatchTasks Stats Activity ExplainTask ListQueues "
    "ListHandlers GetSchedule ListSchedules GetGroup ListGroups "
    "ScheduleTask ScheduleTasks SubmitTasks CancelTask RetryTask CancelTasks RetryTasks UpdateTask SealGroup "
    "AddSchedule PauseSchedule ResumeSchedule TriggerSchedule RemoveSchedule BackfillSchedule",
    "worker": "Connect Join Leave Heartbeat TaskComplete TaskProgress",
    "admin": "GetTasks GetTask ListTasks WaitTasks WaitTask WatchTasks Stats Activity ExplainTask ListQueues "
    "ListHandlers GetSchedule ListSchedules GetGroup ListGroups "
    "AddSchedule PauseSchedule ResumeSchedule TriggerSchedule RemoveSchedule BackfillSchedule "
    "ScheduleTask ScheduleTasks SubmitTasks CancelTask RetryTask CancelTasks RetryTasks UpdateTask SealGroup "
    "PurgeTasks PauseQueue ResumeQueue ConfigureQueue BackupStore Leave Drain StepDown RemoveLeader CompareStores",
    "read-only": "GetTasks GetTask ListTasks WaitTasks WaitTask WatchTasks Stats Activity ExplainTask ListQueues "
    "ListHandlers GetSchedule ListSchedules GetGroup ListGroups",
    "leader": "CopyStore Heartbeat",
}
EVERYBODY = {"GetLeader", "Leaders", "Members"}


@pytest.mark.parametrize("role", MAY)
def test_a_role_has_these_calls_and_no_others(role: str) -> None:
    assert {call.partition("/")[2] for call in CALLS[Role(role)]} == EVERYBODY | set(MAY[role].split())


def test_a_proxy_makes_no_call_in_its_own_name() -> None:
    assert CALLS[Role.PROXY] == frozenset()


def test_what_an_admin_alone_may_is_recorded() -> None:
    others = frozenset().union(*(calls for role, calls in CALLS.items() if role is not Role.ADMIN))
    assert CALLS[Role.ADMIN] - others == ADMINISTERS
    assert ALL_CALLS.keys() >= ADMINISTERS


# How a leader says to another one who calls.


@pytest.mark.parametrize("name", ["web", "a b", "x/y", "ü€", "50%", "a+b", " "])
def test_who_is_handed_on_is_the_same_on_the_other_side(name: str) -> None:
    roles = frozenset({Role.READ_ONLY, Role.CLIENT})
    text = Identity(name, roles).encoded()
    assert text.isascii()
    assert text.isprintable()
    assert decoded(text) == (name, roles)


@pytest.mark.parametrize("text", ["", "client", "client/", "/", "client/%ff"])
def test_who_is_handed_on_in_another_form_is_nobody(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the message is of no use to the other leader
        decoded(text)


def test_roles_that_are_not_known_give_no_rights() -> None:
    assert decoded("clientele+non-admin+read/x") == ("x", frozenset())


def test_limits_may_change_while_a_stream_is_open_and_nothing_else() -> None:
    before = Identity("w", frozenset({Role.WORKER}), None, ("h",), Limits(streams=1))
    assert Identity("w", frozenset({Role.WORKER}), None, ("h",), Limits(streams=2)).has_rights_of(before)
    for other in (
        Identity("x", frozenset({Role.WORKER}), None, ("h",), Limits(streams=1)),
        Identity("w", frozenset({Role.WORKER, Role.CLIENT}), None, ("h",), Limits(streams=1)),
        Identity("w", frozenset({Role.WORKER}), ("q",), ("h",), Limits(streams=1)),
        Identity("w", frozenset({Role.WORKER}), None, None, Limits(streams=1)),
    ):
        assert not other.has_rights_of(before)
