"""What a task asks for, from the message and from what the store keeps of it."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError

from gowork.leader._core.model import Priority
from gowork.leader._wire import specs
from gowork.leader._wire.specs import spec_from, stored_spec, trace_bytes
from gowork.proto.limits import TIME_MS_MAX
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb

CREATED_MS = 1_700_000_000_000
CONTEXT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TASKS = {
    "plain": pb.Task(id="t", payload="p"),
    "in a lane": pb.Task(id="t", queue="q", handler="h", priority=pb.TASK_PRIORITY_HIGH, selector={"b": "1", "a": "2"}),
    "keyed and labelled": pb.Task(id="t", concurrency_key="k", labels={"z": "1", "y": "2"}),
    "in moments": pb.Task(id="t", run_at_ms=CREATED_MS + 1, expires_at_ms=CREATED_MS + 2, time_limit_ms=3),
    "in lengths of time": pb.Task(id="t", delay_ms=5, expires_in_ms=7),
    "with a policy": pb.Task(id="t", retry=pb.RetryPolicy(max_attempts=3, no_retry=["ValueError"])),
    "traced": pb.Task(id="t", data=b"d", traceparent=CONTEXT, tracestate="a=b"),
    "traced, with a form": pb.Task(id="t", payload="p", traceparent=CONTEXT, payload_form=pb.PAYLOAD_FORM_TEXT),
    "with a form": pb.Task(id="t", payload="p", payload_form=pb.PAYLOAD_FORM_TEXT),
}


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
def test_what_is_stored_reads_as_what_was_asked(task: pb.Task) -> None:
    asked = spec_from(pb.Task.FromString(task.SerializeToString()))
    assert stored_spec(asked.body + asked.trace, CREATED_MS) == asked.reckoned(CREATED_MS)
    assert pb.Task.FromString(asked.body + asked.trace) == task


def test_what_only_the_leader_sets_is_not_asked_for() -> None:
    plain = spec_from(pb.Task(id="t", payload="p"))
    assert spec_from(pb.Task(id="t", payload="p", status=pb.TASK_STATUS_COMPLETED, fence=7, worker="w")) == plain


def test_the_trace_of_a_batch_is_that_of_its_tasks_without_one() -> None:
    other = trace_bytes(CONTEXT.replace("4bf9", "5bf9"), "")
    assert spec_from(pb.Task(id="t"), other).trace == other
    assert spec_from(pb.Task(id="t", traceparent=CONTEXT), other).trace == trace_bytes(CONTEXT, "")


def test_equal_bodies_are_the_same_task_whatever_its_trace() -> None:
    traced = pb.Task(id="t", payload="p", traceparent=CONTEXT, payload_form=pb.PAYLOAD_FORM_TEXT)
    assert spec_from(traced).body == spec_from(pb.Task(id="t", payload="p")).body


def test_a_trace_among_the_fields_of_a_stored_body_stays_there() -> None:
    # As a leader kept it that did not know the field: in the order of the client's own bytes.
    stored = trace_bytes(CONTEXT, "") + pb.Task(id="t", payload="p").SerializeToString()
    spec = stored_spec(stored, CREATED_MS)
    assert (spec.id, spec.body, spec.trace) == ("t", stored, b"")


def test_moments_follow_from_when_a_stored_task_was_submitted() -> None:
    asked = spec_from(pb.Task(id="t", delay_ms=5, expires_in_ms=7))
    stored = stored_spec(asked.body, CREATED_MS)
    assert (stored.run_at_ms, stored.expires_at_ms) == (CREATED_MS + 5, CREATED_MS + 7)


def test_a_task_without_queue_and_priority_has_the_defaults() -> None:
    assert (spec_from(pb.Task(id="t")).lane.queue, spec_from(pb.Task(id="t")).lane.priority) == (
        "default",
        Priority.LOW,
    )


def test_bytes_that_are_no_task_are_an_error() -> None:
    with pytest.raises(DecodeError):
        stored_spec(b"\xff\xff", CREATED_MS)


def test_the_status_alone_is_not_asked_for() -> None:
    assert spec_from(pb.Task(id="t", status=pb.TASK_STATUS_COMPLETED)) == spec_from(pb.Task(id="t"))


def test_a_stored_time_beyond_the_last_one_is_the_last_one() -> None:
    stored = pb.Task(id="t", run_at_ms=TIME_MS_MAX + 1, expires_at_ms=TIME_MS_MAX + 2).SerializeToString()
    spec = stored_spec(stored, CREATED_MS)
    assert (spec.run_at_ms, spec.expires_at_ms) == (TIME_MS_MAX, TIME_MS_MAX)


def test_a_bounded_number_of_lanes_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specs, "_lanes", {})
    monkeypatch.setattr(specs, "_LANES_KEPT_MAX", 2)
    lanes = [spec_from(pb.Task(id="t", queue=str(number))).lane.queue for number in range(5)]
    assert (lanes, len(specs._lanes)) == (["0", "1", "2", "3", "4"], 1)
