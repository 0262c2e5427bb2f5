"""What the client knows of the fields that a leader reads, and for how long."""

from __future__ import annotations

import pytest

from gowork.client import LeaderTooOld
from gowork.client import _leader_fields as leader_fields
from gowork.client._leader_fields import BELIEVED_S, HARMLESS, KNOWN_HERE, SINCE_0_1_0, LeaderFields, Told
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler

HARMLESS_TASK = scheduler.Task(
    id="a",
    payload="[]",
    payload_form=scheduler.PAYLOAD_FORM_TEXT,
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    tracestate="vendor=1",
)
OLD = {
    "0.1.0": LeaderFields.before_0_2_0("0.1.0"),
    "a leader that tells": LeaderFields.told(
        scheduler.GetLeaderResponse(version="0.2.0", request_fields=KNOWN_HERE - HARMLESS - SINCE_0_1_0)
    ),
    "the original": leader_fields.THE_ORIGINAL,
}


@pytest.mark.parametrize("fields", OLD.values(), ids=OLD)
def test_a_task_with_fields_that_only_tell_more_is_sent_to_any_leader(fields: LeaderFields) -> None:
    task = scheduler.Task()
    task.CopyFrom(HARMLESS_TASK)
    fields.fit(task, 0, "host:1")
    assert task == HARMLESS_TASK


@pytest.mark.parametrize("fields", OLD.values(), ids=OLD)
def test_a_range_of_versions_is_not_sent_to_a_leader_that_would_drop_it(fields: LeaderFields) -> None:
    with pytest.raises(LeaderTooOld, match="plugin_version"):
        fields.fit(scheduler.Task(id="a", plugin_version=">=1"), 0, "host:1")


@pytest.mark.parametrize("fields", OLD.values(), ids=OLD)
def test_a_unique_key_is_not_sent_to_a_leader_that_would_drop_it(fields: LeaderFields) -> None:
    with pytest.raises(LeaderTooOld, match="unique_key"):
        fields.fit(scheduler.Task(id="a", unique_key="k"), 0, "host:1")


@pytest.mark.parametrize("fields", OLD.values(), ids=OLD)
def test_a_task_after_others_is_not_sent_to_a_leader_that_would_run_it_before_them(fields: LeaderFields) -> None:
    with pytest.raises(LeaderTooOld, match="after"):
        fields.fit(scheduler.Task(id="a", after=["b"]), 0, "host:1")


@pytest.mark.parametrize("fields", OLD.values(), ids=OLD)
def test_a_task_that_must_not_run_twice_is_not_sent_to_a_leader_that_would_run_it_again(fields: LeaderFields) -> None:
    with pytest.raises(LeaderTooOld, match="on_lost"):
        fields.fit(scheduler.Task(id="a", on_lost=scheduler.ON_LOST_FAIL), 0, "host:1")


def test_a_field_of_another_field_is_looked_at() -> None:
    request = scheduler.ScheduleTasksRequest(tasks=[scheduler.Task(delay_ms=1)])
    with pytest.raises(LeaderTooOld, match="delay_ms"):
        OLD["0.1.0"].check(request, "host:1")


def test_what_a_leader_has_told_is_believed_for_a_while_and_not_beyond_a_broken_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [5.0]
    monkeypatch.setattr(leader_fields.time, "monotonic", lambda: now[0])
    told = Told()
    assert told.get() is None
    fields = told.put(OLD["0.1.0"])
    now[0] += BELIEVED_S - 1
    assert told.get() is fields
    now[0] += 1
    assert told.get() is None
    told.put(fields)
    told.forget()
    assert told.get() is None
